"""The small frozen values that the rooms hand to each other. Axis order always stands in the name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

# Of classes: their numbers, probabilities, the winner's probability, its number with it.
# Else: values, an embedding's components in colour.
Output = Literal["class", "probability", "confidence", "class_confidence", "value", "rgb"]
NUMBERS = ("value", "rgb")
Resampling = Literal["nearest", "bilinear"]

Classes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]


class Cell(NamedTuple):
    """One block of the grid, counted in cells from the grid's upper left corner."""

    row: int
    col: int


class Key(NamedTuple):
    """What decides a cell's scores. Colours and image formats stay out: a new palette costs no inference."""

    revision: str
    cell: Cell
    probabilities: bool


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle of grid pixels, rows down and columns right. It may hang over the grid's edge, but is never empty."""

    row_off: int
    col_off: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a rectangle needs at least one pixel, got {self.height} x {self.width}")

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def grown(self, margin: int) -> Rect:
        """The rectangle with `margin` pixels more on every side."""
        return Rect(self.row_off - margin, self.col_off - margin, self.height + 2 * margin, self.width + 2 * margin)


@dataclass(frozen=True, slots=True)
class View:
    """What somebody wants to see: an upright raster of `height` x `width` pixels over `bounds` of `crs`.

    `bounds` is (left, bottom, right, top) in units of `crs`.
    """

    bounds: tuple[float, float, float, float]
    crs: CRS
    height: int
    width: int

    def __post_init__(self) -> None:
        left, bottom, right, top = self.bounds
        if not (left < right and bottom < top):
            raise ValueError(f"bounds must be (left, bottom, right, top), got {self.bounds}")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a view needs at least one pixel, got {self.height} x {self.width}")

    @property
    def transform(self) -> Affine:
        """Affine from (column, row) to (x, y)."""
        left, bottom, right, top = self.bounds
        return Affine((right - left) / self.width, 0.0, left, 0.0, (bottom - top) / self.height, top)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the model said of one cell, or of a window.

    Attributes:
        classes: uint8 [rows, cols], class values; meaningless where `valid` is False. None for a model without classes.
        valid: bool [rows, cols], False where the scene has no data.
        probabilities: float16 [classes, rows, cols] in the order of the model's classes, or None when nobody asked.
        values: float32 [channels, rows, cols] of a regression, or of an embedding when somebody asked.
        components: float16 [3, rows, cols] of an embedding.
    """

    classes: Classes | None
    valid: Mask
    probabilities: Halves | None = None
    values: Floats | None = None
    components: Halves | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held, for caches that count them."""
        planes = (self.classes, self.probabilities, self.values, self.components)
        return self.valid.nbytes + sum(plane.nbytes for plane in planes if plane is not None)

    def cut(self, rows: slice, cols: slice) -> Scores:
        """The part of some rows and columns; arrays are copies."""

        def part(plane: NDArray[Any] | None) -> Any:
            return None if plane is None else plane[..., rows, cols].copy()

        return Scores(*(part(getattr(self, name)) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Style:
    """What of the prediction is wanted, and how it is warped. Colours and image formats are not part of it.

    Attributes:
        output: class numbers, one probability per class, or the probability of the winning class; values, or an
            embedding's three components.
        classes: class values to keep (class), or whose probability is wanted (probability); empty means all.
        threshold: pixels whose winning probability (or, for probability, the only wanted one) is lower are masked. Of a
            model that answers a mask (`LoadedModel.binary`) it is the probability from which on the mask is set.
        resampling: `bilinear` warps probabilities and takes the best class after; values are warped as they are.
    """

    output: Output = "class"
    classes: tuple[int, ...] = ()
    threshold: float | None = None
    resampling: Resampling = "nearest"

    @property
    def needs_probabilities(self) -> bool:
        """True when class numbers, or an embedding's components, cannot answer alone: all that the network says."""
        if self.output in NUMBERS:
            return self.output == "value"
        return self.output != "class" or self.threshold is not None or self.resampling != "nearest"
