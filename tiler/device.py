"""One thread per device: it alone runs models there, and it answers for every window that it takes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from queue import SimpleQueue

import numpy as np

from model_registry import ModelError, StoppedError
from tiler.answers import nothing, scores_of
from tiler.errors import DeviceError, InferenceError
from tiler.layer import Layer
from tiler.ready import Call, Ready, Work
from tiler.values import PRECISE, Cell, Rect, Scores
from tiler.windows import Block

logger = logging.getLogger(__name__)

# How often an idle device's thread shows that it is alive, in seconds.
HEARTBEAT = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What the model said of a block: the scores of its window."""

    block: Block
    window: Rect
    scores: Scores


class Device:
    """A device's thread. Models keep thread-local state, and two forwards at once would only fight for the cores.

    Attributes:
        name: `cpu`, `cuda:0`.
        batch: windows of one shape that go through a model together at most.
        forwards, windows, pixels: forward passes, and windows and pixels put through models so far.
        busy: seconds spent in models so far.
        rate: pixels per second lately; 0 until a window has been answered.
        dead: what killed the device; it takes nothing more then.
    """

    def __init__(
        self,
        name: str,
        ready: Ready,
        wanted: Callable[[list[Work]], list[Work]],
        settle: Callable[[Work, list[Part]], None],
        fail: Callable[[Work, BaseException], None],
        died: Callable[[], None],
        batch: int,
    ) -> None:
        """Start the thread.

        Args:
            name: the device.
            ready: where it takes windows from.
            wanted: asked before windows are put through a model; returns those to go on with, still of one shape.
            settle: called with a window's answers, several where it was halved.
            fail: called with what went wrong with a window.
            died: called when it takes nothing more.
            batch: see above.
        """
        self.name, self.batch = name, batch
        self.forwards = 0
        self.windows = 0
        self.pixels = 0
        self.busy = 0.0
        self.rate = 0.0
        self.dead: BaseException | None = None
        self._ready, self._wanted, self._settle, self._fail, self._died = ready, wanted, settle, fail, died
        # Cutting an answer up and waking those who wait is not the device's work: it goes on meanwhile.
        self._answers: SimpleQueue[tuple[Work, list[Part]] | None] = SimpleQueue()
        self._closing = False
        self._working = False
        # What is in a model now; whoever stops it must not meet the next one.
        self._inside: list[Work] = []
        self._door = threading.Lock()
        self._began = 0.0
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name=f"device-{name}", daemon=True)
        self._settler = threading.Thread(target=self._settle_loop, name=f"settle-{name}", daemon=True)
        self._settler.start()
        self._thread.start()

    @property
    def heartbeat_age(self) -> float:
        """Seconds since the thread last showed life; while it runs a model, since that began."""
        return time.monotonic() - self._beat

    @property
    def alive(self) -> bool:
        """Whether the device still takes windows."""
        return self.dead is None and self._thread.is_alive() and self._settler.is_alive()

    @property
    def elapsed(self) -> float:
        """Seconds that the window on the device has been running, 0 when none is."""
        return time.monotonic() - self._began if self._working else 0.0

    @property
    def inside(self) -> Work | None:
        """The window that is in a model now; None when none is, or several are."""
        inside = self._inside
        return inside[0] if len(inside) == 1 else None

    def stop(self, work: Work) -> bool:
        """Give up a window if it is in a model now and its runtime can; nobody hears of it then."""
        with self._door:
            return self.inside is work and work.layer.loaded.runner_on(self.name).stop()

    @property
    def stopped(self) -> bool:
        """Whether it takes nothing more: dead, or closing."""
        return self.dead is not None or self._closing

    def check(self) -> None:
        """Raise a DeviceError when the device is dead or closing."""
        if self.stopped:
            raise DeviceError(f"device {self.name} is not running", "The server has to be restarted") from self.dead

    def call(self, run: Callable[[], object]) -> Future[None]:
        """Queue something that has to run in this thread; the future has its error, also when it never ran.

        Raises:
            DeviceError: the device is dead or closing.
        """
        self.check()
        call = Call(self.name, run, Future())
        self._ready.put(call)
        if self.stopped:
            # It may have stopped just before, and looked for what nobody will do before this was there.
            self._died()
        return call.done

    def close(self) -> None:
        """Finish what runs, and stop."""
        self._closing = True
        self._ready.wake()
        self._thread.join()
        self._settler.join()

    def _loop(self) -> None:
        works: list[Work] = []
        try:
            while (taken := self._next()) is not None:
                self._began, self._working = time.monotonic(), True
                if isinstance(taken, Call):
                    self._run(taken)
                else:
                    works = taken
                    self._answer(works)
                self._working = False
                works, taken = [], []  # waiting for the next must not keep this one's model in memory
        except BaseException as error:  # the thread must not die without a word
            logger.exception("device %s died", self.name)
            self.dead = error
            for work in works:
                if not work.over and not work.done:
                    self._fail(work, error)
        finally:
            self._working = False
            self._closing = True
            self._answers.put(None)
            self._died()

    def _next(self) -> list[Work] | Call | None:
        return self._ready.take(self.name, self.batch, lambda: self._closing, HEARTBEAT, self._show_life)

    def _show_life(self) -> None:
        self._beat = time.monotonic()

    def _settle_loop(self) -> None:
        """In a thread of its own: hand answers over."""
        while (answer := self._answers.get()) is not None:
            work, parts = answer
            try:
                self._settle(work, parts)
            except Exception as error:  # whoever waits must hear of it, whatever it is
                logger.exception("the answer to %s could not be kept", work.window)
                self._fail(work, _in_our_words(error, work))
            del answer, work, parts

    def _run(self, call: Call) -> None:
        try:
            call.run()
        except BaseException as error:  # whoever waits must hear of it, whatever it is
            if not isinstance(error, Exception) or _is_sticky(error, self.name):
                self.dead = error
            call.done.set_exception(error)
            if self.dead is not None:
                raise
        else:
            call.done.set_result(None)

    def _answer(self, works: list[Work]) -> None:
        """Every error reaches exactly the work that caused it; one that no other device call would survive ends all."""
        works = self._wanted(works)
        if not works:
            return
        started = time.monotonic()
        for work in works:
            work.started = started
        answers: list[list[Part]] = []
        failure: Exception | None = None
        self._inside = works
        try:
            answers = self._infer(works)
        except Exception as error:  # whatever it is, whoever waits must hear of it
            failure = error
        finally:
            with self._door:
                self._inside = []
        done = time.monotonic()
        self.busy += done - started
        if isinstance(failure, StoppedError):
            return  # whoever stopped it has told everybody
        if failure is not None:
            self._tell(works, failure)
            return
        rate = sum(work.window.pixels for work in works) / max(done - started, 1e-6)
        self.rate = rate if self.rate == 0 else 0.7 * self.rate + 0.3 * rate
        for work, parts in zip(works, answers, strict=True):
            work.done = done
            self._answers.put((work, parts))

    def _tell(self, works: list[Work], error: Exception) -> None:
        if _is_sticky(error, self.name):
            # Known before anybody hears of the error: who asks again must not be let in.
            self.dead = error
        elif len(works) > 1:
            # One of them may be to blame for it, and must not take the others with it.
            for work in works:
                self._answer([work])
            return
        for work in works:
            self._fail(work, _in_our_words(error, work))
        if self.dead is not None:
            raise error

    def _infer(self, works: list[Work]) -> list[list[Part]]:
        """The windows' answers. Out of memory halves the batch, or the window, and tries again, once."""
        try:
            return [[part] for part in self._forward(works)]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(works) > 1:
                logger.warning("out of memory on %s, batch of %s halved", self.name, len(works))
                middle = len(works) // 2
                return [[part] for half in (works[:middle], works[middle:]) for part in self._forward(half)]
            (work,) = works
            halves = work.block.halves() if work.layer.window_shape is None else None
            if halves is None:
                raise
            logger.warning("out of memory on %s, window halved: %s", self.name, work.window)
        return [[part for half in halves for part in self._forward([_half(work, half)])]]

    def _forward(self, works: list[Work]) -> list[Part]:
        """One forward pass over all windows that have any data; they have one shape."""
        full = [work for work in works if work.valid.any()]
        found = dict(zip(map(id, full), self._predict(full), strict=True)) if full else {}
        return [found.get(id(work)) or _empty(work) for work in works]

    def _predict(self, works: list[Work]) -> list[Part]:
        layer = works[0].layer
        pixels = np.stack([work.pixels for work in works])
        wanted = works[0].probabilities
        answer = layer.loaded.runner_on(self.name)(pixels, probabilities=bool(wanted))
        self.forwards += 1
        self.windows += len(works)
        self.pixels += sum(work.window.pixels for work in works)
        return [
            Part(work.block, work.window, scores_of(layer.model, answer, number, work.valid, wanted == PRECISE))
            for number, work in enumerate(works)
        ]


