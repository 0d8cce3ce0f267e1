"""The benchmark of whole-scene exports: its arithmetic, and its command over a small scene."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from benchmarks.export import cost, peers
from benchmarks.export.compare import Difference, difference, read
from benchmarks.export.cost import Cost
from benchmarks.export.figures import figures_of, told_rate

ROOT = Path(__file__).parents[2]
SAME = Difference(0, 0, 100, 90, 0)


def line(**told: object) -> str:
    return json.dumps({"event": "progress", **told})


def test_what_a_command_costs_before_its_first_pixel_is_in_no_pixel():
    sizes = (1000, 2000)  # 1 and 4 megapixels
    costs = {
        "ours_fp32": {1000: Cost(3.0, 2.0, 1 << 20, ""), 2000: Cost(6.0, 5.0, 3 << 20, "")},
        "floor_fp32": {1000: Cost(1.0, 1.0, 1 << 20, ""), 2000: Cost(4.0, 4.0, 1 << 20, "")},
    }
    found = figures_of(costs, {"ours_fp32": SAME, "floor_fp32": SAME}, sizes)
    assert found["export_cpu_ratio"] == 1.25
    assert found["export_cpu_ratio_pixels_alone"] == 1.0
    assert found["cpu_s_per_mpx_ours_fp32"] == 1.0 and found["mpx_s_ours_fp32"] == 1.0
    assert found["rss_mib_ours_fp32"] == 3.0
    assert not any("geodeep" in name or "dask" in name for name in found)


def test_dask_is_compared_by_what_the_exports_say_of_themselves():
    text = "\n".join(
        [line(stage="inferring", mpx_per_second=1.0), line(stage="inferring", mpx_per_second=4.0),
         line(stage="writing", mpx_per_second=0.0), "no JSON"]
    )  # fmt: skip
    assert told_rate(text) == 4.0
    costs = {
        "ours_fp32": {1: Cost(1, 1, 1, ""), 2: Cost(2, 2, 2, line(stage="inferring", mpx_per_second=5.0))},
        "dask": {1: Cost(1, 1, 1, ""), 2: Cost(9, 9, 9, text)},
    }
    found = figures_of(costs, {"ours_fp32": SAME, "dask": SAME}, (1, 2))
    assert found["export_rate_ratio_dask"] == 0.8
    assert "cpu_s_dask" not in found


def test_pixels_that_differ_are_counted_where_there_is_data_and_no_tie(tmp_path: Path):
    classes = np.zeros((20, 20), np.uint8)
    valid, tie = np.ones((20, 20), bool), np.zeros((20, 20), bool)
    valid[0], tie[5, 5] = False, True
    np.savez(tmp_path / "whole.npz", classes=classes, valid=valid, tie=tie)
    found = classes.copy()
    found[0], found[5, 5] = 255, 3  # no data, and a tie
    assert difference(found, tmp_path / "whole.npz", 2) == Difference(0, 0, 379, 255, 0)
    found[0, :4], found[1, 1], found[9, 9] = 0, 1, 1
    assert difference(found, tmp_path / "whole.npz", 2) == Difference(2, 1, 379, 255, 4)
    with pytest.raises(RuntimeError, match="pixels"):
        difference(found[1:], tmp_path / "whole.npz", 2)


def test_results_are_read_from_arrays_and_rasters(tmp_path: Path):
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.save(tmp_path / "x.npy", array)
    with rasterio.open(tmp_path / "x.tif", "w", driver="GTiff", width=16, height=16, count=1, dtype="uint8") as dataset:
        dataset.write(array, 1)
    assert np.array_equal(read(tmp_path / "x.npy"), array)
    assert np.array_equal(read(tmp_path / "x.tif"), array)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts by /proc")
def test_a_commands_children_are_counted():
    child = "data = bytearray(80_000_000); sum(range(2 * 10**7)); import time; time.sleep(0.3)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done')"
    found = cost.run([sys.executable, "-c", code], 1)
    assert found.told == "done\n"
    assert found.rss > 80_000_000
    assert found.cpu > 0.1 and found.wall > found.cpu


def test_a_command_that_fails_says_why():
    with pytest.raises(RuntimeError, match="ended with 3: nothing to do"):
        cost.run([sys.executable, "-c", "import sys; print('nothing to do', file=sys.stderr); sys.exit(3)"], 1)


def test_a_peer_that_cannot_be_installed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # An environment that is there already, and a package that pip is not let look for.
    (tmp_path / "geodeep" / "bin").mkdir(parents=True)
    (tmp_path / "geodeep" / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(peers, "INSTALLS", {"geodeep": (("--no-index", "no-such-package-at-all"),)})
    monkeypatch.setattr(peers, "PROBES", {"geodeep": "import no_such_package_at_all"})
    with pytest.raises(peers.Unreachable, match="geodeep cannot be installed: "):
        peers.environment("geodeep", tmp_path)


@pytest.mark.slow
def test_the_command_measures_ours_beside_the_floor(tmp_path: Path):
    for package in ("torch", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "benchmarks.export", "--quick", "--json", "--size", "1024"]
    told = subprocess.run(
        [*command, "--only", "floor_fp32", "ours_fp32", "--folder", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-2000:]
    found = json.loads(told.stdout.splitlines()[-1])
    # The floor shares no code of tiles or exports with ours but the plan of windows; both equal one pass.
    assert found["export_differing"] == found["differing_percent_floor_fp32"] == 0
    assert 0.3 < found["export_cpu_ratio"] < 4
    assert found["rss_mib_ours_fp32"] > 100


@pytest.mark.slow
def test_the_gpus_export_runs_on_a_cpu(tmp_path: Path):
    pytest.importorskip("torch")
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "export", "--device", "cpu", "--json", "--folder", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-2000:]
    found = json.loads(told.stdout.splitlines()[-1])
    assert 0 < found["images_s_fp32_2_readers"] <= found["images_s_inferring_fp32_2_readers"]
    assert 0.3 < found["device_busy_fp32_2_readers"] <= 1.05
