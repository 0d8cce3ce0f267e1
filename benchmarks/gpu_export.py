"""RESFlow's network over a whole scene, COG in, COG out: `python -m benchmarks.gpu export`.

Images of 500 x 500 px per second, as its paper counts, and square kilometres at 0.5 m; how long the device's thread was
inside the network, what the GPU says of itself, and what each kind of thread has worked: where the GPU waits, for whom.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio
from rasterio.shutil import copy

from benchmarks import gpu, machine, report, servers
from benchmarks.figures import median, ratio
from benchmarks.processes import ROOT, threads_of
from tiler.demo.canvas import METRES
from tiler.demo.scene import COG_OPTIONS

BASE = 4096  # px; what a larger scene repeats
INTERVAL = 0.2  # seconds between two questions to the driver


def main(arguments: list[str]) -> int:
    """Measure; exits with 1 and one line where there is no CUDA device."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu export", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:0,1; cpu only tries the code (512 px, 1 run)")
    parser.add_argument("--size", type=int, help="of the scene, in pixels a side (16384)")
    parser.add_argument("--runs", type=int, help="interleaved runs (3)")
    parser.add_argument("--readers", type=int, nargs="+", default=[2], help="threads that read, tried in turn")
    parser.add_argument("--batch", type=int, help="windows put through the network together")
    parser.add_argument("--window", type=int, default=2**20, help="pixels of a window at most, halo included")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo", help="where scenes are kept")
    given = parser.parse_args(arguments)
    if given.device != "cpu" and (reason := gpu.missing()):
        print(f"benchmarks.gpu: {reason}", file=sys.stderr)
        return 1
    toy = given.device == "cpu"
    size, runs = given.size or (512 if toy else 16384), given.runs or (1 if toy else 3)
    scene = large_scene(given.folder, size)
    gpu.allow()
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as place:
        model = gpu.write_resflow(Path(place) / gpu.NAME)
        for _ in range(runs):
            for precision in gpu.precisions(given.device):
                for readers in given.readers:
                    way = Way(given.device, precision, readers, given.batch, given.window)
                    name = f"{precision}_{readers}_readers"
                    for figure, value in way.measure(scene, model, Path(place)).items():
                        samples.setdefault(f"{figure}_{name}", []).append(value)
                    print(f"  {name}: {samples[f'images_s_{name}'][-1]:.1f} images/s", flush=True)
    figures = {name: median(values) for name, values in samples.items()}
    print(report.table(figures))
    if given.json:
        about = {**machine.describe(), "gpu": gpu.name_of(given.device)}
        print(report.last_line(figures, machine=about, size=size, runs=runs))
    return 0


def large_scene(folder: Path, size: int) -> Path:
    """A COG of the demo's landscape, repeated where it is larger than that; drawn unless it is there."""
    if size <= BASE:
        return servers.scene_file(folder, size)
    file = folder / f"landscape-repeated-{size}.tif"
    if file.exists():
        return file
    base = servers.scene_file(folder, BASE)
    with rasterio.open(base) as dataset:
        crs, transform = dataset.crs.to_wkt(), ", ".join(map(repr, dataset.transform.to_gdal()))
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><NoDataValue>0</NoDataValue>'
        f"<ColorInterp>{colour}</ColorInterp>{_sources(base, band, size)}</VRTRasterBand>"
        for band, colour in enumerate(("Red", "Green", "Blue"), start=1)
    )
    text = (
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><SRS>{crs.replace("<", "&lt;")}</SRS>'
        f"<GeoTransform>{transform}</GeoTransform>{bands}</VRTDataset>"
    )
    part = file.with_suffix(".part")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as place:
        virtual = Path(place) / "scene.vrt"
        virtual.write_text(text, encoding="utf-8")
        copy(virtual, part, driver="COG", **{**COG_OPTIONS, "num_threads": "ALL_CPUS", "bigtiff": "if_safer"})
    part.replace(file)
    return file


