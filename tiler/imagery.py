"""The scene itself as map tiles, for a look at what the model sees. Plain TiTiler work, kept small."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from morecantile import TileMatrixSet
from numpy.typing import NDArray
from rio_tiler.errors import TileOutsideBounds
from rio_tiler.io import Reader
from rio_tiler.models import ImageData
from rio_tiler.utils import render

from tiler.scene import Scene, gdal_env
from tiler.values import View

# Percentiles of a small overview that become black and white when nobody says otherwise.
STRETCH = (2.0, 98.0)
STRETCH_SIZE = 512


@dataclass
class Imagery:
    """A scene shown as it is.

    Attributes:
        scene: the raster.
        bands: bands shown as red, green, blue (or one for gray); None finds them.
        rescale: values shown as black and white; None measures them once.
    """

    scene: Scene
    bands: list[int] | None = None
    rescale: tuple[float, float] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def tile(self, tms: TileMatrixSet, x: int, y: int, z: int, tilesize: int) -> bytes:
        """PNG of one tile; transparent outside of the scene and where it has no data."""
        indexes = self.bands or display_bands(self.scene)
        with gdal_env(dict(self.scene.env)), Reader(self.scene.source, tms=tms) as reader:
            try:
                image = reader.tile(x, y, z, tilesize=tilesize, indexes=indexes, resampling_method="bilinear")
            except TileOutsideBounds:
                empty = np.zeros((3, tilesize, tilesize), np.uint8)
                return render(empty, empty[0])
            low, high = self._range(reader, indexes)
        return render(*_shown(image, low, high), zlevel=1)

    def view(self, view: View) -> NDArray[np.uint8]:
        """The scene on a view's pixels: uint8 [rows, cols, 4], transparent where there is none."""
        indexes = self.bands or display_bands(self.scene)
        with gdal_env(dict(self.scene.env)), Reader(self.scene.source) as reader:
            image = reader.part(
                view.bounds, bounds_crs=view.crs, dst_crs=view.crs, height=view.height, width=view.width,
                indexes=indexes, resampling_method="bilinear",
            )  # fmt: skip
            low, high = self._range(reader, indexes)
        data, mask = _shown(image, low, high)
        return np.concatenate([data, mask[None]]).transpose(1, 2, 0).astype(np.uint8)

    def _range(self, reader: Reader, indexes: list[int]) -> tuple[float, float]:
        with self._lock:
            if self.rescale is None:
                if all(band.dtype == "uint8" for band in self.scene.bands if band.index in indexes):
                    self.rescale = (0.0, 255.0)
                else:
                    values = reader.preview(indexes=indexes, max_size=STRETCH_SIZE).array.compressed()
                    values = values[np.isfinite(values)]
                    low, high = np.percentile(values, STRETCH) if values.size else (0.0, 1.0)
                    self.rescale = (float(low), float(max(high, low + 1e-6)))
            return self.rescale


def _shown(image: ImageData, low: float, high: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Three bands in 0..255 and the mask."""
    if image.array.dtype != np.uint8 or (low, high) != (0.0, 255.0):
        image.rescale(((low, high),))
    return image.data if len(image.data) == 3 else np.repeat(image.data[:1], 3, axis=0), image.mask


def display_bands(scene: Scene) -> list[int]:
    """Bands that show a scene in natural colours as far as its names and colours tell, else the first three or one."""
    wanted = (("red", "b04", "b4"), ("green", "b03", "b3"), ("blue", "b02", "b2"))
    found = []
    for names in wanted:
        for band in scene.bands:
            if band.color in names or band.name.casefold() in names:
                found.append(band.index)
                break
    if len(found) == 3:
        return found
    indexes = [band.index for band in scene.data_bands]
    return indexes[:3] if len(indexes) >= 3 else indexes[:1]
