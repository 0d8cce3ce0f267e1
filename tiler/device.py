"""One thread per device: it alone runs models there, and it answers for every window that it takes."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_registry import ModelError
from tiler.answers import nothing, scores_of
from tiler.errors import DeviceError, InferenceError
from tiler.layer import Layer
from tiler.values import Cell, Mask, Rect, Scores
from tiler.windows import Block

logger = logging.getLogger(__name__)

# How often an idle device's thread shows that it is alive, in seconds.
HEARTBEAT = 1.0


@dataclass(eq=False)
class Work:
    """A window on its way: from a reader to the device, with the moments (seconds, monotonic) it passed.

    Attributes:
        layer, block, probabilities: what to infer.
        cells: those of the block that this window answers for; the others are somebody else's, or nobody's.
        window: the block's pixels with halo, on the layer's grid.
        pixels, valid: [bands, rows, cols] and [rows, cols] once read.
        formed, read, started, done: when it was formed, read, put on the device, and answered.
        over: whether it has been answered, failed or dropped.
    """

    layer: Layer
    block: Block
    probabilities: bool
    window: Rect
    formed: float
    cells: tuple[Cell, ...] = ()
    pixels: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    valid: Mask = field(default_factory=lambda: np.empty(0, bool))
    read: float = 0.0
    started: float = 0.0
    done: float = 0.0
    over: bool = False


@dataclass(eq=False, slots=True)
class Call:
    """Something else that has to run in the device's thread, such as a warm-up."""

    run: Callable[[], object]
    done: Future[None]


class Device:
    """A device's thread. Models keep thread-local state, and two forwards at once would only fight for the cores.

    Attributes:
        name: `cpu`, `cuda:0`.
        forwards, pixels: windows and pixels put through models so far.
        busy: seconds spent in models so far.
        rate: pixels per second lately; 0 until a window has been answered.
        dead: what killed the device; it takes nothing more then.
    """

    def __init__(
        self,
        name: str,
        wanted: Callable[[Work], bool],
        settle: Callable[[Work, dict[Cell, Scores]], None],
        fail: Callable[[Work, BaseException], None],
    ) -> None:
        """Start the thread.

        Args:
            name: the device.
            wanted: asked before a window is put through a model; False drops it.
            settle: called with a window's cells.
            fail: called with what went wrong with a window.
        """
        self.name = name
        self.forwards = 0
        self.pixels = 0
        self.busy = 0.0
        self.rate = 0.0
        self.dead: BaseException | None = None
        self._wanted, self._settle, self._fail = wanted, settle, fail
        self._queue: deque[Work | Call] = deque()
        self._condition = threading.Condition()
        self._closing = False
        self._working = False
        self._began = 0.0
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name=f"device-{name}", daemon=True)
        self._thread.start()

    @property
    def heartbeat_age(self) -> float:
        """Seconds since the thread last showed life; while it runs a model, since that began."""
        return time.monotonic() - self._beat

    @property
    def alive(self) -> bool:
        """Whether the device still takes windows."""
        return self.dead is None and self._thread.is_alive()

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._working and not self._queue

    @property
    def elapsed(self) -> float:
        """Seconds that the window on the device has been running, 0 when none is."""
        return time.monotonic() - self._began if self._working else 0.0

    @property
    def backlog(self) -> int:
        """Windows that are ready and wait."""
        return len(self._queue)

    def check(self) -> None:
        """Raise a DeviceError when the device is dead or closing."""
        if self.dead is not None or self._closing:
            raise DeviceError(f"device {self.name} is not running", "The server has to be restarted") from self.dead

    def put(self, work: Work) -> None:
        """Queue a window.

        Raises:
            DeviceError: the device is dead or closing.
        """
        self._put(work)

    def call(self, run: Callable[[], object]) -> Future[None]:
        """Queue something else that has to run in this thread; the future has its error, also when it never ran.

        Raises:
            DeviceError: the device is dead or closing.
        """
        call = Call(run, Future())
        self._put(call)
        return call.done

    def _put(self, work: Work | Call) -> None:
        with self._condition:
            self.check()
            self._queue.append(work)
            self._condition.notify()

    def close(self) -> None:
        """Finish what runs, and stop. Windows still queued fail."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join()

    def _loop(self) -> None:
        work: Work | Call | None = None
        try:
            while (work := self._next()) is not None:
                self._began, self._working = time.monotonic(), True
                if isinstance(work, Work):
                    self._answer(work)
                else:
                    self._run(work)
                self._working = False
        except BaseException as error:  # the thread must not die without a word
            logger.exception("device %s died", self.name)
            self.dead = error
            if isinstance(work, Work) and not work.over:
                self._fail(work, error)
        finally:
            self._working = False
            self._abandon()

    def _next(self) -> Work | Call | None:
        with self._condition:
            while not self._queue and not self._closing:
                self._beat = time.monotonic()
                self._condition.wait(HEARTBEAT)
            self._beat = time.monotonic()
            if self._closing:
                return None
            return self._queue.popleft()

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

    def _answer(self, work: Work) -> None:
        """Every error reaches exactly the work that caused it; one that no other device call would survive ends all."""
        if not self._wanted(work):
            return
        work.started = time.monotonic()
        try:
            cells = self._infer(work)
        except Exception as error:  # whatever it is, whoever waits must hear of it
            if _is_sticky(error, self.name):
                # Known before anybody hears of the error: who asks again must not be let in.
                self.dead = error
            self._fail(work, _in_our_words(error, work))
            if self.dead is not None:
                raise
            return
        finally:
            self.busy += time.monotonic() - work.started
        work.done = time.monotonic()
        rate = work.window.pixels / max(work.done - work.started, 1e-6)
        self.rate = rate if self.rate == 0 else 0.7 * self.rate + 0.3 * rate
        self._settle(work, cells)

    def _infer(self, work: Work) -> dict[Cell, Scores]:
        """A window's cells. Out of memory halves the window and tries again, once."""
        try:
            return self._forward(work)
        except Exception as error:
            halves = work.block.halves() if _is_out_of_memory(error) and work.layer.window_shape is None else None
            if halves is None:
                raise
            logger.warning("out of memory on %s, window halved: %s", self.name, work.window)
        return {cell: scores for half in halves for cell, scores in self._forward(_part(work, half)).items()}

    def _forward(self, work: Work) -> dict[Cell, Scores]:
        layer, model = work.layer, work.layer.model
        if not work.valid.any():
            whole = nothing(model, work.valid, work.probabilities)
        else:
            pixels = np.ascontiguousarray(work.pixels[None])
            answer = layer.loaded.runner(pixels, probabilities=work.probabilities)
            self.forwards += 1
            self.pixels += work.window.pixels
            whole = scores_of(model, answer, 0, work.valid)
        return split(layer, work.block, work.window, whole)

    def _abandon(self) -> None:
        with self._condition:
            left = list(self._queue)
            self._queue.clear()
            self._closing = True
        stopped = DeviceError(f"device {self.name} stopped", "Ask again once the server is back")
        for work in left:
            if isinstance(work, Work):
                self._fail(work, stopped)
            else:
                work.done.set_exception(stopped)


