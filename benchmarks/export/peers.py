"""Others who do the same, each in an environment of its own that the benchmark makes; none is a dependency of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT = 1200.0
# What is installed, step by step. geoai asks for much that `predict_geotiff` never imports, hence no dependencies.
INSTALLS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "geodeep": (("geodeep>=0.9,<0.10", "scipy"),),
    "geoai": (
        ("torch",),
        ("--no-deps", "geoai-py==0.40.1"),
        ("rasterio", "geopandas", "leafmap", "requests", "rioxarray", "tqdm", "opencv-python-headless", "onnxruntime"),
    ),
}
PROBES: Mapping[str, str] = {
    "geodeep": "import geodeep, scipy; print(geodeep.__version__)",
    "geoai": "from importlib.metadata import version as v; import geoai.inference; print(v('geoai-py'), v('torch'))",
}


class Unreachable(Exception):
    """A peer cannot be installed here; says why."""


def environment(name: str, folder: Path) -> tuple[Path, str]:
    """The Python of a peer's environment below `folder`, made if it is not there, and the peer's version.

    Raises:
        Unreachable: it cannot be installed, or does not run.
    """
    place = folder / name
    python = place / "bin" / "python"
    if not python.exists():
        _do(name, [sys.executable, "-m", "venv", str(place)])
    if _version(name, python) is None:
        for step in INSTALLS[name]:
            _do(name, [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *step])
    version = _version(name, python)
    if version is None:
        raise Unreachable(f"{name} was installed but cannot be imported")
    return python, version


def _version(name: str, python: Path) -> str | None:
    done = subprocess.run([str(python), "-c", PROBES[name]], capture_output=True, text=True, env=_clean())
    return done.stdout.strip() if done.returncode == 0 else None


def _do(name: str, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=_clean())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreachable(f"{name} cannot be installed: {type(error).__name__}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Unreachable(f"{name} cannot be installed: {last}")


def _clean() -> dict[str, str]:
    """Our own packages must not be seen there."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
