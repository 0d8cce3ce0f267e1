"""The files that an export writes: their bands, how numbers stand in them, and how they are pooled in overviews."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiler.assemble import Picture, band_names
from tiler.errors import RequestError
from tiler.layer import Layer
from tiler.outputs import offered
from tiler.values import Output, Style

# Probabilities are written as whole numbers of 1/254; 255 stands for no data.
STEPS = 254
NO_SHARE = 255

Color = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Product:
    """One file.

    Attributes:
        style: what of the prediction it shows.
        dtype: numpy's name.
        bands: their descriptions.
        nodata: what stands for 'no data'.
        scale: physical value of one step, None where numbers are what they are.
        overviews: GDAL's word for how they are pooled.
        classes: (value, name, colour) of class numbers, else none.
    """

    style: Style
    dtype: str
    bands: tuple[str, ...]
    nodata: float
    scale: float | None
    overviews: str
    classes: tuple[tuple[int, str, Color], ...] = ()

    @property
    def name(self) -> Output:
        """What it holds."""
        return self.style.output

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel, all bands."""
        return len(self.bands) * np.dtype(self.dtype).itemsize

    def empty(self, height: int, width: int) -> NDArray[np.generic]:
        """[bands, rows, cols] without data."""
        return np.full((len(self.bands), height, width), self.nodata, self.dtype)

    def encoded(self, picture: Picture) -> NDArray[np.generic]:
        """A picture's pixels as they stand in the file, [bands, rows, cols]."""
        values: NDArray[np.generic] = picture.values
        if self.scale is not None:
            values = np.rint(np.clip(picture.values.astype(np.float32), 0, 1) * STEPS)
        return np.where(picture.valid, values, self.nodata).astype(self.dtype)


def products_of(layer: Layer, wanted: Sequence[Output]) -> tuple[Product, ...]:
    """The files of an export: always the class numbers (or values) themselves, and what else was asked for.

    Raises:
        RequestError: an output that the model does not have.
        MisfitError: 256 classes leave no number for 'no data'.
    """
    known = [output for output in offered(layer.model) if output != "rgb"]
    first: Output = "class" if "class" in known else "value"
    for output in wanted:
        if output not in known:
            raise RequestError(
                f"output {output!r} cannot be exported of model {layer.model.name!r}", f"Use {' or '.join(known)}"
            )
    return tuple(_product(layer, output) for output in dict.fromkeys((first, *wanted)))


def _product(layer: Layer, output: Output) -> Product:
    style = Style(output=output)
    bands = band_names(layer, style)
    if output == "class":
        classes = tuple((item.value, item.name, item.color) for item in layer.model.classes)
        return Product(style, "uint8", bands, layer.nodata, None, "MODE", classes)
    if output == "value":
        return Product(style, "float32", bands, float("nan"), None, "AVERAGE")
    return Product(style, "uint8", bands, NO_SHARE, 1 / STEPS, "AVERAGE")
