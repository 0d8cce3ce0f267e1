"""One thread per device: it alone runs models there."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import DeviceError, InferenceError
from tiler.layer import Layer
from tiler.values import Cell, Classes, Halves, Mask, Rect, Scores
from tiler.windows import inside

Answer = tuple[Classes, Halves | None]


class Device:
    """A device's thread. Models keep thread-local state, and two forwards at once would only fight for the cores."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"device-{name}")
        self.forwards = 0
        self.pixels = 0

    def infer(
        self, layer: Layer, window: Rect, pixels: NDArray[Any], valid: Mask, probabilities: bool
    ) -> Future[Answer]:
        """Queue one window.

        Args:
            layer: whose model to run.
            window: where the pixels lie; for messages only.
            pixels: [bands, rows, cols] of the window, halo included.
            valid: bool [rows, cols]; a window without any valid pixel is not put through the network.
            probabilities: whether to keep them.

        Returns:
            A future of class values uint8 [rows, cols] and probabilities float16 [classes, rows, cols] or None.
            It fails with a DeviceError.
        """
        return self._thread.submit(self._run, layer, window, pixels, valid, probabilities)

    def close(self) -> None:
        """Stop the thread; what has not begun fails with CancelledError."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _run(self, layer: Layer, window: Rect, pixels: NDArray[Any], valid: Mask, probabilities: bool) -> Answer:
        model = layer.model
        if not valid.any():
            empty = np.zeros(valid.shape, np.uint8)
            return empty, np.zeros((len(model.classes), *valid.shape), np.float16) if probabilities else None
        try:
            answer = layer.loaded.runner(np.ascontiguousarray(pixels[None]), probabilities=probabilities)
        except Exception as error:
            if isinstance(error, InferenceError):
                raise
            raise DeviceError(
                f"model {model.name!r} failed with {type(error).__name__} on {window.height} x {window.width} px",
                "Look into the server's log; `tiler info` shows what the model expects",
            ) from error
        self.forwards += 1
        self.pixels += window.pixels
        values = np.asarray([item.value for item in model.classes], np.uint8)
        classes = values[answer.classes[0]]
        return classes, None if answer.probabilities is None else answer.probabilities[0].astype(np.float16)


def split(
    layer: Layer, first: Cell, last: Cell, window: Rect, valid: Mask, classes: Classes, probabilities: Halves | None
) -> dict[Cell, Scores]:
    """Cut a window's answer into its cells. Halo and what lies beyond the scene are dropped; arrays are copies."""
    grid = layer.grid
    cells = {}
    for cell in inside(first, last):
        top, left = cell.row * grid.cell, cell.col * grid.cell
        rows = slice(top - window.row_off, min(top + grid.cell, grid.height) - window.row_off)
        cols = slice(left - window.col_off, min(left + grid.cell, grid.width) - window.col_off)
        cells[cell] = Scores(
            classes=classes[rows, cols].copy(),
            valid=valid[rows, cols].copy(),
            probabilities=None if probabilities is None else probabilities[:, rows, cols].copy(),
        )
    return cells
