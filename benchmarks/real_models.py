"""Published networks and what is known of them, each added to a registry by the command, as anybody would."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import ROOT

DATA = ROOT.parent / "shared" / "data"

_WORLD = {
    "classes": "water,trees,grass,flooded_vegetation,crops,shrub_and_scrub,built,bare,snow_and_ice",
    "colors": "419BDF,397D49,88B053,7A87C6,E49635,DFC35A,C4281B,A59B8F,B39FE1",
    "bands": "B2,B3,B4,B5,B6,B7,B8,B11,B12",
    "scaling": "none",
    "license": "Apache-2.0",
    "attribution": "Dynamic World (Google, World Resources Institute)",
}
_NAIP = {
    "classes": "none,water,tree,herbaceous,barren",
    "bands": "red,green,blue,nir",
    "scaling": "none",
    "dtypes": "uint8",
    "license": "MIT",
    "attribution": "Microsoft, Chesapeake Conservancy",
}


@dataclass(frozen=True, slots=True)
class Published:
    """A network's file below the data folder, and the answers that its SOURCE.md gives to `tiler models add`."""

    name: str
    file: str
    answers: dict[str, str]

    def options(self) -> list[str]:
        """The answers as a user types them."""
        return [part for key, value in self.answers.items() for part in (f"--{key}", value)]


NETWORKS = {
    one.name: one
    for one in (
        # Sentinel-2 digital numbers; the scaling is part of the graph.
        Published(
            "world",
            "dynamicworld/dynamicworld_forward_dn.onnx",
            {**_WORLD, "gsd": "10", "dtypes": "uint16,int16"},
        ),
        # The same, told to take each scene's own pixels for 10 m, as its authors do with tiles in degrees.
        Published(
            "world-any",
            "dynamicworld/dynamicworld_forward_dn.onnx",
            {**_WORLD, "gsd": "any", "dtypes": "uint16,int16"},
        ),
        # The same without its scaling: wants numbers that somebody has normalised.
        Published(
            "world-norm",
            "dynamicworld/dynamicworld_forward_norm.onnx",
            {**_WORLD, "gsd": "10", "dtypes": "float32", "values": "physical"},
        ),
        Published(
            "naip", "azure_naip_landcover_model/naip4_landcover5_250epochs.onnx", {**_NAIP, "gsd": "1"}
        ),
        # The same network, barely trained: a wrong one, to tell that the measurement can.
        Published(
            "naip-1epoch", "azure_naip_landcover_model/naip4_landcover5_1epoch.onnx", {**_NAIP, "gsd": "1"}
        ),
    )
}  # fmt: skip


def add(name: str, registry: Path, data: Path = DATA) -> Path:
    """Add one of `NETWORKS` by `tiler models add`; returns the folder of its version.

    Raises:
        RuntimeError: the command failed; with what it said.
    """
    one = NETWORKS[name]
    command("models", "add", str(data / one.file), "--registry", str(registry), "--name", name, *one.options())
    versions = [path for path in (registry / name).iterdir() if path.name.isdigit()]
    return max(versions, key=lambda path: int(path.name))


def command(*arguments: str) -> str:
    """Standard output of `tiler ARGUMENTS`, run from the repository."""
    done = subprocess.run(
        [sys.executable, "-m", "tiler.cli", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"tiler {' '.join(arguments[:2])} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout
