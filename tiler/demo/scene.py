"""Writes the invented landscape as Cloud Optimized GeoTIFFs: the picture, and its true labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.transform import Affine, from_origin

from tiler.demo.canvas import METRES
from tiler.demo.card import CLASSES
from tiler.demo.landscape import NO_LABEL, Landscape, generate

DEMO_SEED = 42
CRS = "EPSG:32632"
ORIGIN = (691_204.25, 5_336_118.75)  # metres east and north of the upper left corner: farmland by Munich
SCENE_NODATA = 0

COG_OPTIONS: Mapping[str, str | int] = {"compress": "deflate", "predictor": 2, "blocksize": 512, "overviews": "auto"}


def write_scene(path: Path | str, seed: int = DEMO_SEED, size: int = 4096) -> Path:
    """Write the picture of a seed, three uint8 bands with nodata 0; returns the path."""
    return write_picture(path, generate(seed, size))


def write_labels(path: Path | str, seed: int = DEMO_SEED, size: int = 4096) -> Path:
    """Write the true classes of a seed, one uint8 band with nodata 255 and a colour table; returns the path."""
    return write_truth(path, generate(seed, size))


def write_picture(path: Path | str, landscape: Landscape) -> Path:
    """Write the picture of a landscape made before."""
    with MemoryFile() as memory:
        with memory.open(**_profile(landscape.rgb, SCENE_NODATA)) as dataset:
            dataset.write(landscape.rgb)
            dataset.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
            dataset.descriptions = ("red", "green", "blue")
        return _publish(memory, Path(path), resampling="average")


def write_truth(path: Path | str, landscape: Landscape) -> Path:
    """Write the true classes of a landscape made before."""
    with MemoryFile() as memory:
        with memory.open(**_profile(landscape.labels[None], NO_LABEL)) as dataset:
            dataset.write(landscape.labels, 1)
            dataset.write_colormap(1, colour_table())
            dataset.set_band_description(1, "land cover")
            dataset.update_tags(1, **{str(value): name for value, (name, _) in enumerate(CLASSES)})
        # Classes have no average: overviews take one of the pixels, the most frequent.
        return _publish(memory, Path(path), resampling="mode")


def colour_table() -> dict[int, tuple[int, int, int, int]]:
    """Class value to red, green, blue, alpha, 0..255; what the camera did not see is transparent."""
    table = {NO_LABEL: (0, 0, 0, 0)}
    for value, (_, colour) in enumerate(CLASSES):
        red, green, blue = bytes.fromhex(colour)
        table[value] = (red, green, blue, 255)
    return table


def _profile(bands: NDArray[np.uint8], nodata: int) -> dict[str, Any]:
    """Creation options of a plain GeoTIFF for uint8 [bands, H, W]."""
    count, height, width = bands.shape
    transform: Affine = from_origin(*ORIGIN, METRES, METRES)
    return {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": "uint8",
        "crs": CRS,
        "transform": transform,
        "nodata": nodata,
        "photometric": "RGB" if count == 3 else "PALETTE",
    }


def _publish(memory: MemoryFile, path: Path, resampling: str) -> Path:
    """Copy to a COG beside the final place, then rename: whoever sees the name sees a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        rasterio.shutil.copy(
            memory.name, part, driver="COG", overview_resampling=resampling, num_threads=2, **COG_OPTIONS
        )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
