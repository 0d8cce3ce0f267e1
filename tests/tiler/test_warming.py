"""Windows that a model is warmed up with: those that maps ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_registry import Model, open_model
from model_registry.testing import conv_chain, write_model
from tiler.layer import MAX_WINDOW_PIXELS
from tiler.values import Cell
from tiler.waiting import Origin, Waiting
from tiler.warming import usual_windows
from tiler.windows import Shape


def model(folder: Path, exactness: str = "exact", **window: object) -> Model:
    stated = {"multiple": 8, "period": 8, "halo": 48, **window}
    net = conv_chain(layers=2, classes=2)
    return open_model(write_model(folder, net, classes=["a", "b"], window=stated, exactness=exactness))


class Map:
    """A layer as far as the queue looks at it."""

    revision = "map"
    shape = Shape(cell=32, halo=48, max_pixels=MAX_WINDOW_PIXELS)


@pytest.mark.parametrize("offset", [0, 5])
@pytest.mark.parametrize("tiles", [(1, 1), (1, 2), (3, 1), (2, 2)])
def test_the_windows_of_a_first_view_are_among_them(tmp_path: Path, tiles: tuple[int, int], offset: int) -> None:
    """Tiles of 256 px that begin on a cell's border, or not, as the queue makes windows of them."""
    waiting: Waiting[Map] = Waiting()
    for row in range(tiles[0]):
        for col in range(tiles[1]):
            down, right = ([(256 * n + offset) // 32, (256 * n + 255 + offset) // 32] for n in (row, col))
            cells = [Cell(y, x) for y in range(down[0], down[1] + 1) for x in range(right[0], right[1] + 1)]
            waiting.add(Map(), False, cells, Origin("ann"), 0.0)
    job = waiting.next(0.0, 1e9)
    assert job is not None and waiting.next(0.0, 1e9) is None
    shape = (job.block.rows * 32 + 96, job.block.cols * 32 + 96)
    assert shape in usual_windows(model(tmp_path / "m"), MAX_WINDOW_PIXELS)


def test_a_single_tile_comes_first_and_none_is_too_large(tmp_path: Path) -> None:
    found = usual_windows(model(tmp_path / "m"), MAX_WINDOW_PIXELS)
    assert found[0] == (352, 352) and len(found) == len(set(found)) < 40
    assert max(height * width for height, width in found) <= MAX_WINDOW_PIXELS
    assert all(side % 8 == 0 for shape in found for side in shape)


def test_windows_of_one_size_are_warmed_up_once(tmp_path: Path) -> None:
    assert usual_windows(model(tmp_path / "m", exactness="bounded", preferred=512), MAX_WINDOW_PIXELS) == [(512, 512)]


def test_none_is_longer_than_the_model_allows(tmp_path: Path) -> None:
    found = usual_windows(model(tmp_path / "m", max=200), MAX_WINDOW_PIXELS)
    assert found == [(192, 192)]  # three cells and the halo
    assert usual_windows(model(tmp_path / "n", exactness="bounded", max=200), MAX_WINDOW_PIXELS) == [(200, 200)]


def test_a_halo_larger_than_any_window_leaves_one(tmp_path: Path) -> None:
    assert len(usual_windows(model(tmp_path / "m", halo=1024), MAX_WINDOW_PIXELS)) == 1