def _empty(work: Work) -> Part:
    """The answer to a window without any data, which no network is asked for."""
    return Part(work.block, work.window, nothing(work.layer.model, work.valid, work.probabilities))


def split(layer: Layer, part: Part) -> dict[Cell, Scores]:
    """Cut a window's answer into what its cells keep. The rest of the halo and what lies beyond the scene are dropped.

    Arrays are copies.
    """
    cells = {}
    for cell in part.block.cells():
        kept = layer.grid.kept_of(cell)
        top, left = kept.row_off - part.window.row_off, kept.col_off - part.window.col_off
        cells[cell] = part.scores.cut(slice(top, top + kept.height), slice(left, left + kept.width))
    return cells


def joined(layer: Layer, block: Block, parts: list[Part]) -> Scores:
    """The scores of a block's own pixels [rows, cols] as far as the scene reaches; arrays are copies.

    Args:
        layer: whose.
        block: what was asked for.
        parts: its answers, side by side where the window was halved.
    """
    whole = _inside(layer, block)
    found: Scores | None = None
    for part in parts:
        core = _inside(layer, part.block)
        top, left = core.row_off - part.window.row_off, core.col_off - part.window.col_off
        own = part.scores.cut(slice(top, top + core.height), slice(left, left + core.width))
        if core == whole:
            return own
        found = found or own.enlarged(whole.height, whole.width)
        found.put(core.row_off - whole.row_off, core.col_off - whole.col_off, own)
    assert found is not None, "every answer has a part"
    return found


