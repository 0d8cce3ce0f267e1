"""Windows that have been read and wait: one queue, from which every device takes what its models may do."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.layer import Layer
from tiler.values import Cell, Mask, Rect, Scores
from tiler.windows import Block


@dataclass(eq=False)
class Work:
    """A window on its way: from a reader to a device, with the moments (seconds, monotonic) it passed.

    Attributes:
        layer, block, probabilities: what to infer.
        whole: who gets the scores of the whole block, which no cache keeps (an export); None for a map's cells.
        cells: those of the block that this window answers for; the others are somebody else's, or nobody's.
        window: the block's pixels with halo, on the layer's grid.
        pixels, valid: [bands, rows, cols] and [rows, cols] once read.
        formed, read, started, done: when it was formed, read, put on the device, and answered.
        over: whether it has been answered, failed or dropped.
        leaving: whether it is about to be stopped, if nobody asks for it again in a moment.
    """

    layer: Layer
    block: Block
    probabilities: int
    window: Rect
    formed: float
    whole: Future[Scores] | None = None
    cells: tuple[Cell, ...] = ()
    pixels: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    valid: Mask = field(default_factory=lambda: np.empty(0, bool))
    read: float = 0.0
    started: float = 0.0
    done: float = 0.0
    over: bool = False
    leaving: bool = False

    @property
    def devices(self) -> tuple[str, ...]:
        """Where it may run."""
        return self.layer.loaded.devices

    def shrink(self, block: Block) -> None:
        """Leave only what a part of the block needs; of pixels that have been read, views."""
        _, window = self.layer.window_of(block.first, block.last)
        top, left = window.row_off - self.window.row_off, window.col_off - self.window.col_off
        if self.valid.size:
            rows, cols = slice(top, top + window.height), slice(left, left + window.width)
            self.pixels, self.valid = self.pixels[:, rows, cols], self.valid[rows, cols]
        self.block, self.window = block, window
        self.cells = tuple(cell for cell in self.cells if cell in block)

    def goes_with(self, other: Work) -> bool:
        """Whether both may be one batch: the same network, the same question, the same shape."""
        return (
            self.layer.loaded is other.layer.loaded
            and self.probabilities == other.probabilities
            and (self.whole is None) == (other.whole is None)
            and self.pixels.shape == other.pixels.shape
            and self.pixels.dtype == other.pixels.dtype
        )


@dataclass(eq=False, slots=True)
class Call:
    """Something else that has to run in a device's thread, such as a warm-up."""

    device: str
    run: Callable[[], object]
    done: Future[None]

    @property
    def devices(self) -> tuple[str, ...]:
        """Where it has to run."""
        return (self.device,)


class Ready:
    """The queue. Thread-safe; first come, first served, but for exports: they give way to everybody else."""

    def __init__(self) -> None:
        self._items: deque[Work | Call] = deque()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Work | Call) -> None:
        """Queue something."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def wake(self) -> None:
        """Let all devices look whether they should stop."""
        with self._changed:
            self._changed.notify_all()

    def take(
        self, device: str, batch: int, stop: Callable[[], bool], timeout: float, beat: Callable[[], None]
    ) -> list[Work] | Call | None:
        """The next thing for a device, waiting for it; None once `stop()` says so.

        Args:
            device: its name.
            batch: windows of one shape that it takes together at most.
            stop: asked whenever something changes.
            timeout: seconds after which `beat` is called while nothing comes.
            beat: shows that the device's thread lives.
        """
        with self._changed:
            while not stop():
                beat()
                mine = [item for item in self._items if device in item.devices]
                first = next((item for item in mine if not _gives_way(item)), mine[0] if mine else None)
                if first is None:
                    self._changed.wait(timeout)
                    continue
                if isinstance(first, Call):
                    self._items.remove(first)
                    return first
                alike = (item for item in self._items if isinstance(item, Work) and first.goes_with(item))
                works = list(islice(alike, batch))
                for work in works:
                    self._items.remove(work)
                return works
        return None

    def without(self, alive: Collection[str]) -> list[Work | Call]:
        """Take out what no device of those that live may do."""
        with self._changed:
            lost = [item for item in self._items if not set(item.devices) & set(alive)]
            for item in lost:
                self._items.remove(item)
        return lost


def _gives_way(item: Work | Call) -> bool:
    return isinstance(item, Work) and item.whole is not None
