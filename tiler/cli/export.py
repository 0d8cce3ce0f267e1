"""`tiler export`: scenes and a model in, Cloud Optimized GeoTIFFs out."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.markup import escape

from tiler.cli.common import bands_of, errors, numbers_of, told
from tiler.cli.reporting import Bar, Lines, Reporter
from tiler.gdal import settle

if TYPE_CHECKING:
    from tiler.export.local import Manner
    from tiler.export.order import Order
    from tiler.export.polygons import Outlines
    from tiler.export.products import Product
    from tiler.export.scenes import NamedScene
    from tiler.values import Output

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
    bbox_crs: Annotated[str | None, typer.Option(help="CRS of --bbox; default: longitude and latitude")] = None,
    aoi: Annotated[Path | None, typer.Option(help="GeoJSON file with polygons")] = None,
    gsd: Annotated[float | None, typer.Option(help="Metres per pixel of the result; default: the model's grid")] = None,
    dst_crs: Annotated[str | None, typer.Option(help="CRS of the result; default: the scene's own")] = None,
    resampling: Annotated[
        Literal["nearest", "bilinear"], typer.Option(help="How the result is warped, where it is")
    ] = "nearest",
    vector: Annotated[Path | None, typer.Option(help="Classes as polygons, too: .gpkg, .fgb or .geojson")] = None,
    min_area: Annotated[float | None, typer.Option(help="Square metres below which a polygon joins another")] = None,
    simplify: Annotated[float | None, typer.Option(help="Metres by which polygons' edges may move")] = None,
    device: Annotated[str, typer.Option(envvar="TILER_DEVICE", help="cpu, cuda, cuda:0,1")] = "cpu",
    threads: Annotated[int | None, typer.Option(envvar="TILER_THREADS", help="CPU threads of a forward pass")] = None,
    runtime: Annotated[
        Literal["auto", "onnxruntime", "openvino", "torch"],
        typer.Option(envvar="TILER_RUNTIME", help="What runs the model"),
    ] = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "auto"] | None,
        typer.Option(envvar="TILER_PRECISION", help="Arithmetic of the model; default: its own"),
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
    settle(exporting=True)
    with told():
        from tiler.errors import InferenceError, RequestError
        from tiler.export.aoi import read_aoi
        from tiler.export.area import parse_bbox
        from tiler.export.local import Manner
        from tiler.export.order import Order, SceneOrder
        from tiler.export.polygons import Outlines
        from tiler.export.scenes import scenes_of
        from tiler.layer import MAX_GSD_FACTOR, MAX_WINDOW_PIXELS

        if bbox_crs is not None and bbox is None:
            raise RequestError("--bbox-crs is given without --bbox", "Give --bbox, too, or leave it out")
        bands = tuple(bands_of(bidx) or ()) or None
        outputs = tuple(part.strip() for text in output or () for part in text.split(","))
        outlines = None if vector is None else Outlines(vector, min_area, simplify, overwrite)
        if vector is not None and aoi is not None and vector.exists() and aoi.exists() and vector.samefile(aoi):
            raise RequestError(f"--vector {vector.name!r} is the polygon of --aoi itself", "Choose another name")
        targets = _targets(scenes_of(scenes, asset=asset), out, mosaic, outlines)
        how = _How(
            Manner(overwrite, keep_parts, disk_check),
            outlines,
            scheduler,
            _resources(resources),
            Lines() if as_json else Bar(),
            dry_run,
            register,
        )
        failed = 0
        for members, target in targets:
            order = Order(
                scenes=tuple(SceneOrder(_absolute(scene.source), bands, nodata) for scene in members),
                model=model if registry else _absolute(model),
                registry=registry,
                gsds=tuple(numbers_of(gsds, "--gsds") or ()),
                outputs=cast("tuple[Output, ...]", outputs),
                bbox=None if bbox is None else parse_bbox(bbox),
                bbox_crs=bbox_crs or "EPSG:4326",
                aoi=None if aoi is None else read_aoi(aoi),
                gsd=gsd,
                crs=dst_crs,
                resampling=resampling,
                device=device,
                threads=threads,
                runtime=runtime,
                precision=precision,
                max_gsd_factor=max_gsd_factor or MAX_GSD_FACTOR,
                max_window_pixels=max_window_pixels or MAX_WINDOW_PIXELS,
                block=block,
                attribution=attribution,
            )
            try:
                _export(order, target, how)
            except InferenceError as error:
                if len(targets) == 1:
                    raise
                # One scene of many that does not fit must not keep the others from being done.
                failed += 1
                errors.print(f"[red]{escape(target.name)}:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        if failed:
            raise InferenceError(f"{failed} of {len(targets)} scenes failed", "The others are done")


@dataclass(frozen=True)
class _How:
    """What all scenes of a command share."""

    manner: Manner
    outlines: Outlines | None
    scheduler: str | None
    resources: dict[str, float]
    reporter: Reporter
    dry_run: bool
    register: bool


def _targets(
    scenes: Sequence[NamedScene], out: Path, mosaic: bool, outlines: Outlines | None
) -> list[tuple[tuple[NamedScene, ...], Path]]:
    """Which scenes go into which file; whatever cannot be is refused."""
    from tiler.errors import RequestError
    from tiler.export.parts import check_output

    if len(scenes) == 1 or mosaic:
        targets = [(tuple(scenes), out / f"{scenes[0].name}.tif" if out.is_dir() and not mosaic else out)]
    elif outlines is not None:
        raise RequestError("--vector names one file, but there are several scenes", "Add --mosaic, or do one at a time")
    elif not out.is_dir():
        raise RequestError(
            f"{len(scenes)} scenes become {len(scenes)} files, but {out.name!r} is no folder",
            "Give an existing folder with -o, or add --mosaic",
        )
    else:
        targets = [((scene,), out / f"{scene.name}.tif") for scene in scenes]
    for _, target in targets:
        check_output(target)
    if outlines is not None:
        outlines.check(targets[0][1])
    return targets


def _export(order: Order, out: Path, how: _How) -> None:
    from tiler.export import cluster, local
    from tiler.export.cog import path_of
    from tiler.export.session import Facts, Session, Stopped

    reporter = how.reporter
    if how.dry_run:
        session = Session.open(order)
        try:
            reporter.plan(session.facts, session.seconds_per_pixel() * session.facts.pixels)
        finally:
            session.close()
        return
    told_of: list[Facts] = []

    def known(facts: Facts) -> None:
        told_of.append(facts)
        reporter.plan(facts)

    with _stopping() as stop, reporter:
        given: dict[str, Any] = {"known": known, "tell": reporter.tell, "stop": stop}
        try:
            if how.scheduler:
                result = cluster.export(order, out, how.manner, how.scheduler, resources=how.resources, **given)
            else:
                result = local.export(order, out, how.manner, **given)
        except Stopped:
            reporter.stopped()
            raise typer.Exit(STOPPED) from None
        if how.register:
            _register(list(result.files.values()))
        first, polygons = told_of[0].products[0], None
        if how.outlines is not None and not (result.already and how.outlines.out.exists()):
            count = _outlined(how.outlines, path_of(out, first, first), first, reporter, stop)
            polygons = how.outlines.out, count
    reporter.end(result, polygons)


def _outlined(outlines: Outlines, raster: Path, product: Product, reporter: Reporter, stop: threading.Event) -> int:
    def step(stage: str, done: int, total: int) -> None:
        reporter.step(stage, done, total)
        if stop.is_set():
            reporter.stopped()
            raise typer.Exit(STOPPED)

    return outlines.write(raster, product, step)


def _register(files: list[Path]) -> None:
    """Let live maps use the result; where that cannot be, the result is there all the same."""
    from tiler.errors import InferenceError
    from tiler.materialised import register
    from tiler.settings import materialised_folder

    folder = os.environ.get("TILER_MATERIALISED") or materialised_folder()
    for file in files:
        try:
            register(folder, file)
        except (InferenceError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            errors.print(f"Live maps will not use {file.name}: {reason}", highlight=False, markup=False, soft_wrap=True)


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
