"""Scores of cells: from the cache, from work in flight, or from a window that is read and inferred now.

    cache -> flight (each cell once, a ticket per request) -> admission -> waiting -> windows -> readers -> device

One lock guards what waits and flies; it is never held while anything is read, inferred or awaited.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np

from model_registry import LoadedModel
from tiler import ensemble
from tiler.answers import rounded
from tiler.cache import pictures_cache, scores_cache
from tiler.device import Device, Part, is_out_of_memory, joined, split
from tiler.errors import BusyError, DeviceError, InferenceError, ReadError
from tiler.flight import Flight, Ticket
from tiler.gdal import hold
from tiler.layer import MAX_WINDOW_PIXELS, Layer
from tiler.leaving import client
from tiler.pace import Pace
from tiler.pixels import read_window
from tiler.ready import Call, Ready, Work
from tiler.shared_cache import SharedCache
from tiler.values import PRECISE, Cell, Key, Scores
from tiler.waiting import Job, Origin, Waiting
from tiler.warming import usual_windows
from tiler.windows import Block, around

Args = ParamSpec("Args")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)

ANYBODY = Origin()

# Where scores come from, in the order of what it costs.
SOURCES = ("hit", "shared", "miss")

# Windows of one shape that a GPU takes at once.
BATCH = 8

# Seconds after which a window that nobody waits for any more is stopped in the network, too: who zooms drops all tiles
# and asks for the same cells in the next breath.
GRACE = 0.02

# Seconds that warming a model up may take, beyond its first window.
WARM_SECONDS = 2.0


class Stages(NamedTuple):
    """Seconds that a window spent: waiting (for a reader and the device), being read, and in the model."""

    queue: float
    read: float
    forward: float


class Settled(NamedTuple):
    """A cell's answer, and what its window took; None when it was kept already."""

    scores: Scores
    stages: Stages | None


Pending = Ticket[Key, Settled]


@dataclass(frozen=True, slots=True)
class Answer:
    """Scores of the cells asked for.

    Attributes:
        scores: by cell.
        source: `hit` (all kept), `shared` (others had asked for all the missing), or `miss`.
        stages: of the window that took longest, None for a hit.
    """

    scores: dict[Cell, Scores]
    source: str
    stages: Stages | None


@dataclass(slots=True)
class Counters:
    """What happened so far, in cells but for `refused` (requests).

    Attributes:
        hits, shared: found, and waited for together with another request.
        inferred, again: answered by networks; and those of them that were kept already and only filled a rectangle.
        dropped: forgotten before they were inferred, since nobody waited any more.
        refused: requests for which there was no room.
    """

    hits: int = 0
    shared: int = 0
    inferred: int = 0
    again: int = 0
    dropped: int = 0
    refused: int = 0


