"""The parts of the benchmark that need no server."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS

from benchmarks import accuracy, figures, report, traces
from benchmarks.places import Place, apart_viewports, block, looking_at, random_viewports, serpentine
from tiler.grid import Grid


@pytest.fixture
def place() -> Place:
    grid = Grid(
        crs=CRS.from_epsg(32632), left=691_204.25, top=5_336_118.75, res_x=0.5, res_y=0.5, height=2048, width=2048,
        cell=32, align=16, halo=48, gsd=0.5, native=True,
    )  # fmt: skip
    return Place("/demo/net/{z}/{x}/{y}.png", grid, minzoom=15, maxzoom=18)


def test_percentile_is_by_nearest_rank():
    assert figures.percentile([3.0, 1.0, 2.0, 4.0], 0.5) == 2.0
    assert figures.percentile(list(map(float, range(1, 101))), 0.99) == 99.0
    assert figures.percentile([7.0], 0.99) == 7.0
    assert math.isnan(figures.percentile([], 0.5))


def test_waste_counts_what_no_answer_used():
    assert figures.waste(10, {1, 2, 3, 4, 5, 6, 7, 8, 9}) == pytest.approx(0.1)
    assert figures.waste(9, set(range(9))) == 0
    assert math.isnan(figures.waste(0, set()))


def test_growth_compares_the_ends_after_the_warm_up():
    samples = [(float(second), 100.0 if second < 20 else 200.0) for second in range(100)]
    assert figures.growth(samples, 20) == 0
    assert figures.growth(samples, 10) == 100
    assert math.isnan(figures.growth(samples, 99.5))


def test_ratio_of_nothing_is_nan():
    assert math.isnan(figures.ratio(1, 0))
    assert figures.ratio(1, 4) == 0.25


def test_the_table_says_what_was_missed():
    text = report.table(
        {"warm_tiles_s": 1234.5, "redundancy": 1.7, "naive_ratio": 6.0}, {"naive_ratio": (5.0, 7.0)}
    ).splitlines()
    assert text[0].startswith("redundancy") and text[0].endswith("MISSED")
    assert text[1].startswith("naive_ratio") and "5 .. 7" in text[1] and text[1].endswith("reached")
    assert text[2].startswith("warm_tiles_s") and "reached" not in text[2]


def test_not_a_number_misses_every_target():
    assert not any(target.met(math.nan) for target in report.TARGETS.values())


def test_the_last_line_is_one_line_of_strict_json():
    line = report.last_line({"a": 0.123456789, "b": math.nan, "c": 32.0}, machine={"cpu": "x"})
    assert "\n" not in line
    assert json.loads(line) == {"a": 0.12346, "b": None, "c": 32, "machine": {"cpu": "x"}}


def test_the_recorded_trace_is_the_seeds():
    assert traces.read() == traces.record()


def test_a_trace_survives_its_file(tmp_path: Path):
    users = traces.record(seed=3, users=5, seconds=10)
    traces.write(users, tmp_path / "trace.json")
    assert traces.read(tmp_path / "trace.json") == users


def test_fewer_users_are_the_first_ones():
    assert traces.record(seed=1, users=2, seconds=10) == traces.record(seed=1, users=9, seconds=10)[:2]


def test_users_pan_faster_than_they_look():
    for user in traces.read():
        times = [step.at for step in user.steps]
        assert times == sorted(times)
        assert all(0 <= step.x <= 1 and 0 <= step.y <= 1 and step.dz in (-1, 0, 1) for step in user.steps)
        gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
        assert min(gaps) >= 0.149


def test_a_viewport_is_asked_for_from_its_centre():
    tiles = block(18, 100, 200, 5, 3)
    assert len(set(tiles)) == 15
    assert tiles[0] == (18, 102, 201)
    assert {tiles[-1].x, tiles[-2].x} <= {100, 104}


def test_viewports_lie_inside_the_scene(place: Place):
    first_x, first_y, across, down = place.inner(18)
    for view in [*random_viewports(place, 20, seed=1), *apart_viewports(place, 1), *serpentine(place, 10)]:
        assert all(first_x <= tile.x < first_x + across and first_y <= tile.y < first_y + down for tile in view)


def test_viewports_apart_share_no_tile(place: Place):
    tiles = [tile for view in apart_viewports(place, 1) for tile in view]
    assert len(tiles) == len(set(tiles))


def test_a_pan_moves_by_half_a_viewport(place: Place):
    views = serpentine(place, 10)
    assert len(views) >= 6
    for before, after in zip(views, views[1:], strict=False):
        assert 0 < len(set(before) & set(after)) <= len(after) * 2 / 3


def test_a_map_window_shows_the_tiles_it_touches(place: Place):
    tiles = looking_at(place, 0.5, 0.5, 0, (1200, 720))
    assert 15 <= len(tiles) <= 24
    assert {tile.z for tile in tiles} == {18}
    assert {tile.z for tile in looking_at(place, 0.5, 0.5, -9, (1200, 720))} == {15}


def test_a_viewport_touches_more_chips_than_it_fills(place: Place):
    for view in random_viewports(place, 5, seed=2):
        shown = len(view) * place.tile_pixels(18)
        assert shown < place.chips(view, 512) * 512 * 512
        assert place.chips(view, 512) <= 12


def test_resflow_has_as_many_parameters_as_the_paper_says():
    pytest.importorskip("torch")
    from benchmarks.resflow import PARAMETERS, BilinearUNet

    assert sum(parameter.numel() for parameter in BilinearUNet().parameters()) == PARAMETERS


def test_the_benchmark_on_a_gpu_says_when_there_is_none(capsys: pytest.CaptureFixture[str]):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    from benchmarks.gpu import main

    assert main([]) == 1
    assert "no CUDA device" in capsys.readouterr().err


def test_a_child_that_fails_is_told(monkeypatch: pytest.MonkeyPatch):
    from benchmarks.processes import Child

    with Child("benchmarks.floor", ["cpu"]) as child, pytest.raises(RuntimeError, match="benchmarks.floor ended"):
        child.wait()


def test_nothing_listens_after_a_prober():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    from benchmarks.processes import Child

    with Child("benchmarks.prober", [str(port)]) as child:
        child.wait()
        assert child.ask(stop=True) == {"ms": []}


def test_right_pixels_are_counted_where_there_are_labels():
    classes, labels = np.array([[0, 0, 3], [0, 5, 0]]), np.array([[1, 0, 0], [-1, 1, 1]])
    counts = accuracy.water_counts(classes, labels)
    assert counts == accuracy.Counts(right=3, all=5, both=2, either=4)
    assert (counts.accuracy, counts.iou) == (0.6, 0.5)
    assert counts + counts == accuracy.Counts(6, 10, 4, 8)
    assert math.isnan(accuracy.Counts(0, 0).accuracy) and math.isnan(accuracy.Counts(0, 0).iou)


def test_only_the_middle_of_a_patch_counts():
    labels, classes = np.full((256, 256), 6), np.full((256, 256), 4)
    classes[:64], labels[64:96] = 1, 0
    assert accuracy.cover_counts(classes, labels) == accuracy.Counts(right=96 * 128, all=96 * 128)
