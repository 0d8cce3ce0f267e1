"""Who takes part: for each a command that turns a scene into classes. The one place that knows command lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.export import peers
from benchmarks.export.networks import WINDOW, Networks

Command = Callable[[Path, Path], list[str]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do it.

    Attributes:
        name: in figures.
        command: (scene, folder to write to) -> command line.
        answer: the file in that folder that has the classes: one band, or an array.
        about: version, runtime, or what else tells it apart.
        environment: beside everybody's.
    """

    name: str
    command: Command
    answer: str
    about: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def planned(scene: Path, precision: str, plans: Path) -> Path:
    """Where the windows of an export of a scene stand in the folder of such plans."""
    return plans / f"{scene.stem}-{precision}.json"


def bare(networks: Networks, precision: str, runtime: str, threads: int, plans: Path) -> Contender:
    """The floor."""

    def command(scene: Path, out: Path) -> list[str]:
        plan = planned(scene, precision, plans)
        return _module("bare", networks.ours, scene, out / "floor.npy", plan, precision, threads)

    return Contender(f"floor_{precision}", command, "floor.npy", runtime, {"TILER_RUNTIME": runtime})


def ours(networks: Networks, precision: str, runtime: str, threads: int) -> Contender:
    """`tiler export`, as anybody calls it."""

    def command(scene: Path, out: Path) -> list[str]:
        return [*_export(networks, scene, precision, threads), "-o", str(out / "ours.tif")]

    return Contender(f"ours_{precision}", command, "ours.tif", runtime, {"TILER_RUNTIME": runtime})


def on_dask(networks: Networks, runtime: str, workers: int) -> Contender:
    """The same on so many Dask workers of one thread each, in processes of their own."""

    def command(scene: Path, out: Path) -> list[str]:
        return _module("cluster", workers, out / "ours.tif", *_export(networks, scene, "fp32", 1))

    return Contender("dask", command, "ours.tif", f"{workers} workers of 1 thread", {"TILER_RUNTIME": runtime})


def geodeep(networks: Networks, way: str, threads: int, folder: Path) -> Contender:
    """GeoDeep's command; `way` as in `geodeep_run`.

    Raises:
        Unreachable: it cannot be installed here.
    """
    python, version = peers.environment("geodeep", folder)

    def command(scene: Path, out: Path) -> list[str]:
        script = [str(python), "-P", str(peers.HERE / "geodeep_run.py"), way]
        todo = [str(scene), str(networks.onnx), "-t", "mask", "-o", str(out / "geodeep"), "-q"]
        return [*script, *todo, "--max-threads", str(threads)]

    name = "geodeep" if way == "scipy" else f"geodeep_{way}"
    return Contender(name, command, "geodeep.tif", version, {"PYTHONPATH": ""})


def geoai(networks: Networks, folder: Path) -> Contender:
    """geoai's `predict_geotiff`.

    Raises:
        Unreachable: it cannot be installed here.
    """
    python, version = peers.environment("geoai", folder)

    def command(scene: Path, out: Path) -> list[str]:
        script = [str(python), "-P", str(peers.HERE / "geoai_run.py"), str(scene), str(networks.script)]
        return [*script, str(out / "geoai.tif"), str(WINDOW), str(2 * networks.halo), str(networks.classes)]

    return Contender("geoai", command, "geoai.tif", version, {"PYTHONPATH": ""})


def _export(networks: Networks, scene: Path, precision: str, threads: int) -> list[str]:
    """Without its output. Nothing is registered: no map shall find a file that is thrown away."""
    how = ["--precision", precision, "--threads", str(threads), "--json", "--no-register"]
    return [sys.executable, "-m", "tiler.cli", "export", str(scene), "--model", str(networks.ours), *how]


def _module(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.export.{name}", *map(str, arguments)]
