"""Networks whose answer depends on the window: fixed windows, blended. Every door against a blend of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS

from model_registry import load
from model_registry.testing import global_mean, instance_norm, passthrough, write_model
from tests.tiler.helpers import (
    RES,
    Host,
    blended_scene,
    host,
    landscape,
    scene_pixels_of_tile,
    softmax,
    tiles_over,
    write_scene,
)
from tiler import layer as room
from tiler.blend import blended, weights
from tiler.engine import Engine
from tiler.errors import TooLargeError
from tiler.grid import Footprint, Grid, cells_covering
from tiler.layer import fit
from tiler.predict import plan
from tiler.scene import SceneRef, open_scene
from tiler.values import Cell, Rect, Scores, Style, View

HEIGHT, WIDTH = 300, 410
SIDE, HALO = 128, 32  # of a window, and of what it shares with each neighbour
CELL = SIDE - 2 * HALO
HOLE = (slice(90, 140), slice(180, 260))
NEAR = 2e-3  # two probabilities closer than this may change places in float16
WINDOW = {"multiple": 1, "period": 1, "halo": HALO, "preferred": SIDE}
Numbers = NDArray[np.float64]


def imagery() -> NDArray[np.uint8]:
    """Tones that change across the scene, so that a window's mean says where it lies."""
    tone = np.linspace(0, 110, WIDTH)[None, :] + np.linspace(0, 60, HEIGHT)[:, None]
    return np.clip(landscape(HEIGHT, WIDTH) * 0.35 + tone, 1, 255).astype(np.uint8)


PIXELS = imagery()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blend")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[HOLE] = False
    return write_scene(folder / "scene.tif", PIXELS, mask=mask)


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, Path]:
    stated: dict[str, Any] = {"window": WINDOW, "exactness": "unsafe", "gsd": round(RES, 4)}
    value = {"name": "height", "unit": "m", "range": [-2, 2], "scale": 3, "offset": 1}
    return {
        "norm": write_model(folder / "norm", instance_norm(), classes=list("abcd"), **stated),
        "mean": write_model(folder / "mean", global_mean(), classes=list("abcd"), **stated),
        "value": write_model(
            folder / "value", global_mean(classes=1), tasks=["regression"], output={"value": value}, **stated
        ),
        "vector": write_model(
            folder / "vector", instance_norm(classes=6), tasks=["feature-extraction"], channels=6, **stated
        ),
        "labels": write_model(
            folder / "labels",
            passthrough(),
            classes=[str(number) for number in range(255)],
            bands=["gray"],
            scaling=None,
            output={"emits": "labels"},
            **stated,
        ),
    }


@pytest.fixture(scope="module")
def served(models: dict[str, Path]) -> Host:
    return host(models)


def expected(onnx: Path, finish: Callable[[Numbers], Numbers]) -> Numbers:
    scaled = PIXELS.astype(np.float32) / 255
    scaled[:, HOLE[0], HOLE[1]] = 0  # what stands in for missing pixels
    return blended_scene(onnx, scaled, finish, side=SIDE, halo=HALO)


@pytest.fixture(scope="module")
def shares(models: dict[str, Path]) -> dict[str, Numbers]:
    """Probabilities of the two classifiers."""
    return {name: expected(models[name] / "model.onnx", softmax) for name in ("norm", "mean")}


def lead(probabilities: Numbers) -> Numbers:
    ordered = np.sort(probabilities, axis=0)
    return np.asarray(ordered[-1] - ordered[-2])


