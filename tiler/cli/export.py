"""`tiler export`: scenes and a model in, Cloud Optimized GeoTIFFs out."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tiler.cli.common import bands_of, console, errors, numbers_of, told

if TYPE_CHECKING:
    from tiler.export.drive import Progress as Where
    from tiler.export.drive import Result
    from tiler.export.order import Order
    from tiler.export.session import Facts

# Megabytes of decoded tiles that GDAL keeps; its own default is a share of the machine's memory.
GDAL_CACHE = "128"

STOPPED = 130


def export(
    scenes: Annotated[list[str], typer.Argument(help="Rasters: paths, URLs, globs, or a STAC item collection")],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder with model.yaml, ONNX file, or registry name")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The COG; of several scenes, a folder (or --mosaic)")],
    output: Annotated[
        list[str] | None, typer.Option(help="Beside the classes: probability, confidence, spread (repeat for several)")
    ] = None,
    registry: Annotated[str | None, typer.Option(envvar="TILER_REGISTRY", help="Registry that --model names")] = None,
    gsds: Annotated[str | None, typer.Option(help="Multi-zoom ensemble: resolutions in metres, e.g. 0.5,1,2")] = None,
    mosaic: Annotated[bool, typer.Option("--mosaic", help="Several scenes become one COG, the first wins")] = False,
    asset: Annotated[str | None, typer.Option(help="Asset of STAC items")] = None,
    bidx: Annotated[str | None, typer.Option(help="Bands of the scene in the model's order, e.g. 3,2,1")] = None,
    nodata: Annotated[float | None, typer.Option(help="Overrides the scene's nodata value")] = None,
    bbox: Annotated[str | None, typer.Option(help="left,bottom,right,top")] = None,
    bbox_crs: Annotated[str, typer.Option(help="CRS of --bbox")] = "EPSG:4326",
    aoi: Annotated[Path | None, typer.Option(help="GeoJSON file with polygons")] = None,
    gsd: Annotated[float | None, typer.Option(help="Metres per pixel of the result; default: the model's grid")] = None,
    dst_crs: Annotated[str | None, typer.Option(help="CRS of the result; default: the scene's own")] = None,
    resampling: Annotated[str, typer.Option(help="nearest or bilinear, where the result is warped")] = "nearest",
    vector: Annotated[Path | None, typer.Option(help="Classes as polygons, too: .gpkg, .fgb or .geojson")] = None,
    min_area: Annotated[float | None, typer.Option(help="Square metres below which a polygon joins another")] = None,
    simplify: Annotated[float | None, typer.Option(help="Metres by which polygons' edges may move")] = None,
    device: Annotated[str, typer.Option(envvar="TILER_DEVICE", help="cpu, cuda, cuda:0,1")] = "cpu",
    threads: Annotated[int | None, typer.Option(envvar="TILER_THREADS", help="CPU threads of a forward pass")] = None,
    runtime: Annotated[str, typer.Option(envvar="TILER_RUNTIME", help="auto, torch, onnxruntime, openvino")] = "auto",
    precision: Annotated[
        str | None, typer.Option(envvar="TILER_PRECISION", help="fp32, bf16, fp16 or auto; default: the model's own")
    ] = None,
    max_gsd_factor: Annotated[float | None, typer.Option(help="How much coarser or finer the scene may be")] = None,
    max_window_pixels: Annotated[
        int | None, typer.Option(envvar="TILER_MAX_WINDOW_PIXELS", help="Largest window put through the model")
    ] = None,
    block: Annotated[int, typer.Option(min=256, help="Pixels along each side of a part, about")] = 2048,
    scheduler: Annotated[str | None, typer.Option(help="Dask scheduler, tcp://host:8786")] = None,
    resources: Annotated[str | None, typer.Option(help="What a Dask worker must have, e.g. GPU=1")] = None,
    attribution: Annotated[str, typer.Option(help="Who has to be named; stands in the tags")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Progress as lines of JSON")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another export's files")] = False,
    keep_parts: Annotated[bool, typer.Option("--keep-parts", help="Leave the part files")] = False,
    disk_check: Annotated[bool, typer.Option(help="Refuse to begin when the disk may be too small")] = True,
    register: Annotated[bool, typer.Option(help="Let live maps of this scene and model use the result")] = True,
) -> None:
    """Predict whole scenes, with the same pixels as the live map. The same command again goes on where it stopped."""
    os.environ.setdefault("GDAL_CACHEMAX", GDAL_CACHE)
    with told():
        order = _order(locals())
        outs = [(order, out)]
        for one, where in outs:
            _export(one, where, locals())


def _export(order: Order, out: Path, given: dict[str, Any]) -> None:
    from tiler.export.parts import check_output

    check_output(out)
    reporter = _Lines() if given["as_json"] else _Bar()
    if given["dry_run"]:
        reporter.dry(order)
        return
    from tiler.export import cluster, local
    from tiler.export.session import Stopped

    manner = local.Manner(given["overwrite"], given["keep_parts"], given["disk_check"])
    address, resources = given["scheduler"], _resources(given["resources"])
    with _stopping() as stop, reporter:
        try:
            if address:
                result = cluster.export(
                    order,
                    out,
                    manner,
                    address,
                    resources=resources,
                    known=reporter.begin,
                    tell=reporter.tell,
                    stop=stop,
                )
            else:
                result = local.export(order, out, manner, known=reporter.begin, tell=reporter.tell, stop=stop)
        except Stopped:
            reporter.stopped()
            raise typer.Exit(STOPPED) from None
    reporter.end(result)


def _order(given: dict[str, Any]) -> Order:
    from tiler.export.order import Order, SceneOrder

    bands = bands_of(given["bidx"])
    scenes = tuple(
        SceneOrder(_absolute(source), tuple(bands) if bands else None, given["nodata"]) for source in given["scenes"]
    )
    named = {
        "device": given["device"],
        "threads": given["threads"],
        "runtime": given["runtime"],
        "precision": given["precision"],
        "block": given["block"],
        "attribution": given["attribution"],
        "resampling": given["resampling"],
        "outputs": tuple(part for text in given["output"] or () for part in text.split(",")),
        "gsds": tuple(numbers_of(given["gsds"], "--gsds") or ()),
        "gsd": given["gsd"],
        "crs": given["dst_crs"],
    }
    for name in ("max_gsd_factor", "max_window_pixels"):
        if given[name] is not None:
            named[name] = given[name]
    model = given["model"] if given["registry"] else _absolute(given["model"])
    return Order(scenes=scenes, model=model, registry=given["registry"], **named)


def _absolute(source: str) -> str:
    """Paths as workers elsewhere need them; what is no file here is left as it is."""
    return str(Path(source).absolute()) if os.path.exists(source) else source


def _resources(text: str | None) -> dict[str, float]:
    try:
        pairs = [part.split("=") for part in text.split(",")] if text else []
        return {name.strip(): float(amount) for name, amount in pairs}
    except ValueError:
        raise typer.BadParameter(f"--resources {text!r} is not a list such as GPU=1") from None


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM end the export between two windows; a second Ctrl-C at once."""
    stop = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Lines:
    """Progress for programs: one JSON object a line."""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def dry(self, order: Order) -> None:
        """What an export would take."""
        self._say(_estimate(order))

    def begin(self, facts: Facts) -> None:
        """What it is."""
        self._say({"event": "begin", **_plan(facts)})

    def tell(self, where: Where) -> None:
        """How far it is."""
        self._say(
            {
                "event": "progress",
                "stage": where.stage,
                "blocks": where.blocks,
                "done": where.done,
                "kept": where.kept,
                "pixels": where.pixels,
                "pixels_done": where.pixels_done,
                "mpx_per_second": round(where.rate / 1e6, 3),
                "km2_per_second": round(where.km2_per_second, 4),
                "seconds_left": None if where.seconds_left is None else round(where.seconds_left, 1),
                "cache_hits": where.cache_hits,
            }
        )

    def stopped(self) -> None:
        """It was stopped on purpose."""
        self._say({"event": "stopped"})

    def end(self, result: Result) -> None:
        """What it has made."""
        self._say(
            {
                "event": "finished",
                "files": {name: str(path) for name, path in result.files.items()},
                "counts": result.counts,
                "made": result.made,
                "kept": result.kept,
                "already": result.already,
            }
        )

    def _say(self, body: dict[str, Any]) -> None:
        typer.echo(json.dumps(body))


