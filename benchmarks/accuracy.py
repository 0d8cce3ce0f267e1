"""How right the map is where somebody has drawn the truth: published networks over labelled imagery, through tiles.

    python -m benchmarks.accuracy [--json]

Each network is added to a registry by `tiler models add`; its scenes are asked for as `.tif` tiles; each pixel of the
scene takes the class of the tile pixel over its centre. Beside it stands one pass of the same file over the same pixels
by ONNX Runtime alone: what serving costs in accuracy is the difference.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import rasterio
from morecantile import tms as default_tms
from numpy.typing import NDArray
from pyproj import Transformer
from starlette.testclient import TestClient

from benchmarks import machine
from benchmarks.real_models import DATA, NETWORKS, add
from tiler.app import create_app
from tiler.settings import Settings

TILE = 256
MERCATOR = default_tms.get("WebMercatorQuad")
SPAIN = Path("sen1floods11_spain/Spain_7370579_S2Hand.tif")
PATCHES = "chesapeake_naip_patches"
# Class of the network for each label: water, tree, low vegetation, barren, impervious, road. 0 is no label.
PATCH_CLASSES = np.array([0, 1, 2, 3, 4, 4, 4])
# The network was made to keep the 128 px in the middle of 256.
CENTRE = np.s_[64:192, 64:192]
# Tile pixels are smaller than the scene's by this factor, so that the one over a centre shows that very pixel.
FINER = 0.9


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the pixels that have a label.

    Attributes:
        right, all: pixels with the label's class, and all with a label.
        both, either: pixels that are water by map and label, and by one of them at least.
    """

    right: int
    all: int
    both: int = 0
    either: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Of two scenes together."""
        return Counts(
            self.right + other.right, self.all + other.all, self.both + other.both, self.either + other.either
        )

    @property
    def accuracy(self) -> float:
        """Share of the pixels that are right, 0 to 1; NaN without labels."""
        return self.right / self.all if self.all else math.nan

    @property
    def iou(self) -> float:
        """Intersection over union of water, 0 to 1; NaN where there is none."""
        return self.both / self.either if self.either else math.nan


def water_counts(classes: NDArray[Any], labels: NDArray[Any]) -> Counts:
    """Of a map of Dynamic World's classes, whose 0 is water, with labels of 1 water, 0 none, -1 unknown."""
    known = labels >= 0
    mapped, drawn = (classes == 0)[known], (labels == 1)[known]
    return Counts(
        int((mapped == drawn).sum()), int(known.sum()), int((mapped & drawn).sum()), int((mapped | drawn).sum())
    )


def cover_counts(classes: NDArray[Any], labels: NDArray[Any]) -> Counts:
    """Of a map of the NAIP network's classes with Chesapeake's labels, in the middle of the patch."""
    wanted = PATCH_CLASSES[labels[CENTRE]]
    known = wanted > 0
    return Counts(int((classes[CENTRE] == wanted)[known].sum()), int(known.sum()))


def read_labels(path: Path) -> NDArray[Any]:
    """The first band of a raster."""
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read(1))


def one_pass(network: Path, pixels: NDArray[Any]) -> NDArray[np.int64]:
    """Class of each pixel of [bands, rows, cols], in one pass without padding."""
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: pixels[None].astype(np.float32)})
    return np.asarray(scores)[0].argmax(axis=0)


def through_tiles(client: TestClient, pair: str, scene: Path) -> NDArray[np.int64]:
    """Class of each pixel [rows, cols] of a scene by the `.tif` tiles of /`pair`; -1 where they have none."""
    with rasterio.open(scene) as dataset:
        rows, cols = np.indices(dataset.shape)
        to_mercator = Transformer.from_crs(dataset.crs, 3857, always_xy=True)
        x, y = to_mercator.transform(*(dataset.transform * (cols + 0.5, rows + 0.5)))
    step = min(math.hypot(x[0, 1] - x[0, 0], y[0, 1] - y[0, 0]), math.hypot(x[1, 0] - x[0, 0], y[1, 0] - y[0, 0]))
    zoom = next(z for z in range(25) if MERCATOR.matrix(z).cellSize <= FINER * step)
    span = MERCATOR.matrix(zoom).cellSize * TILE
    left, top = MERCATOR.matrix(zoom).pointOfOrigin
    across, down = np.floor((x - left) / span).astype(int), np.floor((top - y) / span).astype(int)
    classes = np.full(rows.shape, -1)
    for column, line in np.unique(np.stack([across.ravel(), down.ravel()]), axis=1).T:
        inside = (across == column) & (down == line)
        answer = client.get(f"/{pair}/{zoom}/{column}/{line}.tif")
        if answer.status_code != 200:
            raise RuntimeError(f"{pair}: {answer.status_code} {answer.text[:300]}")
        with rasterio.MemoryFile(answer.content) as file, file.open() as tile:
            at_x, at_y = ~tile.transform * (x[inside], y[inside])
            found = np.where(tile.dataset_mask() > 0, tile.read(1).astype(int), -1)
        classes[inside] = found[np.floor(at_y).astype(int), np.floor(at_x).astype(int)]
    return classes


