"""Scores of cells: from the cache, from work in flight, or from a window that is read and inferred now."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

from tiler.cache import ScoresCache
from tiler.device import Answer, Device, split
from tiler.errors import BusyError
from tiler.flight import Flight
from tiler.layer import Layer
from tiler.pixels import read_window
from tiler.values import Cell, Mask, Rect, Scores
from tiler.windows import inside, merge, side_within

Args = ParamSpec("Args")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class Key(NamedTuple):
    """What decides a cell's scores. Colours and image formats stay out: a new palette costs no inference."""

    revision: str
    cell: Cell
    probabilities: bool


class Engine:
    """Reads, infers and keeps. One per process; thread-safe.

    Attributes:
        cache: finished cells.
        devices: one thread per device, made when first needed.
    """

    def __init__(
        self,
        *,
        cache_bytes: int = 512 * 2**20,
        read_threads: int = 2,
        finish_threads: int = 2,
        max_window_pixels: int = 1024 * 1024,
        max_pending_cells: int = 4096,
        timeout: float = 40.0,
    ) -> None:
        """Make an engine.

        Args:
            cache_bytes: bytes of scores to keep.
            read_threads: windows read at the same time.
            finish_threads: tiles warped, painted and encoded at the same time.
            max_window_pixels: largest window put through a model, halo included.
            max_pending_cells: cells in flight beyond which requests are refused with BusyError.
            timeout: seconds after which a request is given up (QGIS gives up after 60).
        """
        self.cache = ScoresCache(cache_bytes)
        self.devices: dict[str, Device] = {}
        self._flight: Flight[Key, Scores] = Flight()
        self._readers = ThreadPoolExecutor(read_threads, thread_name_prefix="read")
        # Opening is not put behind reads: a 304 must not wait for somebody else's window.
        self._openers = ThreadPoolExecutor(4, thread_name_prefix="open")
        self._finishers = ThreadPoolExecutor(finish_threads, thread_name_prefix="finish")
        self._max_window_pixels = max_window_pixels
        self._max_pending_cells = max_pending_cells
        self._timeout = timeout
        self._lock = threading.Lock()

    def scores(self, layer: Layer, cells: Iterable[Cell], *, probabilities: bool = False) -> dict[Cell, Scores]:
        """Scores of cells, waiting in the calling thread.

        Raises:
            BusyError: too much is waiting already, or it took too long.
            ReadError, DeviceError: what went wrong with one of the cells.
        """
        futures = self._request(layer, cells, probabilities)
        if wait_for(futures.values(), self._timeout).not_done:
            raise self._too_slow()
        return {cell: future.result() for cell, future in futures.items()}

    async def scores_async(
        self, layer: Layer, cells: Iterable[Cell], *, probabilities: bool = False
    ) -> dict[Cell, Scores]:
        """As `scores`, without blocking the event loop."""
        futures = self._request(layer, cells, probabilities)
        # Shielded: this caller's cancellation must not cancel a cell that another one waits for.
        waiting = [asyncio.shield(asyncio.wrap_future(future)) for future in futures.values()]
        try:
            async with asyncio.timeout(self._timeout):
                # Exceptions are collected, so that none is left unheard when several cells share one.
                done = await asyncio.gather(*waiting, return_exceptions=True)
        except TimeoutError:
            raise self._too_slow() from None
        for answer in done:
            if isinstance(answer, BaseException):
                raise answer
        return {cell: future.result() for cell, future in futures.items()}

    async def finish(self, work: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Result:
        """Run CPU work (warping, painting, encoding) in the engine's own threads, none of the event loop's."""
        return await asyncio.get_running_loop().run_in_executor(self._finishers, partial(work, *args, **kwargs))

    async def open(self, work: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Result:
        """Run blocking access other than windows (reading a header, loading a model) in threads of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._openers, partial(work, *args, **kwargs))

    def close(self) -> None:
        """Stop all threads. Work that has not begun fails."""
        for pool in (self._openers, self._readers, self._finishers):
            pool.shutdown(wait=True, cancel_futures=True)
        for device in self.devices.values():
            device.close()

    @property
    def inferred_pixels(self) -> int:
        """Pixels put through models so far, halo included."""
        return sum(device.pixels for device in self.devices.values())

    @property
    def forwards(self) -> int:
        """Windows put through models so far."""
        return sum(device.forwards for device in self.devices.values())

    def _request(self, layer: Layer, cells: Iterable[Cell], probabilities: bool) -> dict[Cell, Future[Scores]]:
        keys = [Key(layer.revision, cell, probabilities) for cell in cells]
        futures, fresh = self._flight.join(keys, self._find, self._admit)
        missing = [key.cell for key in fresh]
        max_side = 1
        if layer.window_shape is None:
            max_side = side_within(self._max_window_pixels, layer.grid.cell, layer.grid.halo)
        for first, last in merge(missing, max_side):
            mine = [Key(layer.revision, cell, probabilities) for cell in inside(first, last)]
            try:
                self._readers.submit(self._read, layer, first, last, mine, probabilities)
            except RuntimeError as error:
                self._flight.fail(mine, BusyError("the server is shutting down", "Ask again in a moment"))
                logger.debug("refused while shutting down", exc_info=error)
        return {key.cell: future for key, future in futures.items()}

    def _find(self, key: Key) -> Scores | None:
        # Scores with probabilities answer a request for classes, too.
        richer = self.cache.get(key._replace(probabilities=True))
        return richer if richer is not None or key.probabilities else self.cache.get(key)

    def _admit(self, pending: int) -> None:
        if pending > self._max_pending_cells:
            raise BusyError(f"{pending} cells are waiting, the limit is {self._max_pending_cells}", "Ask again shortly")

    def _read(self, layer: Layer, first: Cell, last: Cell, keys: list[Key], probabilities: bool) -> None:
        """In a reader thread: read a window and queue it for the device. Every error reaches exactly its own keys."""
        try:
            _, window = layer.window_of(first, last)
            pixels, valid = read_window(layer.source, window)
            answer = self._device_of(layer).infer(layer, window, pixels, valid, probabilities)
        except BaseException as error:
            self._flight.fail(keys, error)
            return
        answer.add_done_callback(partial(self._settle, layer, first, last, window, valid, keys))

    def _settle(
        self, layer: Layer, first: Cell, last: Cell, window: Rect, valid: Mask, keys: list[Key], answer: Future[Answer]
    ) -> None:
        """In the device's thread: keep the cells and wake those who wait."""
        try:
            classes, probabilities = answer.result()
            cells = split(layer, first, last, window, valid, classes, probabilities)
            for key in keys:
                self.cache.put(key, cells[key.cell])
                self._flight.settle(key, cells[key.cell])
        except BaseException as error:
            self._flight.fail(keys, error)

    def _device_of(self, layer: Layer) -> Device:
        name = layer.loaded.runner.device
        with self._lock:
            if name not in self.devices:
                self.devices[name] = Device(name)
            return self.devices[name]

    def _too_slow(self) -> BusyError:
        return BusyError(f"the answer took longer than {self._timeout:g} s", "Ask again: what was begun goes on")