class _Bar:
    """Progress for people."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} blocks"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=errors,
            transient=True,
        )
        self._task = self._bar.add_task("Opening", total=1, rate="")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def dry(self, order: Order) -> None:
        """What an export would take."""
        for key, value in _estimate(order).items():
            console.print(f"{key.replace('_', ' ')}: {value}", highlight=False, markup=False, soft_wrap=True)

    def begin(self, facts: Facts) -> None:
        """What it is."""
        for key, value in _plan(facts).items():
            errors.print(f"{key.replace('_', ' ')}: {value}", highlight=False, markup=False, soft_wrap=True)

    def tell(self, where: Where) -> None:
        """How far it is."""
        rate = f"{where.rate / 1e6:.2f} Mpx/s, {where.km2_per_second:.3g} km2/s" if where.rate else ""
        if where.cache_hits:
            rate += f", {where.cache_hits} cache hits"
        if where.kept:
            rate += f", {where.kept} kept"
        words = {"checking": "Checking parts", "inferring": "Inferring", "writing": "Writing the COG"}
        self._bar.update(
            self._task, description=words[where.stage], total=where.blocks, completed=where.done, rate=rate
        )

    def stopped(self) -> None:
        """It was stopped on purpose."""
        errors.print("Stopped. What is done stays: the same command goes on.", highlight=False)

    def end(self, result: Result) -> None:
        """What it has made."""
        for path in result.files.values():
            note = "is there already" if result.already else f"{result.made} blocks made, {result.kept} kept"
            console.print(f"{path}: {note}", highlight=False, markup=False, soft_wrap=True)


def _plan(facts: Facts) -> dict[str, Any]:
    region, grid = facts.frame.region, facts.frame.grid
    return {
        "blocks": len(facts.blocks),
        "size": f"{region.width} x {region.height} px of {grid.gsd:g} m",
        "pixels": facts.pixels,
        "inferred_pixels": facts.windows or None,
        "runtime": f"{facts.runtime} {facts.precision}",
        "memory_mb": round(facts.memory / 1e6),
        "disk_mb": round((facts.scratch + facts.size) / 1e6),
        "revision": ", ".join(facts.revisions),
        "job": facts.job,
    }


def _estimate(order: Order) -> dict[str, Any]:
    from tiler.export.session import Session

    session = Session.open(order)
    try:
        facts = session.facts()
        return _plan(facts) | {"seconds": round(session.seconds_per_pixel() * facts.pixels, 1)}
    finally:
        session.close()