def sentinel_bands(path: Path) -> NDArray[Any]:
    """The nine bands of Dynamic World [9, rows, cols], in its order, found by name: B2 is also written B02."""
    with rasterio.open(path) as dataset:
        names = [str(name).upper().replace("B0", "B") for name in dataset.descriptions]
        return np.asarray(
            dataset.read([names.index(band) + 1 for band in NETWORKS["world"].answers["bands"].split(",")])
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One network over all of its labelled pixels, through tiles and in one pass."""

    network: str
    scene: str
    tiles: Counts
    once: Counts
    same: float
    runtime: str
    exactness: str


def measure(data: Path, registry: Path) -> Iterator[Row]:
    """Add, serve and measure; a row for each network."""
    folders = {name: str(add(name, registry, data)) for name in NETWORKS if name != "world-norm"}
    patches = sorted((data / PATCHES).glob("*_naip.tif"))
    scenes: dict[str, Any] = {"spain": {"path": str(data / SPAIN)}}
    # GDAL takes the fourth of four 8-bit bands for alpha, and these files do not name theirs.
    scenes |= {f"patch{n}": {"path": str(path), "bands": [1, 2, 3, 4]} for n, path in enumerate(patches)}
    with TestClient(create_app(Settings(scenes=scenes, models=folders, default_model="world"))) as client:
        flood = read_labels(data / SPAIN.with_name("Spain_7370579_LabelHand.tif"))
        offline = one_pass(data / NETWORKS["world"].file, sentinel_bands(data / SPAIN))
        for name in ("world", "world-any"):
            served = through_tiles(client, f"spain/{name}", data / SPAIN)
            told = client.get(f"/spain/{name}/tilejson.json").json()
            yield Row(
                name, "sen1floods11_spain", water_counts(served, flood), water_counts(offline, flood),
                float((served == offline).mean()), *_runs_as(told),
            )  # fmt: skip
        for name in ("naip", "naip-1epoch"):
            tiles, once, same = Counts(0, 0), Counts(0, 0), []
            for number, path in enumerate(patches):
                labels = read_labels(path.with_name(path.name.replace("_naip", "_lc")))
                served = through_tiles(client, f"patch{number}/{name}", path)
                with rasterio.open(path) as dataset:
                    offline = one_pass(data / NETWORKS[name].file, dataset.read())
                tiles, once = tiles + cover_counts(served, labels), once + cover_counts(offline, labels)
                same.append(float((served == offline)[CENTRE].mean()))
            told = client.get(f"/patch0/{name}/tilejson.json").json()
            yield Row(name, f"{PATCHES}, centres", tiles, once, float(np.mean(same)), *_runs_as(told))


def _runs_as(told: dict[str, Any]) -> tuple[str, str]:
    return f"{told.get('runtime')} {told.get('precision')}", str(told.get("exactness"))


def table(rows: Sequence[Row]) -> str:
    """The rows, in Markdown."""
    lines = [
        "| network | over | labelled px | accuracy, tiles | one pass | water IoU, tiles | one pass | same class "
        "| ran on | exactness |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ious = [f"{one.iou:.4f}" if one.either else "" for one in (row.tiles, row.once)]
        lines.append(
            f"| {row.network} | {row.scene} | {row.tiles.all} | {row.tiles.accuracy:.4f} | {row.once.accuracy:.4f} "
            f"| {ious[0]} | {ious[1]} | {100 * row.same:.2f} % | {row.runtime} | {row.exactness} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table, and, if asked for, one last line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the scenes, labels and networks")
    given = parser.parse_args(arguments)
    if not (given.data / SPAIN).exists():
        print(f"There is no {SPAIN} below the data folder; name another with --data", file=sys.stderr)
        return 2
    about = machine.describe()
    for name, value in about.items():
        print(f"{name}: {value}", flush=True)
    with tempfile.TemporaryDirectory(prefix="accuracy-") as registry:
        rows = list(measure(given.data, Path(registry)))
    print(table(rows))
    if given.json:
        print(
            json.dumps(
                {
                    row.network: {
                        "accuracy": row.tiles.accuracy,
                        "accuracy_one_pass": row.once.accuracy,
                        "iou": row.tiles.iou if row.tiles.either else None,
                        "iou_one_pass": row.once.iou if row.once.either else None,
                        "same": row.same,
                    }
                    for row in rows
                }
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