class Engine:
    """Reads, infers and keeps. One per process; thread-safe.

    Attributes:
        cache: finished cells.
        pace: when windows are formed, and what was measured for it.
        pictures: encoded tiles, by ETag.
        devices: one thread per device, made when first needed.
        counters: what happened so far.
        listeners: called with each stage's name and seconds.
        timeout: seconds after which a request is given up.
    """

    def __init__(
        self,
        *,
        cache_bytes: int = 512 * 2**20,
        picture_bytes: int = 64 * 2**20,
        read_threads: int = 2,
        finish_threads: int = 2,
        read_ahead: int | None = None,
        batch: int | None = None,
        max_pending_cells: int = 16384,
        timeout: float = 40.0,
        shared: SharedCache | None = None,
    ) -> None:
        """Make an engine.

        Args:
            cache_bytes: bytes of scores to keep.
            picture_bytes: bytes of encoded tiles to keep.
            read_threads: windows read at the same time.
            finish_threads: tiles warped, painted and encoded at the same time.
            read_ahead: windows that may be formed beyond those on the devices; None: as many as reading takes longer
                than inferring. Fewer let more requests be merged into one window.
            batch: windows of one shape put through a model together at most; None takes 1 on a CPU, where more gain
                nothing, and 8 elsewhere.
            max_pending_cells: cells in flight beyond which requests are refused with BusyError.
            timeout: seconds after which a request is given up (QGIS gives up after 60).
            shared: cells that other replicas have inferred, too.
        """
        self.cache = scores_cache(cache_bytes)
        self.pictures = pictures_cache(picture_bytes)
        self.devices: dict[str, Device] = {}
        self.ready = Ready()
        self.shared = shared
        self.counters = Counters()
        self.listeners: list[Callable[[str, float], None]] = []
        self.timeout = timeout
        self.pace = Pace(read_ahead)
        self._max_pending_cells, self._batch = max_pending_cells, batch
        # Opening is not put behind reads: a 304 must not wait for somebody else's window.
        self._openers = ThreadPoolExecutor(4, thread_name_prefix="open")
        self._finishers = ThreadPoolExecutor(finish_threads, thread_name_prefix="finish", initializer=hold)
        self._bulk_readers = ThreadPoolExecutor(read_threads, thread_name_prefix="bulk")
        self._stoppers = ThreadPoolExecutor(1, thread_name_prefix="stop")
        self._changed = threading.Condition()
        self._flight: Flight[Key, Settled] = Flight()
        self._waiting: Waiting[Layer] = Waiting()
        # Ensembles whose members' cells are asked for, by revision.
        self._joining: Counter[str] = Counter()
        self._closing = False
        self._readers = [
            threading.Thread(target=self._read_loop, name=f"read-{number}", daemon=True)
            for number in range(read_threads)
        ]
        for reader in self._readers:
            reader.start()

    def scores(
        self, layer: Layer, cells: Iterable[Cell], *, probabilities: bool = False, origin: Origin = ANYBODY
    ) -> Answer:
        """Scores of cells, waiting in the calling thread.

        Raises:
            BusyError: too much is waiting already, it took too long, or the client has gone (`leaving`).
            ReadError, DeviceError: what went wrong with one of the cells.
        """
        if layer.members:
            return self._joint(layer, cells, probabilities, origin)
        with self._asking([(layer, cells)], probabilities, origin) as ((ticket, source),):
            self._wait(ticket, self.timeout)
            return _answer(ticket, source)

    async def scores_async(
        self, layer: Layer, cells: Iterable[Cell], *, probabilities: bool = False, origin: Origin = ANYBODY
    ) -> Answer:
        """As `scores`, without blocking the event loop. Cancelling it leaves the cells to whoever else wants them."""
        if layer.members:
            return await self._joint_async(layer, cells, probabilities, origin)
        with self._asking([(layer, cells)], probabilities, origin) as ((ticket, source),):
            await self._wait_async([ticket], self.timeout)
            return _answer(ticket, source)

    def _joint(self, layer: Layer, cells: Iterable[Cell], probabilities: bool, origin: Origin) -> Answer:
        """`scores` of an ensemble: its members' cells, put together in the calling thread."""
        until = time.monotonic() + self.timeout
        with self._made_jointly(layer, cells, probabilities) as (found, missing):
            for part in ensemble.rounds(layer, missing):
                with self._asking(zip(layer.members, part.needs, strict=True), PRECISE, origin) as asked:
                    for ticket, _ in asked:
                        self._wait(ticket, until - time.monotonic())
                    found.append(self._put_together(layer, part, asked, probabilities))
        return _of_all(found, {cell: scores for answer in found for cell, scores in answer.scores.items()})

    async def _joint_async(self, layer: Layer, cells: Iterable[Cell], probabilities: bool, origin: Origin) -> Answer:
        """As `_joint`, put together in a finishing thread."""
        until = time.monotonic() + self.timeout
        with self._made_jointly(layer, cells, probabilities) as (found, missing):
            for part in await self.finish(list, ensemble.rounds(layer, missing)) if missing else []:
                with self._asking(zip(layer.members, part.needs, strict=True), PRECISE, origin) as asked:
                    await self._wait_async([ticket for ticket, _ in asked], until - time.monotonic())
                    found.append(await self.finish(self._put_together, layer, part, asked, probabilities))
        return _of_all(found, {cell: scores for answer in found for cell, scores in answer.scores.items()})

    @contextmanager
    def _made_jointly(
        self, layer: Layer, cells: Iterable[Cell], probabilities: bool
    ) -> Iterator[tuple[list[Answer], list[Cell]]]:
        """(what is kept of an ensemble's cells, those that are missing); inside, it counts as busy."""
        kept, missing = {}, []
        for cell in dict.fromkeys(cells):
            scores = self._find(Key(layer.revision, cell, probabilities))
            if scores is None:
                missing.append(cell)
            else:
                kept[cell] = scores
        with self._changed:
            self.counters.hits += len(kept)
            self._joining[layer.revision] += 1
        try:
            yield [Answer(kept, "hit", None)], missing
        finally:
            with self._changed:
                self._joining[layer.revision] -= 1
                self._joining += Counter()  # those at zero go

    def _put_together(
        self, layer: Layer, part: ensemble.Round, asked: list[tuple[Pending, str]], probabilities: bool
    ) -> Answer:
        """An ensemble's cells from its members', kept."""
        answers = [_answer(ticket, source) for ticket, source in asked]
        begun = time.monotonic()
        cells = ensemble.made(layer, part.cells, [answer.scores for answer in answers], probabilities)
        for cell, scores in cells.items():
            self.cache.put(Key(layer.revision, cell, probabilities), scores)
        self.observe("join", time.monotonic() - begun)
        return _of_all(answers, cells)

    @contextmanager
    def _asking(
        self, wanted: Iterable[tuple[Layer, Iterable[Cell]]], probabilities: int, origin: Origin
    ) -> Iterator[list[tuple[Pending, str]]]:
        """A ticket for the cells of each layer, all asked for before anybody waits; inside, they are waited for."""
        asked: list[tuple[Pending, str]] = []
        try:
            for layer, cells in wanted:
                asked.append(self._join(layer, cells, probabilities, origin))
            yield asked
        finally:
            for ticket, _ in asked:
                self._leave(ticket, origin)

    def _wait(self, ticket: Pending, seconds: float) -> None:
        with client().wakes(ticket.finish):
            if not ticket.wait(max(0.0, seconds)):
                raise self._too_slow()
        if ticket.missing and ticket.error is None:
            raise BusyError("the client has gone", "Ask again")

    async def _wait_async(self, tickets: list[Pending], seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                for ticket in tickets:
                    if not ticket.done:
                        await _until_done(ticket)
        except TimeoutError:
            raise self._too_slow() from None

    def infer(self, layer: Layer, block: Block, *, probabilities: bool = False) -> Future[Scores]:
        """Scores of a whole block of an exact model, as far as the scene reaches: read and inferred for whoever asks.

        No cache is asked or filled, no time limit holds, and maps go first: it is what exports are made of. Whoever
        asks bounds how many are on their way. Cancelling the future drops what has not begun.

        Raises (through the future):
            ReadError, DeviceError: what went wrong with it.
            BusyError: the engine was closed.
        """
        _, window = layer.window_of(block.first, block.last)
        done: Future[Scores] = Future()
        work = Work(layer, block, probabilities, window, formed=time.monotonic(), whole=done)
        try:
            self._bulk_readers.submit(self._read, work)
        except RuntimeError:
            raise _closing_down() from None
        return done

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Inside, a request is on its way whose cells are not known yet; it asks for them right after."""
        with self._changed:
            number = self.pace.came()
        try:
            yield
        finally:
            with self._changed:
                self.pace.went(number)
                self._changed.notify()

    def observe(self, stage: str, seconds: float) -> None:
        """Tell the listeners how long a stage took."""
        for listener in self.listeners:
            try:
                listener(stage, seconds)
            except Exception:  # who only watches must not break what is watched
                logger.exception("a listener of stage %s failed", stage)

    async def finish(self, work: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Result:
        """Run CPU work (warping, painting, encoding) in the engine's own threads, none of the event loop's."""
        return await self._in_pool(self._finishers, partial(work, *args, **kwargs))

    async def open(self, work: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Result:
        """Run blocking access other than windows (reading a header, loading a model) in threads of its own."""
        return await self._in_pool(self._openers, partial(work, *args, **kwargs))

    async def _in_pool(self, pool: ThreadPoolExecutor, work: Callable[[], Result]) -> Result:
        try:
            future = pool.submit(work)
        except RuntimeError:
            raise _closing_down() from None
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closing and future.cancelled() and not (task and task.cancelling()):
                # Not the caller was cancelled, but the work: the pool was shut down before it began.
                raise _closing_down() from None
            raise

    def warm(self, loaded: LoadedModel, max_pixels: int = MAX_WINDOW_PIXELS) -> None:
        """Put windows of zeros through a model, in its devices' threads, and wait for it.

        One at least, and then of those shapes that come most for as long as WARM_SECONDS and the memory last.

        Args:
            loaded: the model.
            max_pixels: of a window, halo included; see `layer.fit`.
        """
        if loaded.members:
            for network in loaded.networks:
                self.warm(network, max_pixels)
            return
        bands, dtype = len(loaded.model.bands), loaded.model.input_dtypes[0]
        until = time.monotonic() + WARM_SECONDS
        first, *others = usual_windows(loaded.model, max_pixels)
        self._run_zeros(loaded, (1, bands, *first), dtype)
        for height, width in others:
            if time.monotonic() > until:
                break
            try:
                self._run_zeros(loaded, (1, bands, height, width), dtype)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                # When a window of this size is asked for, it is halved.
                logger.warning("no memory for a window of %s x %s px of model %s", height, width, loaded.model.name)
                break

    def _run_zeros(self, loaded: LoadedModel, shape: tuple[int, ...], dtype: str) -> None:
        zeros = np.zeros(shape, dtype)
        for name in loaded.devices:
            self._device(name).call(partial(loaded.runner_on(name), zeros)).result()

    def close(self) -> None:
        """Stop. What waits fails with BusyError, what runs is finished."""
        with self._changed:
            self._closing = True
            self._waiting.clear()
            tickets = self._flight.fail_all(_closing_down())
            self._changed.notify_all()
        for ticket in tickets:
            ticket.finish()
        for reader in self._readers:
            reader.join()
        # Not cancelled: each must tell whoever waits for it.
        self._bulk_readers.shutdown(wait=True)
        for device in list(self.devices.values()):
            device.close()
        for pool in (self._openers, self._finishers, self._stoppers):
            pool.shutdown(wait=True, cancel_futures=True)
        if self.shared is not None:
            self.shared.close()

    @property
    def pending(self) -> int:
        """Cells in flight."""
        return len(self._flight)

    @property
    def max_pending_cells(self) -> int:
        """Cells that may be in flight: a request for more is refused however often it is made."""
        return self._max_pending_cells

    @property
    def busy(self) -> frozenset[str]:
        """Revisions of layers that have cells in flight, and of ensembles whose members' cells are asked for."""
        with self._changed:
            return frozenset(key.revision for key in self._flight) | frozenset(self._joining)

    @property
    def queued(self) -> int:
        """Cells that wait to be formed into windows."""
        return len(self._waiting)

    @property
    def inferred_pixels(self) -> int:
        """Pixels put through models so far, halo included."""
        return sum(device.pixels for device in list(self.devices.values()))

    @property
    def forwards(self) -> int:
        """Windows put through models so far."""
        return sum(device.forwards for device in list(self.devices.values()))

    @property
    def rate(self) -> float:
        """Pixels per second that the fastest device lately did; 0 while unknown."""
        return max((device.rate for device in list(self.devices.values())), default=0.0)

    @property
    def healthy(self) -> bool:
        """Whether readers and devices live. A device that has run one window for longer than a request may is stuck."""
        return all(reader.is_alive() for reader in self._readers) and all(
            device.alive and device.heartbeat_age < max(2 * self.timeout, 60) for device in list(self.devices.values())
        )

    def _join(self, layer: Layer, cells: Iterable[Cell], probabilities: int, origin: Origin) -> tuple[Pending, str]:
        """A ticket for all cells, each found, flying, or queued now. A refused request queues nothing."""
        ticket: Pending = Ticket()
        keys = [Key(layer.revision, cell, probabilities) for cell in dict.fromkeys(cells)]
        with self._changed:
            if self._closing:
                raise _closing_down()
            flying, missing = [], []
            for key in keys:
                if key in self._flight:
                    flying.append(key)
                elif (found := self._find(key)) is not None:
                    ticket.values[key] = Settled(found, None)
                else:
                    missing.append(key)
            if missing:
                # No use in reading what a dead device will never infer.
                self._check_devices(layer.loaded.devices)
            if missing and len(self._flight) + len(missing) > self._max_pending_cells:
                self.counters.refused += 1
                raise BusyError(
                    f"{len(self._flight)} cells are waiting and {len(missing)} more were asked for, the limit is "
                    f"{self._max_pending_cells}",
                    "Ask again shortly",
                )
            for key in flying + missing:
                self._flight.join(key, ticket)
            self.counters.hits += len(ticket.values)
            self.counters.shared += len(flying)
            # What others wait for and no reader has taken is asked for again: a map must not wait for an export's turn.
            wanted = [key.cell for key in keys if key in self._flight and self._waits(key)] if flying else []
            wanted += [key.cell for key in missing]
            if wanted:
                if not len(self._waiting):
                    self.pace.begins(time.monotonic())
                self._waiting.add(layer, probabilities, wanted, origin, time.monotonic())
                self._changed.notify_all()
        if not ticket.missing:
            ticket.finish()
        return ticket, "miss" if missing else "shared" if flying else "hit"

    def _leave(self, ticket: Pending, origin: Origin) -> None:
        """Stop waiting; cells that nobody wants any more and no reader has taken are forgotten."""
        with self._changed:
            if not ticket.missing:
                self._waiting.answered(origin, time.monotonic())
                return
            if ticket.error is None:
                self._waiting.dropped(origin, time.monotonic())
            for key in self._flight.leave(ticket):
                if self._waiting.drop(key.revision, key.probabilities, key.cell):
                    self._flight.forget(key)
                    self.counters.dropped += 1
            self._stop_unwanted()

    def _stop_unwanted(self) -> None:
        """See to it that devices do not go on with what nobody waits for. The lock is held."""
        for device in self._living():
            work = device.inside
            if work is None or work.leaving or work.whole is not None or self._closing or self._awaited(work):
                continue
            work.leaving = True
            self._stoppers.submit(self._stop, device, work)

    def _stop(self, device: Device, work: Work) -> None:
        """Stop a window, unless somebody waits for it after all."""
        time.sleep(GRACE)
        with self._changed:
            work.leaving = False
            if not self._awaited(work) and device.stop(work):
                self._drop(work)

    def _find(self, key: Key) -> Scores | None:
        if key.probabilities == PRECISE:
            return self.cache.get(key)
        # Scores with probabilities answer a request for classes, too, and precise ones are rounded for whoever asks.
        more = (key._replace(probabilities=True), key._replace(probabilities=PRECISE))
        if not key.probabilities:
            return self.cache.get(key, *more)
        found = self.cache.get(*more)
        return None if found is None else rounded(found)

    def _waits(self, key: Key) -> bool:
        return self._waiting.holds(key.revision, key.probabilities, key.cell)

    def _read_loop(self) -> None:
        while (work := self._next_work()) is not None:
            self._read(work)
            del work  # waiting for the next one must not keep this one's model in memory

    def _next_work(self) -> Work | None:
        """Wait for the next window to read; None when closing."""
        with self._changed:
            while not self._closing:
                delay = self.pace.delay(time.monotonic(), self._living()) if len(self._waiting) else None
                if delay is not None and delay <= 0:
                    job = self._waiting.next(time.monotonic(), self.rate)
                    if job is not None:
                        return self._formed_from(job)
                    delay = None
                self._changed.wait(delay)
        return None

    def _formed_from(self, job: Job[Layer]) -> Work:
        """A block's window. The lock is held.

        Cells that only fill the rectangle fly, too, so that who asks for them now shares them; unless they are kept
        already, or fly with another window: that one answers for them.
        """
        layer, block = job.layer, job.block
        _, window = layer.window_of(block.first, block.last)
        work = Work(layer, block, job.probabilities, window, formed=time.monotonic())
        own = []
        for key in _keys(work, block.cells()):
            if key.cell in job.taken or not (key in self._flight or key in self.cache):
                self._flight.start(key)
                own.append(key.cell)
        work.cells = tuple(own)
        self.pace.formed += 1
        self.pace.pixels += window.pixels
        return work

    def _living(self) -> list[Device]:
        return [device for device in self.devices.values() if device.alive]

    def _read(self, work: Work) -> None:
        """In a reader's thread: read a window and hand it to the device."""
        try:
            if not self._wanted([work]) or self._shared_has(work):
                return
            begun = time.monotonic()
            work.pixels, work.valid = read_window(work.layer.source, work.window)
            work.read = time.monotonic() - begun
            self.pace.took(work.read)
            for name in work.devices:
                self._device(name)
            self._check_devices(work.devices)
            self.ready.put(work)
            # One that died in between has taken out what was there, but not this.
            self._abandon()
        except InferenceError as error:
            self._fail(work, error)
        except BaseException as error:  # whoever waits must hear of it, whatever it is
            logger.exception("a window of %s could not be read", work.layer.scene.display_name)
            told = ReadError(f"{work.layer.scene.display_name!r} could not be read ({type(error).__name__})")
            told.__cause__ = error
            self._fail(work, told)

    def _shared_has(self, work: Work) -> bool:
        """Settle a window from the cache of all replicas, if that has all of it."""
        if self.shared is None or work.whole is not None:
            return False
        keys = _keys(work, work.cells)
        found = self.shared.get(keys)
        if len(found) < len(keys):
            return False
        for key, scores in found.items():
            self.cache.put(key, scores)
        with self._changed:
            tickets = self._flight.settle((key, Settled(scores, None)) for key, scores in found.items())
            self._one_less(work)
        for ticket in tickets:
            ticket.finish()
        return True

    def _wanted(self, works: list[Work]) -> list[Work]:
        """Those of a batch that anybody waits for; the others are forgotten. One alone is cut down to what is left."""
        wanted = []
        for work in works:
            if work.whole is not None:
                if self._closing:
                    self._fail(work, _closing_down())
                if not work.whole.done():
                    wanted.append(work)
                continue
            with self._changed:
                cells = [key.cell for key in _keys(work, work.cells) if self._flight.wanted(key)]
                if not cells:
                    self._drop(work)
                    continue
                if len(works) == 1:  # several have to stay of one shape
                    self._shrink(work, around(cells))
            wanted.append(work)
        return wanted

    def _shrink(self, work: Work, block: Block) -> None:
        """Leave only a part of a window's block: nobody waits for the rest any more. The lock is held."""
        if block == work.block:
            return
        cells, pixels = work.cells, work.window.pixels
        work.shrink(block)
        for key in _keys(work, (cell for cell in cells if cell not in block)):
            self._flight.forget(key)
        self.counters.dropped += len(cells) - len(work.cells)
        self.pace.pixels -= pixels - work.window.pixels
        self._changed.notify_all()

    def _drop(self, work: Work) -> None:
        """Forget a window that nobody waits for. The lock is held."""
        for key in _keys(work, work.cells):
            self._flight.forget(key)
        self.counters.dropped += len(work.cells)
        self._one_less(work)

    def _awaited(self, work: Work) -> bool:
        """Whether anybody waits for a cell that the window answers for. The lock is held."""
        return any(self._flight.wanted(key) for key in _keys(work, work.cells))

    def _settle(self, work: Work, parts: list[Part]) -> None:
        """In the thread that settles a device's answers: keep the cells, then wake those who wait."""
        if work.whole is not None:
            with suppress(InvalidStateError):  # cancelled meanwhile
                work.whole.set_result(joined(work.layer, work.block, parts))
            return
        cells = {cell: scores for part in parts for cell, scores in split(work.layer, part).items()}
        stages = Stages(max(0.0, work.started - work.formed - work.read), work.read, work.done - work.started)
        for stage, seconds in zip(Stages._fields, stages, strict=True):
            self.observe(stage, seconds)
        settled = [(key, Settled(cells[key.cell], stages)) for key in _keys(work, cells)]
        again = sum(key in self.cache for key, _ in settled)
        for key, (scores, _) in settled:
            self.cache.put(key, scores)
        with self._changed:
            self.counters.inferred += len(cells)
            self.counters.again += again
            # Also what another window was to answer, or what was asked for again meanwhile: it is there now.
            tickets = self._flight.settle(settled)
            for key, _ in settled:
                self._waiting.drop(key.revision, key.probabilities, key.cell)
            self._one_less(work)
        for ticket in tickets:
            ticket.finish()
        if self.shared is not None:
            with suppress(RuntimeError):  # closing: then nobody needs it
                self._openers.submit(self.shared.put, [(key, scores) for key, (scores, _) in settled])

    def _fail(self, work: Work, error: BaseException) -> None:
        """Give everybody who waits for a cell that the window answers for its error."""
        if work.whole is not None:
            with suppress(InvalidStateError):
                work.whole.set_exception(_told(error))
            return
        with self._changed:
            tickets = self._flight.fail(_keys(work, work.cells), _told(error))
            self._one_less(work)
        for ticket in tickets:
            ticket.finish()

    def _one_less(self, work: Work) -> None:
        """A window is done with, once: a reader may form the next. The lock is held."""
        if work.over:
            return
        work.over = True
        self.pace.formed -= 1
        self.pace.pixels -= work.window.pixels
        self._changed.notify_all()

    def _device(self, name: str) -> Device:
        with self._changed:
            if name not in self.devices:
                if self._closing:
                    raise _closing_down()
                batch = self._batch or (1 if name.startswith("cpu") else BATCH)
                self.devices[name] = Device(
                    name, self.ready, self._wanted, self._settle, self._fail, self._abandon, batch
                )
            return self.devices[name]

    def _check_devices(self, names: Iterable[str]) -> None:
        """Raise the first device's error when none of them takes anything; those not made yet count as living."""
        error: DeviceError | None = None
        for name in names:
            device = self.devices.get(name)
            if device is None:
                return
            try:
                return device.check()
            except DeviceError as told:
                error = error or told
        if error is not None:
            raise error

    def _abandon(self) -> None:
        """What no living device may do fails now: nobody will ever take it."""
        alive = [name for name, device in list(self.devices.items()) if not device.stopped]
        for item in self.ready.without(alive):
            error = DeviceError("the device stopped", "Ask again once the server is back")
            if isinstance(item, Call):
                item.done.set_exception(error)
            else:
                self._fail(item, error)

    def _too_slow(self) -> BusyError:
        return BusyError(f"the answer took longer than {self.timeout:g} s", "Ask again: what was begun goes on")


def _keys(work: Work, cells: Iterable[Cell]) -> list[Key]:
    return [Key(work.layer.revision, cell, work.probabilities) for cell in cells]


def _closing_down() -> BusyError:
    return BusyError("the server is shutting down", "Ask again in a moment")


def _told(error: BaseException) -> Exception:
    # A CancelledError or SystemExit of a worker must not end whoever waits for it.
    return error if isinstance(error, Exception) else DeviceError(f"a worker ended with {type(error).__name__}")


async def _until_done(ticket: Pending) -> None:
    """Wait without blocking the event loop: one call into it when the whole ticket is done."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            logger.debug("an answer came after its event loop had ended")

    ticket.when_done(wake)
    await event.wait()


def _of_all(answers: list[Answer], scores: dict[Cell, Scores]) -> Answer:
    """What was made of several answers: it took as long as the slowest, and is a miss if one of them is."""
    stages = [answer.stages for answer in answers if answer.stages is not None]
    source = max((answer.source for answer in answers), key=SOURCES.index)
    return Answer(scores, source, max(stages, key=sum) if stages else None)


def _answer(ticket: Pending, source: str) -> Answer:
    if ticket.error is not None:
        raise ticket.error
    stages = [item.stages for item in ticket.values.values() if item.stages is not None]
    return Answer(
        scores={key.cell: item.scores for key, item in ticket.values.items()},
        source=source,
        stages=max(stages, key=sum) if stages else None,
    )
