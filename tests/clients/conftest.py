"""A real server with two scenes, the browsers' libraries by npm, and Chromium; all skip by name where absent."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from model_registry.testing import strided_unet, write_model
from tests.clients.browser import chromium, serving_files
from tests.clients.places import GSD, PLACES, write_classifier, write_place
from tests.clients.server import Server, running

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scenes")
    return {name: write_place(folder / f"{name}.tif", place) for name, place in PLACES.items()}


@pytest.fixture(scope="session")
def halo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that looks around each pixel; pixels without data are 0 to it, as they are in the file."""
    return write_model(
        tmp_path_factory.mktemp("models") / "network", strided_unet(depth=2, bands=1), classes=list("abcde"),
        bands=["gray"], gsd=GSD, nodata={"fill": 0, "mask": "any"},
    )  # fmt: skip


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, scenes: dict[str, Path], halo_model: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    models = {"landcover": write_classifier(folder / "landcover"), "network": halo_model}
    with running(folder, scenes, models) as made:
        yield made


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Leaflet, OpenLayers and MapLibre as the lock beside this file pins them; fetched once for this machine."""
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:12]
    kept = Path(tempfile.gettempdir()) / f"titiler-inference-clients-{lock}"
    if not kept.is_dir():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not here, and it brings Leaflet, OpenLayers and MapLibre")
        with tempfile.TemporaryDirectory(dir=kept.parent) as made:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, made)
            done = subprocess.run(
                [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
                cwd=made, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
            )  # fmt: skip
            if done.returncode:
                pytest.skip(f"npm could not bring Leaflet, OpenLayers and MapLibre: {done.stderr.strip()[:200]}")
            with suppress(OSError):  # another process was quicker
                os.rename(made, kept)
                Path(made).mkdir()
    return kept / "node_modules"


@pytest.fixture(scope="session")
def pages(node_modules: Path) -> Iterator[str]:
    """Address of the examples, on a port of their own: the tiles come from another origin."""
    with serving_files({"examples/node_modules/": node_modules, "examples/": EXAMPLES}) as address:
        yield f"{address}/examples"


# Not for the session: while it is open, no other test may have an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started