def shown(served: Host, model: str, scene: Path, **params: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Every pixel of the scene through HTTP tiles of 256 px: values [bands, rows, cols] and validity."""
    values: Any = None
    seen = np.zeros((HEIGHT, WIDTH), bool)
    for tile in tiles_over(scene):
        got = served.npy(f"{model}/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.npy", scene, **params)
        rows, cols, inside = scene_pixels_of_tile(scene, tile, 256)
        if values is None:
            values = np.zeros((len(got) - 1, HEIGHT, WIDTH), got.dtype)
        values[:, rows[inside], cols[inside]] = got[:-1, inside]
        seen[rows[inside], cols[inside]] = got[-1][inside] > 0
    return values, seen


def data() -> NDArray[np.bool_]:
    there = np.ones((HEIGHT, WIDTH), bool)
    there[HOLE] = False
    return there


@pytest.mark.parametrize("name", ["norm", "mean"])
def test_tiles_equal_a_blend_of_our_own(served: Host, scene: Path, shares: dict[str, Numbers], name: str) -> None:
    classes, seen = shown(served, name, scene)
    assert (seen == data()).all()
    wrong = (classes[0] != shares[name].argmax(axis=0)) & seen & (lead(shares[name]) >= NEAR)
    assert wrong.sum() == 0
    assert len(np.unique(classes)) >= 3
    probabilities, _ = shown(served, name, scene, output="probability")
    assert np.abs(probabilities - shares[name])[:, seen].max() < NEAR / 2


def hard(shares: Numbers, window: Callable[[int, int], Numbers]) -> Numbers:
    """What cells side by side would show: each pixel of the window in whose middle it lies."""
    found = np.zeros_like(shares)
    for top in range(0, HEIGHT, CELL):
        for left in range(0, WIDTH, CELL):
            cell = (slice(top, min(top + CELL, HEIGHT)), slice(left, min(left + CELL, WIDTH)))
            found[:, *cell] = window(top, left)[:, HALO : HALO + CELL, HALO : HALO + CELL][
                :, : cell[0].stop - top, : cell[1].stop - left
            ]
    return found


def stripes(probabilities: Numbers) -> float:
    """How much steeper the columns and rows at borders are than all others: mean steps, and 1 means no stripe."""
    ratios = []
    for axis, size in ((1, HEIGHT), (2, WIDTH)):
        steps = np.abs(np.diff(probabilities, axis=axis)).mean(axis=(0, 3 - axis))
        at = np.isin(np.arange(1, size) % CELL, [0])
        ratios.append(steps[at].mean() / steps[~at].mean())
    return float(max(ratios))


def test_no_stripe_is_left_at_the_borders(served: Host, models: dict[str, Path], folder: Path) -> None:
    """On a smooth scene, where nothing else hides them. Cells side by side fail the same test."""
    rows, cols = np.mgrid[0:HEIGHT, 0:WIDTH]
    smooth = np.stack([90 + 70 * np.sin(rows / 60 + band) * np.cos(cols / 75 - band) for band in range(3)])
    smooth = smooth.astype(np.uint8)
    scene = write_scene(folder / "smooth.tif", smooth)
    shown_now, seen = shown(served, "norm", scene, output="probability")
    assert seen.all()
    session = onnxruntime.InferenceSession(
        str(models["norm"] / "model.onnx"), providers=["CPUExecutionProvider"]
    )  # fmt: skip
    padded = np.pad(smooth, ((0, 0), (HALO, 2 * SIDE), (HALO, 2 * SIDE)), mode="reflect").astype(np.float32) / 255

    def window(top: int, left: int) -> Numbers:
        (scores,) = session.run(None, {"x": padded[None, :, top : top + SIDE, left : left + SIDE]})
        return softmax(np.asarray(scores[0], np.float64))

    assert stripes(hard(shown_now.astype(np.float64), window)) > 3
    assert stripes(shown_now.astype(np.float64)) < 1.3


def test_every_door_says_the_same(served: Host, scene: Path) -> None:
    """Tiles, points, a tif, statistics of a polygon: the same class for the same pixel."""
    classes, seen = shown(served, "norm", scene)
    with rasterio.open(scene) as dataset:
        transform, bounds = dataset.transform, dataset.bounds
    # A part of the scene whose corner is no cell's, as a tif on the grid's own pixels.
    part = (slice(53, 217), slice(71, 333))
    left, top = transform @ (71, 53)
    right, bottom = transform @ (333, 217)
    box = f"{left},{bottom},{right},{top}"
    answer = served.get(
        f"norm/bbox/{box}/262x164.tif", scene, coord_crs="epsg:3857", dst_crs="epsg:3857", return_mask=True
    )
    assert answer.status_code == 200, answer.text
    with rasterio.MemoryFile(answer.content) as file, file.open() as dataset:
        tif, mask = dataset.read(1), dataset.dataset_mask() > 0
    assert (mask == seen[part]).all() and (tif == classes[0][part])[mask].all()
    # Points at and beside borders, at the scene's corners, and anywhere.
    random = np.random.default_rng(3)
    places = [(0, 0), (HEIGHT - 1, WIDTH - 1), (CELL, CELL), (CELL - 1, CELL), (CELL + HALO, 2 * CELL - HALO)]
    anywhere = zip(random.integers(0, HEIGHT, 12), random.integers(0, WIDTH, 12), strict=True)
    places += [(int(row), int(col)) for row, col in anywhere]
    for row, col in places:
        x, y = transform @ (col + 0.5, row + 0.5)
        told = served.get(f"norm/point/{x},{y}", scene, coord_crs="epsg:3857").json()["values"]
        assert told == ([float(classes[0, row, col])] if seen[row, col] else [None]), (row, col)
    shape = {
        "type": "Feature",
        "properties": {},
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[bounds.left, bounds.bottom], [bounds.right, bounds.bottom], [bounds.right, bounds.top],
                             [bounds.left, bounds.top], [bounds.left, bounds.bottom]]],
        },
    }  # fmt: skip
    counted = served.client.post(
        f"{served.prefix}/norm/statistics",
        params={"url": str(scene), "categorical": True, "coord_crs": "epsg:3857"},
        json=shape,
    ).json()["properties"]["statistics"]
    counts, names = next(iter(counted.values()))["histogram"]
    expected_counts = {float(v): int((classes[0][seen] == v).sum()) for v in np.unique(classes[0][seen])}
    assert dict(zip(map(float, names), map(int, counts), strict=True)) == expected_counts


def test_values_are_blended(served: Host, models: dict[str, Path], scene: Path) -> None:
    values, seen = shown(served, "value", scene)
    wanted = expected(models["value"] / "model.onnx", lambda scores: scores * 3 + 1)
    assert np.abs(values - wanted)[:, seen].max() < 1e-4


def test_an_embedding_is_blended_in_colour_and_in_numbers(served: Host, models: dict[str, Path], scene: Path) -> None:
    wanted = expected(models["vector"] / "model.onnx", lambda scores: scores)
    values, seen = shown(served, "vector", scene, output="value")
    assert np.abs(values - wanted)[:, seen].max() < 1e-4
    components, _ = shown(served, "vector", scene, output="rgb")
    assert np.abs(components - wanted[:3])[:, seen].max() < 4e-3 * np.abs(wanted).max()


def test_confidence_and_bilinear_come_from_the_blended_probabilities(
    served: Host, scene: Path, shares: dict[str, Numbers]
) -> None:
    confidence, seen = shown(served, "norm", scene, output="confidence")
    assert np.abs(confidence[0] - shares["norm"].max(axis=0))[seen].max() < NEAR / 2
    # A scene pixel under every tile pixel, whose neighbours weigh as far as it lies off the middle.
    smooth, _ = shown(served, "norm", scene, output="probability", resampling="bilinear")
    around = np.pad(shares["norm"], ((0, 0), (1, 1), (1, 1)), mode="edge")
    near = np.stack([around[:, 1 + i : 1 + i + HEIGHT, 1 + j : 1 + j + WIDTH] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    inner = data()
    inner[HOLE[0].start - 1 : HOLE[0].stop + 1, HOLE[1].start - 1 : HOLE[1].stop + 1] = False
    assert (smooth <= near.max(axis=0) + NEAR)[:, inner].all() and (smooth >= near.min(axis=0) - NEAR)[:, inner].all()
    assert np.abs(smooth - shares["norm"])[:, inner].mean() < np.abs(np.diff(shares["norm"], axis=1)).mean()


def test_zoomed_out_the_mean_of_the_blended_is_shown(served: Host, scene: Path, shares: dict[str, Numbers]) -> None:
    with rasterio.open(scene) as dataset:
        bounds, transform = dataset.bounds, dataset.transform
    rows, cols = HEIGHT // 4 * 4, WIDTH // 4 * 4
    right, bottom = transform @ (cols, rows)
    box = f"{bounds.left},{bottom},{right},{bounds.top}"
    got = served.npy(
        f"mean/bbox/{box}/{cols // 4}x{rows // 4}.npy", scene, coord_crs="epsg:3857", dst_crs="epsg:3857",
        output="probability",
    )  # fmt: skip
    there = data()[:rows, :cols]
    fours = (shares["mean"][:, :rows, :cols] * there).reshape(4, rows // 4, 4, cols // 4, 4).sum(axis=(2, 4))
    count = there.reshape(rows // 4, 4, cols // 4, 4).sum(axis=(1, 3))
    shown_there = count * 2 >= 16
    assert ((got[-1] > 0) == shown_there).all()
    assert np.abs(got[:-1] - fours / np.maximum(count, 1))[:, shown_there].max() < NEAR / 2


def test_two_replicas_agree_to_the_byte_whatever_was_asked_first(models: dict[str, Path], scene: Path) -> None:
    one, other = host(models), host(models)
    tiles = [f"norm/tiles/WebMercatorQuad/{t.z}/{t.x}/{t.y}.npy" for t in tiles_over(scene)]
    first = {path: one.get(path, scene).content for path in tiles}
    second = {path: other.get(path, scene).content for path in reversed(tiles)}
    assert first == second


def test_class_numbers_alone_are_not_blended_and_it_is_said(served: Host, folder: Path, scene: Path) -> None:
    shades = np.minimum(PIXELS[:1], 254)
    gray = write_scene(folder / "gray.tif", shades)
    labels, seen = shown(served, "labels", gray)
    assert seen.all() and (labels == shades).all()
    tile = tiles_over(scene)[0]
    path = f"tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.png"
    assert served.get(f"labels/{path}", gray).headers["x-exactness"] == "unsafe; fixed windows"
    assert served.get(f"norm/{path}", scene).headers["x-exactness"] == "unsafe; blended"
    told = served.get("norm/info", scene).json()
    assert told["exactness"] == "unsafe"
    assert told["windows"]["blended"] and told["windows"]["redundancy"] == 4 and told["windows"]["overlap"] == 64
    assert not served.get("labels/info", gray).json()["windows"]["blended"]


def test_no_more_is_inferred_than_the_windows_that_hold_what_is_shown(models: dict[str, Path], scene: Path) -> None:
    engine = Engine()
    served = host(models, engine=engine)
    shown(served, "norm", scene)
    windows = -(-HEIGHT // CELL) * -(-WIDTH // CELL)
    assert engine.inferred_pixels == windows * SIDE**2
    assert engine.forwards == windows
    shown(served, "norm", scene, output="confidence")
    assert engine.forwards == windows, "what was kept for classes serves everything else"


@pytest.mark.parametrize(
    ("halo", "side", "multiple", "expected_cut"),
    [
        (0, 512, 8, (384, 64, 64)),  # an eighth at least
        (64, 512, 8, (384, 64, 64)),
        (96, 512, 32, (320, 96, 96)),
        (128, 512, 8, (256, 128, 128)),
        (192, 512, 64, (128, 192, 64)),  # never more than two windows along an axis
        (0, 16, 16, (16, 0, 0)),  # a window of one period has nothing to spare
    ],
)
def test_how_windows_are_cut(halo: int, side: int, multiple: int, expected_cut: tuple[int, int, int]) -> None:
    assert room._cut((side, side), halo, multiple, blends=True) == expected_cut


GRID = Grid(CRS.from_epsg(3857), 0, 0, 1, 1, 133, 187, 32, 4, 16, 1.0, True, overlap=13)


def test_weights_sum_to_one_at_every_pixel_of_every_axis() -> None:
    for size in range(1, 140):
        for overlap in (1, 4, 16):
            count, total = -(-size // 32), np.zeros(size)
            for number in range(count):
                start = max(0, number * 32 - overlap)
                found = weights(number, count, 32, overlap, size)
                assert found.min() > 0 and found.max() <= 1
                total[start : start + len(found)] += found
            assert np.allclose(total, 1, atol=1e-6), (size, overlap)


def test_a_pixel_gets_the_same_bits_in_every_rectangle() -> None:
    random = np.random.default_rng(1)
    scores = {}
    for row in range(GRID.cell_rows):
        for col in range(GRID.cell_cols):
            kept = GRID.kept_of(Cell(row, col))
            shape = (kept.height, kept.width)
            planes = random.random((2, *shape)).astype(np.float16)
            scores[Cell(row, col)] = Scores(None, np.ones(shape, bool), planes)
    whole_valid, whole = blended(GRID, scores, lambda item: item.probabilities, Rect(0, 0, 133, 187))
    assert whole_valid.all() and whole is not None
    for _ in range(60):
        row, col = int(random.integers(0, 133)), int(random.integers(0, 187))
        area = Rect(row, col, int(random.integers(1, 134 - row)), int(random.integers(1, 188 - col)))
        rows, cols = np.mgrid[row : row + area.height, col : col + area.width] + 0.5
        cells = cells_covering(Footprint(rows, cols, 1), GRID)
        _, part = blended(GRID, {cell: scores[cell] for cell in reversed(cells)}, lambda item: item.probabilities, area)
        assert part is not None
        assert np.array_equal(part, whole[:, row : row + area.height, col : col + area.width])


def test_the_cells_of_a_sample_are_those_that_keep_its_pixel() -> None:
    random = np.random.default_rng(2)
    for grid in (GRID, Grid(CRS.from_epsg(3857), 0, 0, 1, 1, 133, 187, 32, 4, 16, 1.0, True, overlap=16)):
        for margin in (0, 1):
            for _ in range(200):
                row, col = random.random() * 133, random.random() * 187
                where = Footprint(np.array([[row]]), np.array([[col]]), 1)
                touched = {
                    cell
                    for cell in (Cell(r, c) for r in range(grid.cell_rows) for c in range(grid.cell_cols))
                    if _holds(grid.kept_of(cell), int(row), int(col), margin)
                }
                assert set(cells_covering(where, grid, margin=margin)) == touched


def _holds(kept: Rect, row: int, col: int, margin: int) -> bool:
    return (
        kept.row_off - margin <= row < kept.row_off + kept.height + margin
        and kept.col_off - margin <= col < kept.col_off + kept.width + margin
    )


def test_an_overlap_of_more_than_half_a_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="half the cell"):
        Grid(CRS.from_epsg(3857), 0, 0, 1, 1, 133, 187, 32, 4, 32, 1.0, True, overlap=17)


def test_a_view_at_the_limit_is_answered_wherever_it_lies_and_a_much_larger_one_is_not(
    models: dict[str, Path], folder: Path
) -> None:
    large = write_scene(folder / "large.tif", np.full((3, 1500, 1500), 90, np.uint8))
    layer = fit(open_scene(SceneRef(str(large))), load(models["norm"]))
    grid = layer.grid

    def planned(row: int, col: int, height: int, width: int) -> int:
        left, top = grid.transform @ (col, row)
        right, bottom = grid.transform @ (col + width, row + height)
        view = View((left, bottom, right, top), grid.crs, 256, 256)
        return len(plan(layer, view, Style(), max_pixels=512 * 512, max_side=4096).cells)

    for offset in range(0, 70, 7):
        assert planned(300 + offset, 400 - offset, 512, 512) >= 64
        planned(100 + offset, 50 + offset, 256, 1024)
    with pytest.raises(TooLargeError):
        planned(0, 0, 1500, 1500)
