"""The benchmark on a CUDA device, and RESFlow's network on it: `python -m benchmarks.gpu`, or `... gpu export`.

Images of 500 x 500 x 3 per second, forward only, and through the engine: read from a COG in windows with a halo,
inferred, cut into cells, kept. What the engine puts through the network beyond the cells asked for is not counted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks import __main__ as command
from benchmarks import machine, report, servers
from benchmarks.figures import median, ratio
from benchmarks.processes import ROOT
from model_registry import LoadedModel, load
from model_registry.artifacts import checksum_of
from model_registry.intake.writing import write_manifest

SIDE = 500
HALO = 96
NAME = "resflow"


def main(arguments: list[str] | None = None) -> int:
    """Measure; exits with 1 and one line where there is no CUDA device."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["export"]:
        from benchmarks import gpu_export

        return gpu_export.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu only tries the code")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], help="images in a forward pass")
    parser.add_argument("--runs", type=int, default=5, help="interleaved runs")
    parser.add_argument("--size", type=int, default=4096, help="of the scene, in pixels a side")
    parser.add_argument("--only-resflow", action="store_true", help="leave the serving benchmark out")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo", help="where the demo's scene is kept")
    given = parser.parse_args(arguments)
    if given.device != "cpu" and (reason := missing()):
        print(f"benchmarks.gpu: {reason}", file=sys.stderr)
        return 1
    figures = resflow(given.device, given.batches, given.runs, servers.scene_file(given.folder, given.size))
    print(report.table(figures))
    if not given.only_resflow:
        command.main(["--device", given.device, "--runs", str(given.runs), "--folder", str(given.folder)])
    if given.json:
        print(report.last_line(figures, machine={**machine.describe(), "gpu": name_of(given.device)}))
    return 0


def missing() -> str:
    """Why no GPU can be used; empty if one can."""
    import torch

    if torch.cuda.is_available():
        return ""
    built = f"PyTorch {torch.__version__} was built for {torch.version.cuda or 'CPUs only'}"
    return f"no CUDA device can be used here ({built}); --device cpu --only-resflow tries the code on the CPU"


def name_of(device: str) -> str:
    """What the device calls itself."""
    import torch

    return torch.cuda.get_device_name(device) if device != "cpu" else "none"


def resflow(device: str, batches: Sequence[int], runs: int, scene: Path) -> dict[str, float]:
    """Images per second of RESFlow's network, in each precision that the device has."""
    allow()
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        model = write_resflow(Path(folder) / NAME)
        networks = {precision: load(model, device, policy=precision) for precision in precisions(device)}
        engines = {name: Through(loaded, scene) for name, loaded in networks.items()}
        try:
            for _ in range(runs):
                for name, loaded in networks.items():
                    forward = {batch: _forward(loaded, batch) for batch in batches}
                    for batch, rate in forward.items():
                        samples.setdefault(f"images_s_forward_{name}_batch_{batch}", []).append(rate)
                    through, inferred = engines[name].images_per_second()
                    samples.setdefault(f"images_s_engine_{name}", []).append(through)
                    samples.setdefault(f"engine_efficiency_{name}", []).append(ratio(inferred, max(forward.values())))
        finally:
            for engine in engines.values():
                engine.close()
    return {name: median(values) for name, values in samples.items()}


def precisions(device: str) -> tuple[Any, ...]:
    """Those that the device has."""
    import torch

    if device == "cpu":
        return ("fp32",)
    return ("fp32", "bf16", "fp16") if torch.cuda.get_device_capability(device) >= (8, 0) else ("fp32", "fp16")


def allow() -> None:
    """Let this process, and no other, build RESFlow's network by name."""
    from benchmarks.resflow import BilinearUNet
    from model_registry import architectures

    builders = cast(dict[str, Any], architectures.BUILDERS)
    builders[NAME] = lambda _: BilinearUNet()


def write_resflow(folder: Path) -> Path:
    """A model folder with random weights."""
    import torch
    from safetensors.torch import save

    from benchmarks.resflow import DEPTH, PARAMETERS, BilinearUNet

    torch.manual_seed(42)
    network = BilinearUNet()
    count = sum(parameter.numel() for parameter in network.parameters())
    if count != PARAMETERS:
        raise AssertionError(f"the network has {count:,} parameters, RESFlow's has {PARAMETERS:,}")
    data = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(data)
    step = 2**DEPTH
    order = ["batch", "bands", "height", "width"]
    document: Mapping[str, Any] = {
        "properties": {
            "name": NAME,
            "architecture": NAME,
            "hyperparameters": {},
            "input": [
                {
                    "name": "image",
                    "bands": ["red", "green", "blue"],
                    "input": {"shape": [-1, 3, -1, -1], "dim_order": order, "data_type": "float32"},
                    "value_scaling": [{"type": "scale", "value": 255.0}] * 3,
                }
            ],
            "output": [
                {
                    "name": "logits",
                    "result": {"shape": [-1, 1, -1, -1], "dim_order": order, "data_type": "float32"},
                    "classification:classes": [{"value": 1, "name": "building"}],
                }
            ],
        },
        "serving": {
            "schema": 1,
            "artifacts": [
                {"href": "model.safetensors", "format": "safetensors", "checksum": checksum_of(data), "size": len(data)}
            ],
            "input": {"values": "dn", "dtypes": ["uint8"]},
            "window": {"multiple": step, "period": step, "halo": HALO, "preferred": 512},
            "exactness": "exact",
        },
    }
    write_manifest(document, folder)
    return folder


def _forward(loaded: LoadedModel, batch: int, least: float = 1.0) -> float:
    """Images per second: raw integers in, class numbers out, both in the host's memory."""
    pixels = np.random.default_rng(0).integers(0, 255, (batch, 3, SIDE, SIDE)).astype(np.uint8)
    loaded.runner(pixels)
    count, begun = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begun) < least or count == 0:
        loaded.runner(pixels)
        count += batch
    return count / seconds


class Through:
    """A scene inferred by the engine, as an export or a very large viewport would have it."""

    def __init__(self, loaded: LoadedModel, scene: Path) -> None:
        from tiler.engine import Engine
        from tiler.layer import fit
        from tiler.scene import SceneRef, open_scene
        from tiler.values import Cell

        self._layer = fit(open_scene(SceneRef(str(scene))), loaded)
        self._engine = Engine(max_pending_cells=1_000_000, read_threads=4, timeout=600.0)
        grid = self._layer.grid
        self._cells = [Cell(row, col) for row in range(grid.cell_rows) for col in range(grid.cell_cols)]
        self._ask(self._cells[: grid.cell_cols])

    def _ask(self, cells: Any) -> None:
        self._engine.cache.clear()
        self._engine.scores(self._layer, cells)

    def images_per_second(self) -> tuple[float, float]:
        """Of pixels asked for, and of pixels put through the network (halo included), both as images of 500 x 500."""
        before, begun = self._engine.inferred_pixels, time.perf_counter()
        self._ask(self._cells)
        seconds = time.perf_counter() - begun
        grid = self._layer.grid
        inferred = self._engine.inferred_pixels - before
        return grid.height * grid.width / SIDE**2 / seconds, inferred / SIDE**2 / seconds

    def close(self) -> None:
        """Stop its threads."""
        self._engine.close()


if __name__ == "__main__":
    sys.exit(main())