def _sources(base: Path, band: int, size: int) -> str:
    steps = range(0, size, BASE)
    return "".join(
        f"<SimpleSource><SourceFilename>{base.resolve()}</SourceFilename><SourceBand>{band}</SourceBand>"
        f'<SrcRect xOff="0" yOff="0" xSize="{BASE}" ySize="{BASE}"/>'
        f'<DstRect xOff="{col}" yOff="{row}" xSize="{BASE}" ySize="{BASE}"/></SimpleSource>'
        for row in steps
        for col in steps
    )


@dataclass(frozen=True, slots=True)
class Way:
    """How a scene is exported; see `tiler.engine.Engine`, and `Order` for the window."""

    device: str
    precision: Any
    readers: int
    batch: int | None
    window: int

    def measure(self, scene: Path, model: Path, place: Path) -> dict[str, float]:
        """Figures of one export. The model is loaded, and has seen a window, before the clock starts."""
        from tiler.engine import Engine
        from tiler.export import local
        from tiler.export.drive import Progress
        from tiler.export.order import Order, SceneOrder
        from tiler.export.session import Session

        order = Order(
            (SceneOrder(str(scene)),), str(model), device=self.device, precision=self.precision,
            max_window_pixels=self.window,
        )  # fmt: skip
        engine = Engine(read_threads=self.readers, batch=self.batch, cache_bytes=0, picture_bytes=0, timeout=3600.0)
        session = Session.open(order, engine)
        try:
            session.seconds_per_pixel()
            devices = list(engine.devices.values())
            busy, pixels = (sum(device.busy for device in devices), sum(device.pixels for device in devices))
            stages: dict[str, float] = {}
            used: dict[str, float] = {}

            def tell(where: Progress) -> None:
                if where.stage not in stages:
                    stages[where.stage] = time.monotonic()
                    if where.stage == "writing":  # later they have ended
                        used.update(threads_of())

            with _Driver(self.device) as driver:
                before, begun = threads_of(), time.monotonic()
                result = local.export(
                    order,
                    place / "out.tif",
                    local.Manner(overwrite=True),
                    session=session,
                    tell=tell,
                )
                wall = time.monotonic() - begun
        finally:
            session.close()
        if not sum(result.counts.values()):
            raise AssertionError("the export has no pixel with data")
        with rasterio.open(place / "out.tif") as dataset:
            area = dataset.width * dataset.height
        (place / "out.tif").unlink()
        inferring = stages["writing"] - stages["checking"]
        images = area / gpu.SIDE**2
        spent = {kind: used[kind] - before.get(kind, 0.0) for kind in used}
        return {
            "images_s": images / wall,
            "images_s_inferring": images / inferring,
            "km2_s": area * METRES**2 / 1e6 / wall,
            "inferred_images_s": (sum(device.pixels for device in devices) - pixels) / gpu.SIDE**2 / inferring,
            # Of several devices the mean.
            "device_busy": ratio(sum(device.busy for device in devices) - busy, inferring * len(devices)),
            "gpu_utilisation": driver.utilisation,
            "cog_share": ratio(wall - inferring, wall),
            **{f"cpu_ms_per_image_{kind.casefold()}": seconds * 1e3 / images for kind, seconds in spent.items()},
        }


class _Driver(threading.Thread):
    """What the driver says of the GPU's use, 0 to 1, a mean over the time inside; NaN where there is none."""

    def __init__(self, device: str) -> None:
        super().__init__(daemon=True)
        self._tool = shutil.which("nvidia-smi") if device != "cpu" else None
        self._over, self._seen = threading.Event(), list[float]()

    def __enter__(self) -> _Driver:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    @property
    def utilisation(self) -> float:
        """The mean."""
        return ratio(sum(self._seen), len(self._seen))

    def run(self) -> None:
        """Ask now and then."""
        while self._tool and not self._over.wait(INTERVAL):
            question = [self._tool, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            self._note(subprocess.run(question, capture_output=True, text=True).stdout.split())

    def _note(self, percents: Sequence[str]) -> None:
        numbers = [float(text) / 100 for text in percents if text.isdigit()]
        if numbers:
            self._seen.append(sum(numbers) / len(numbers))
