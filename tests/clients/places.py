"""The scenes that every client is shown, and what must be seen of them: worked out with pyproj and numpy alone.

One scene lies in UTM, where north is not up in the map's projection, and one in EPSG:4326, whose pixels are not square
there. Both have blocks of four classes and a hole without data. What a client shows is compared pixel by pixel, but for
a margin along the blocks' edges.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray

from tests.tiler.helpers import classifier, write_scene

HEIGHT, WIDTH, BLOCK = 240, 320, 40
VALUES = (40, 95, 150, 205)
COLORS = ("E60000", "00A000", "0050FF", "FFD000")
HOLE = (slice(85, 150), slice(110, 205))
# What the tests paint behind the map: whoever sees it sees through the prediction.
BEHIND = (255, 0, 255)
GSD = 0.5
UTM = "EPSG:32632"
CLASSES = ["a", "b", "c", "d"]


@dataclass(frozen=True)
class Place:
    """Where a scene lies. `transform` takes (column, row) to the scene's own coordinates."""

    crs: str
    transform: Affine

    @property
    def center(self) -> tuple[float, float]:
        """Longitude and latitude of the scene's middle."""
        x, y = self.transform @ (WIDTH / 2, HEIGHT / 2)
        return pyproj.Transformer.from_crs(self.crs, "EPSG:4326", always_xy=True).transform(x, y)

    def rows_and_cols(self, x: NDArray[Any], y: NDArray[Any], crs: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Row and column, with fractions, of coordinates in `crs`."""
        x, y = pyproj.Transformer.from_crs(crs, self.crs, always_xy=True).transform(x, y)
        cols, rows = ~self.transform @ (x, y)
        return rows, cols


LON, LAT = 10.6513, 48.3967
PLACES = {
    "utm": Place(UTM, Affine(GSD, 0, 622_143.37, 0, -GSD, 5_361_700.81)),
    "degrees": Place(
        "EPSG:4326", Affine(GSD / 73_990, 0, LON, 0, -GSD / 111_210, LAT)
    ),  # metres of a degree there, to a thousandth
}


def classes() -> NDArray[np.uint8]:
    """Class of every pixel [rows, cols]; 255 in the hole."""
    blocks = np.random.default_rng(4).integers(0, len(VALUES), (HEIGHT // BLOCK, WIDTH // BLOCK))
    # Neighbours that differ, so that every block's edge can be seen.
    blocks = (blocks // 2 * 2 + np.indices(blocks.shape).sum(axis=0) % 2).astype(np.uint8)
    shown = blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
    shown[HOLE] = 255
    return shown


def write_place(path: Path, place: Place) -> Path:
    """The scene: one band, noise around each class's value, 0 where there is no data."""
    found = classes()
    noise = np.random.default_rng(5).integers(-9, 10, found.shape)
    pixels = np.where(found == 255, 0, np.append(VALUES, np.zeros(252, int))[found] + noise).astype(np.uint8)
    return write_scene(path, pixels[None], crs=place.crs, transform=place.transform, nodata=0)


def write_classifier(folder: Path, values: Sequence[float] = VALUES) -> Path:
    """The model: each pixel's class is that of the nearest value. With the values turned round, so are the colours."""
    listed = [
        {"value": number, "name": name, "color_hint": color}
        for number, (name, color) in enumerate(zip(CLASSES, COLORS, strict=True))
    ]
    return classifier(folder, values, classes=listed, gsd=GSD, title="landcover")


def replace_model(folder: Path, fresh: Path) -> None:
    """Put another model's files in the place of a folder's, each at once."""
    for file in fresh.iterdir():
        aside = folder / f".{file.name}"
        shutil.copy(file, aside)
        aside.replace(folder / file.name)


def palette(colors: tuple[str, ...] = COLORS, behind: tuple[int, int, int] = BEHIND) -> NDArray[np.uint8]:
    """[256, 3]: red, green and blue of each class number, and of what lies behind."""
    table = np.full((256, 3), behind, np.uint8)
    for number, color in enumerate(colors):
        table[number] = [int(color[place : place + 2], 16) for place in (0, 2, 4)]
    return table


def expected(
    place: Place, x: NDArray[Any], y: NDArray[Any], crs: str, margin: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Class at coordinates (255: nothing), and whether that is sure.

    `margin` is in scene pixels: nearer than that to where something else begins, nothing is said.
    """
    found = np.full((HEIGHT + 2 * BLOCK, WIDTH + 2 * BLOCK), 255, np.uint8)
    found[BLOCK:-BLOCK, BLOCK:-BLOCK] = classes()

    rows, cols = place.rows_and_cols(x, y, crs)

    def at(down: float, right: float) -> NDArray[np.uint8]:
        row = np.clip(np.floor(rows + down).astype(int) + BLOCK, 0, found.shape[0] - 1)
        col = np.clip(np.floor(cols + right).astype(int) + BLOCK, 0, found.shape[1] - 1)
        return found[row, col]

    here = at(0, 0)
    near = [at(down, right) for down in (-margin, 0, margin) for right in (-margin, 0, margin)]
    return here, np.logical_and.reduce([other == here for other in near])


def misplaced(
    picture: NDArray[np.uint8],
    place: Place,
    coordinates: Callable[[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]],
    crs: str,
    *,
    margin: float,
    colors: tuple[str, ...] = COLORS,
    behind: tuple[int, int, int] = BEHIND,
) -> tuple[int, int]:
    """How many pixels of a picture show something else than they must, and how many were sure enough to be compared.

    Args:
        picture: [rows, cols, 3].
        place: of the scene.
        coordinates: takes x and y in pixels of the picture to coordinates in `crs`.
        crs: of the picture.
        margin: in scene pixels.
        colors: of the classes.
        behind: colour of what lies behind the prediction.
    """
    height, width, _ = picture.shape
    xs, ys = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    shown, sure = expected(place, *coordinates(xs, ys), crs, margin)
    # Every class, the hole and what lies around the scene must be in the picture, or nothing was tested.
    assert {0, 1, 2, 3, 255} == set(np.unique(shown[sure]))
    off = np.abs(picture.astype(int) - palette(colors, behind)[shown]).max(axis=-1) > 3
    return int((off & sure).sum()), int(sure.sum())