def split(layer: Layer, block: Block, window: Rect, whole: Scores) -> dict[Cell, Scores]:
    """Cut a window's answer into its cells. Halo and what lies beyond the scene are dropped; arrays are copies."""
    grid = layer.grid
    cells = {}
    for cell in block.cells():
        top, left = cell.row * grid.cell, cell.col * grid.cell
        rows = slice(top - window.row_off, min(top + grid.cell, grid.height) - window.row_off)
        cols = slice(left - window.col_off, min(left + grid.cell, grid.width) - window.col_off)
        cells[cell] = whole.cut(rows, cols)
    return cells


def _part(work: Work, block: Block) -> Work:
    """The same window's pixels, as far as a part of its block needs them."""
    _, window = work.layer.window_of(block.first, block.last)
    rows = slice(window.row_off - work.window.row_off, window.row_off - work.window.row_off + window.height)
    cols = slice(window.col_off - work.window.col_off, window.col_off - work.window.col_off + window.width)
    return Work(
        layer=work.layer,
        block=block,
        probabilities=work.probabilities,
        window=window,
        formed=work.formed,
        pixels=work.pixels[:, rows, cols],
        valid=work.valid[rows, cols],
    )


def _is_out_of_memory(error: BaseException) -> bool:
    # Every runtime has its own class for it; the words are the same.
    text = str(error).casefold()
    return isinstance(error, MemoryError) or "out of memory" in text or "failed to allocate" in text


def _is_sticky(error: BaseException, device: str) -> bool:
    """A CUDA error other than out of memory poisons the context: nothing will run there any more."""
    return device != "cpu" and "cuda" in str(error).casefold() and not _is_out_of_memory(error)


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
