"""Nothing is lost: whatever ends an export, the same command goes on and makes the very same file."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import rasterio
from affine import Affine

from model_registry.testing import strided_unet, write_model
from tests.tiler.helpers import RES, landscape, write_scene

pytestmark = pytest.mark.slow
OPTIONS = ["--block", "256", "--max-window-pixels", str(256 * 256), "--runtime", "onnxruntime", "--json"]
KILLS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lost")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    return write_scene(folder / "field.tif", landscape(1100, 1900), transform=Affine(RES, 0, 1000, 0, -RES, 5000))


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return write_model(folder / "unet", strided_unet(depth=3), classes=["a", "b", "c", "d", "e"], gsd=round(RES, 4))


@pytest.fixture(scope="module")
def whole(scene: Path, model: Path, folder: Path) -> bytes:
    finish(scene, model, folder / "whole.tif")
    return (folder / "whole.tif").read_bytes()


def start(*arguments: Any, output: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    scene, model, out, *options = arguments
    command = [sys.executable, "-c", "from tiler.cli import app; app()", "export", scene, "-m", model, "-o", out]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TILER_")}
    return subprocess.Popen(
        [str(part) for part in (*command, *OPTIONS, *options)], stdout=output, stderr=subprocess.PIPE, text=True,
        env=clean,
    )  # fmt: skip


def finish(*arguments: Any) -> dict[str, Any]:
    """Run to the end; what the last line tells."""
    running = start(*arguments, output=subprocess.PIPE)
    stdout, stderr = running.communicate(timeout=300)
    assert running.returncode == 0, stderr
    return json.loads(stdout.splitlines()[-1])


def receipts(out: Path) -> int:
    return len(list(out.with_name(f"{out.name}.parts").glob("0*.json")))


def wait_for(out: Path, count: int) -> None:
    until = time.monotonic() + 120
    while receipts(out) < count:
        assert time.monotonic() < until, "no parts came"
        time.sleep(0.01)


def test_killed_at_random_moments(scene: Path, model: Path, whole: bytes, tmp_path: Path) -> None:
    """SIGKILL, twenty times, from the first part to the last moment of the COG."""
    chance, out = random.Random(7), tmp_path / "out.tif"
    begun = time.monotonic()
    finish(scene, model, tmp_path / "timed.tif")
    length, killed, most = time.monotonic() - begun, 0, 0
    while killed < KILLS:
        running = start(scene, model, out)
        time.sleep(chance.uniform(0.3, 1.1) * length)
        running.kill()
        running.communicate()
        killed += 1
        if out.exists():
            # Seen under its name it is whole, whenever that was.
            assert out.read_bytes() == whole
            out.unlink()
            shutil.rmtree(tmp_path / "out.tif.parts", ignore_errors=True)
            most = 0
            continue
        # What was done is not done again.
        assert receipts(out) >= most
        most = receipts(out)
    finish(scene, model, out)
    assert out.read_bytes() == whole and not (tmp_path / "out.tif.parts").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_the_user(scene: Path, model: Path, whole: bytes, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out.tif"
    running = start(scene, model, out, output=subprocess.PIPE)
    wait_for(out, 4)
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in stderr
    assert json.loads(stdout.splitlines()[-1]) == {"event": "stopped"} and not out.exists()
    end = finish(scene, model, out)
    assert end["kept"] >= 4 and out.read_bytes() == whole


def test_two_processes_on_one_output(scene: Path, model: Path, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.tif"
    first = start(scene, model, out)
    wait_for(out, 1)
    # It would be done before the second has begun.
    first.send_signal(signal.SIGSTOP)
    try:
        second = start(scene, model, out)
        _, error = second.communicate(timeout=120)
        assert second.returncode == 2 and "another process" in error
    finally:
        first.send_signal(signal.SIGCONT)
    first.communicate(timeout=300)
    assert first.returncode == 0 and out.read_bytes() == whole


def test_a_read_error_in_the_middle(scene: Path, model: Path, whole: bytes, tmp_path: Path) -> None:
    """The head of one of the scene's tiles is spoilt, and mended afterwards."""
    out, good, moment = tmp_path / "out.tif", scene.read_bytes(), scene.stat()
    with rasterio.open(scene) as dataset:
        place = int(dataset.get_tag_item("BLOCK_OFFSET_4_2", "TIFF", bidx=1))
    spoilt = bytearray(good)
    spoilt[place : place + 64] = b"\xff" * 64
    try:
        scene.write_bytes(spoilt)
        os.utime(scene, ns=(moment.st_atime_ns, moment.st_mtime_ns))
        running = start(scene, model, out)
        _, error = running.communicate(timeout=120)
        assert running.returncode == 2 and "'field.tif' could not be read" in error, error
        assert not out.exists() and str(tmp_path) not in error
    finally:
        scene.write_bytes(good)
        os.utime(scene, ns=(moment.st_atime_ns, moment.st_mtime_ns))
    assert receipts(out) > 0
    assert finish(scene, model, out)["kept"] > 0
    assert out.read_bytes() == whole


def test_a_full_disk(scene: Path, model: Path, whole: bytes, tmp_path: Path) -> None:
    """On a file system of 400 kB, which then gets larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        out = disk / "out.tif"
        refused = start(scene, model, out)
        _, error = refused.communicate(timeout=120)
        assert refused.returncode == 2 and "of disk" in error
        running = start(scene, model, out, "--no-disk-check")
        _, error = running.communicate(timeout=120)
        assert running.returncode == 2 and "full" in error and not out.exists(), error
        assert not list(disk.glob("**/*.tmp*"))
        kept = receipts(out)
        assert kept > 0
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert finish(scene, model, out)["kept"] >= kept
        assert out.read_bytes() == whole
    finally:
        subprocess.run(["umount", disk], check=True)
