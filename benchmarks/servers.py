"""The servers of a run: ours, the peers, and the bare network; and what they serve."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from benchmarks.peers import DEVICE, MODELS
from benchmarks.places import Tile
from benchmarks.processes import Child
from benchmarks.workloads import Url

SCENE = "demo"


def scene_file(folder: Path, size: int) -> Path:
    """The demo's scene, drawn unless it is there."""
    from tiler.demo.scene import DEMO_SEED, write_scene

    file = folder / f"landscape-{DEMO_SEED}-{size}.tif"
    return file if file.exists() else write_scene(file, DEMO_SEED, size)


def our_server(
    scenes: Mapping[str, Path], models: Mapping[str, Path], device: str = "cpu", **settings: object
) -> Child:
    """Our app, not waited for."""
    environment = {
        "TILER_SCENES": json.dumps({name: {"path": str(path)} for name, path in scenes.items()}),
        "TILER_MODELS": json.dumps({name: str(path) for name, path in models.items()}),
        "TILER_DEVICE": device,
        # A scene of another size or place must not end a run.
        "TILER_MAX_GSD_FACTOR": "8",
        **{f"TILER_{name.upper()}": str(value) for name, value in settings.items()},
    }
    return Child("benchmarks.ours", environment=environment)


def peer_server(models: Mapping[str, Path], device: str = "cpu") -> Child:
    """Plain TiTiler with the models as algorithms, not waited for."""
    environment = {MODELS: json.dumps({name: str(path) for name, path in models.items()}), DEVICE: device}
    return Child("benchmarks.peers", environment=environment)


def floor_process(device: str = "cpu") -> Child:
    """The bare network, not waited for."""
    return Child("benchmarks.floor", [device, "0"])


def plain_url(scene: Path, algorithm: str = "", buffer: int = 0) -> Url:
    """Where plain TiTiler has a tile: imagery, or an algorithm's answer."""
    query = f"url={quote(str(scene.resolve()))}"
    if algorithm:
        query += f"&algorithm={algorithm}"
    if buffer:
        query += f"&buffer={buffer}"

    def url(tile: Tile) -> str:
        return f"/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.png?{query}"

    return url


def stop(children: Sequence[Child]) -> None:
    """Stop them all, whatever one of them does."""
    for child in children:
        child.stop()