def _inside(layer: Layer, block: Block) -> Rect:
    """A block's own pixels without those beyond the scene, which are there for the sake of the window's size."""
    core, grid = layer.grid.core_of(block.first, block.last), layer.grid
    return Rect(
        core.row_off,
        core.col_off,
        min(core.height, grid.height - core.row_off),
        min(core.width, grid.width - core.col_off),
    )


def _half(work: Work, block: Block) -> Work:
    """The same window's pixels, as far as a part of its block needs them."""
    half = replace(work)
    half.shrink(block)
    return half


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller window or batch may do."""
    # Every runtime has its own class for it; the words are the same.
    text = str(error).casefold()
    return isinstance(error, MemoryError) or "out of memory" in text or "failed to allocate" in text


def _is_sticky(error: BaseException, device: str) -> bool:
    """A CUDA error other than out of memory poisons the context: nothing will run there any more."""
    return device != "cpu" and "cuda" in str(error).casefold() and not is_out_of_memory(error)


def _in_our_words(error: Exception, work: Work) -> Exception:
    if isinstance(error, InferenceError):
        return error
    if isinstance(error, ModelError):
        told = DeviceError(f"model {work.layer.model.name!r}: {error.reason}", error.remedy)
        told.__cause__ = error
        return told
    told = DeviceError(
        f"model {work.layer.model.name!r} failed with {type(error).__name__} on {work.window.height} x "
        f"{work.window.width} px",
        "Look into the server's log; `tiler info` shows what the model expects",
    )
    told.__cause__ = error
    return told
