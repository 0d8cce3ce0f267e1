"""Exports on a real Dask cluster of two processes: the same file as on threads, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from affine import Affine

from model_registry.testing import strided_unet, write_model
from tests.tiler.helpers import RES, landscape, write_scene

distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.slow
OPTIONS = ["--block", "256", "--max-window-pixels", str(256 * 256), "--runtime", "onnxruntime", "--json"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    return write_scene(folder / "field.tif", landscape(1100, 1500), transform=Affine(RES, 0, 1000, 0, -RES, 5000))


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return write_model(folder / "unet", strided_unet(depth=3), classes=["a", "b", "c", "d", "e"], gsd=round(RES, 4))


@pytest.fixture
def cluster() -> Iterator[Any]:
    # Workers' blocks must not come so quickly that there is nothing left to kill.
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1",
        resources={"GPU": 1},
    ) as made:  # fmt: skip
        yield made


def command(scene: Path, model: Path, out: Path, *options: str) -> list[str]:
    start = [sys.executable, "-c", "from tiler.cli import app; app()", "export"]
    return [*start, str(scene), "-m", str(model), "-o", str(out), *OPTIONS, *options]


def export(*arguments: Any) -> list[dict[str, Any]]:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, env=environment())
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("TILER_")}


@pytest.fixture(scope="module")
def whole(scene: Path, model: Path, folder: Path) -> bytes:
    export(scene, model, folder / "threads.tif")
    return (folder / "threads.tif").read_bytes()


def test_a_cluster_makes_the_same_file(scene: Path, model: Path, whole: bytes, cluster: Any, tmp_path: Path) -> None:
    lines = export(scene, model, tmp_path / "out.tif", "--scheduler", cluster.scheduler_address, "--resources", "GPU=1")
    assert lines[-1]["made"] == lines[0]["blocks"] > 20
    assert (tmp_path / "out.tif").read_bytes() == whole
    with distributed.Client(cluster) as client:
        workers = client.run(lambda: len(__import__("tiler.export.drive", fromlist=["_sessions"])._sessions))
    # Both have worked: each has the model open.
    assert set(workers.values()) == {1}


def test_a_worker_killed_in_the_middle_costs_nothing(
    scene: Path, model: Path, whole: bytes, cluster: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out.tif"
    running = subprocess.Popen(
        command(scene, model, out, "--scheduler", cluster.scheduler_address), stdout=subprocess.PIPE, env=environment()
    )
    wait_for_parts(out, 3)
    worker = next(iter(cluster.workers.values()))
    os.kill(worker.pid, signal.SIGKILL)
    assert running.wait(300) == 0
    assert out.read_bytes() == whole


def test_a_scheduler_killed_in_the_middle_leaves_a_state_to_go_on_from(
    scene: Path, model: Path, whole: bytes, tmp_path: Path
) -> None:
    out, port = tmp_path / "out.tif", free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = dask("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    worker = dask(
        "worker", address, "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard", "--death-timeout", "20"
    )
    try:
        running = subprocess.Popen(
            command(scene, model, out, "--scheduler", address), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment(), text=True,
        )  # fmt: skip
        wait_for_parts(out, 3)
        scheduler.kill()
        _, error = running.communicate(timeout=300)
        assert running.returncode == 2 and "cluster" in error and "Traceback" not in error, error
        assert not out.exists()
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    lines = export(scene, model, out)
    assert lines[-1]["kept"] >= 3 and out.read_bytes() == whole


def test_what_no_worker_has_is_said_at_once(scene: Path, model: Path, cluster: Any, tmp_path: Path) -> None:
    for options, words in (
        (
            ["--scheduler", cluster.scheduler_address, "--resources", "TPU=1"],
            "none of the cluster's 2 workers has TPU=1",
        ),
        (["--scheduler", "tcp://127.0.0.1:9"], "cannot be reached"),
    ):
        done = subprocess.run(
            command(scene, model, tmp_path / "out.tif", *options), capture_output=True, text=True, timeout=120,
            env=environment(),
        )  # fmt: skip
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert not list(tmp_path.iterdir())


def dask(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_parts(out: Path, count: int) -> None:
    parts, until = out.with_name(f"{out.name}.parts"), time.monotonic() + 120
    while len(list(parts.glob("*.json"))) < count + 1:
        assert time.monotonic() < until, "no parts came"
        time.sleep(0.02)
