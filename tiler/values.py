"""The small frozen values that the rooms hand to each other. Axis order always stands in the name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

# Of classes: their numbers, probabilities, the winner's probability, its number with it, how far an ensemble's members
# lie apart. Else: values, an embedding's components in colour.
Output = Literal["class", "probability", "confidence", "class_confidence", "spread", "value", "rgb"]
NUMBERS = ("spread", "value", "rgb")
Resampling = Literal["nearest", "bilinear"]

Classes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]


class Cell(NamedTuple):
    """One block of the grid, counted in cells from the grid's upper left corner."""

    row: int
    col: int


# How much of a cell is wanted: False, True, or this: probabilities as the network gave them (float32). An ensemble's
# mean needs them: rounded ones would choose another class where two are close.
PRECISE = 2


class Key(NamedTuple):
    """What decides a cell's scores. Colours and image formats stay out: a new palette costs no inference.

    probabilities: whether they are wanted; `PRECISE` ones are kept beside the others.
    """

    revision: str
    cell: Cell
    probabilities: int


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
        probabilities: float16 [classes, rows, cols] in the order of the model's classes, or None when nobody asked;
            float32 where they are `PRECISE`.
        values: float32 [channels, rows, cols] of a regression, or of an embedding when somebody asked.
        components: float16 [3, rows, cols] of an embedding.
        spread: float16 [1, rows, cols] of an ensemble, with its probabilities: how far its members lie apart.
    """

    classes: Classes | None
    valid: Mask
    probabilities: Halves | Floats | None = None
    values: Floats | None = None
    components: Halves | None = None
    spread: Halves | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held, for caches that count them."""
        planes = (self.classes, self.probabilities, self.values, self.components, self.spread)
        return self.valid.nbytes + sum(plane.nbytes for plane in planes if plane is not None)

    def cut(self, rows: slice, cols: slice) -> Scores:
        """The part of some rows and columns; arrays are copies."""

        def part(plane: NDArray[Any] | None) -> Any:
            return None if plane is None else plane[..., rows, cols].copy()

        return Scores(*(part(getattr(self, name)) for name in self.__slots__))

    def enlarged(self, height: int, width: int) -> Scores:
        """Zeros of the same kind for `height` x `width` pixels, to `put` parts into."""

        def empty(plane: NDArray[Any] | None) -> Any:
            return None if plane is None else np.zeros((*plane.shape[:-2], height, width), plane.dtype)

        return Scores(*(empty(getattr(self, name)) for name in self.__slots__))

    def put(self, row: int, col: int, part: Scores) -> None:
        """Copy a part in, its upper left pixel at (row, col)."""
        height, width = part.valid.shape
        for name in self.__slots__:
            plane = getattr(self, name)
            if plane is not None:
                plane[..., row : row + height, col : col + width] = getattr(part, name)


# In a LabelRef's classes: all classes of the model that no other label names.
OTHERS = "*"


@dataclass(frozen=True, slots=True)
class LabelRef:
    """Labels of a scene that somebody has named.

    Attributes:
        source: path or URL that GDAL opens.
        title: for people.
        classes: label number -> names or numbers of the model's classes that it stands for, or `*`; None: label numbers
            are the model's own.
        ignore: numbers that are not judged.
    """

    source: Any = field(repr=False)
    title: str = ""
    classes: tuple[tuple[int, tuple[str, ...]], ...] | None = None
    ignore: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        source: Any,
        title: str | None = None,
        classes: Mapping[int, int | str | Sequence[int | str]] | None = None,
        ignore: Sequence[int] = (),
    ) -> LabelRef:
        """From what people write: one class or several per label number.

        Raises:
            ValueError: a number is both meaningful and ignored, or stands for nothing.
        """
        if classes is None:
            return cls(source, title or "", None, tuple(ignore))
        named = []
        for label, wanted in sorted(classes.items()):
            names = (wanted,) if isinstance(wanted, (int, str)) else tuple(wanted)
            if label in ignore:
                raise ValueError(f"label {label} is in `classes` and in `ignore`")
            if not names:
                raise ValueError(f"label {label} stands for no class: name one, or put it into `ignore`")
            named.append((label, tuple(str(name).strip() for name in names)))
        return cls(source, title or "", tuple(named), tuple(ignore))


@dataclass(frozen=True, slots=True)
class Style:
    """What of the prediction is wanted, and how it is warped. Colours and image formats are not part of it.

    Attributes:
        output: class numbers, one probability per class, the probability of the winning class, or an ensemble's spread;
            values, or an embedding's three components.
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
            return self.output != "rgb"
        return self.output != "class" or self.threshold is not None or self.resampling != "nearest"


def hex_of(color: Sequence[int]) -> str:
    """#rrggbb of 0..255 each; what follows them is left out."""
    return "#{:02x}{:02x}{:02x}".format(*color[:3])
