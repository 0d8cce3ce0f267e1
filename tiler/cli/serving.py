"""`tiler serve`, `tiler info` and `tiler demo`."""

from __future__ import annotations

import gc
import json
import signal
import socket
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from tiler.cli.common import bands_of, console, errors, numbers_of, told

if TYPE_CHECKING:
    from tiler.settings import Settings

SceneArgument = Annotated[str | None, typer.Argument(help="Raster to predict over: a path or URL")]
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="Folder with model.yaml, or an ONNX with Deepness or GeoDeep keys")
]
BidxOption = Annotated[str | None, typer.Option(help="Bands of the scene in the model's order, e.g. 3,2,1")]
FactorOption = Annotated[
    float | None, typer.Option("--max-gsd-factor", help="How much coarser or finer than the model the scene may be")
]

GsdsOption = Annotated[
    str | None,
    typer.Option(help="Metres per pixel, e.g. 0.5,1,2: the mean of the model's probabilities at each, as one model"),
]


def serve(
    scene: SceneArgument = None,
    model: ModelOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one")] = 8000,
    bidx: BidxOption = None,
    max_gsd_factor: FactorOption = None,
    gsds: GsdsOption = None,
    exports: Annotated[
        Path | None, typer.Option(help="Folder for exports over HTTP; without it there are none")
    ] = None,
) -> None:
    """Serve predictions: SCENE with --model, or what TILER_CONFIG and the environment name."""
    with told():
        _run(
            _settings(scene, model, bidx, max_gsd_factor, gsds=numbers_of(gsds, "--gsds"), exports=exports), host, port
        )


def info(
    scene: Annotated[str, typer.Argument(help="Raster to predict over: a path or URL")],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder with model.yaml, or an ONNX file")],
    bidx: BidxOption = None,
    max_gsd_factor: FactorOption = None,
    gsds: GsdsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table")] = False,
) -> None:
    """Tell grid, resolution, zooms, halo, what fits and what does not. Exits with 1 if something does not."""
    with told():
        from tiler.info import report

        found = report(scene, model, bands_of(bidx), max_gsd_factor, numbers_of(gsds, "--gsds"))
        if as_json:
            typer.echo(json.dumps(found, default=str))
        else:
            _print_report(found)
        if not all(finding["fits"] for finding in found["findings"]):
            raise typer.Exit(1)


def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo's scene is kept")] = Path(".demo"),
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; the next free one is taken")] = 8000,
    size: Annotated[int, typer.Option(help="Pixels along each side of the scene")] = 4096,
) -> None:
    """Make the demo's scene (once) and serve its trained network over it."""
    with told():
        from tiler.demo import MODEL_FOLDER
        from tiler.demo.landscape import generate
        from tiler.demo.scene import DEMO_SEED, write_picture, write_truth
        from tiler.settings import LabelSettings

        scene, labels = (folder / f"landscape-{DEMO_SEED}-{size}{end}.tif" for end in ("", "-labels"))
        if not (scene.exists() and labels.exists()):
            folder.mkdir(parents=True, exist_ok=True)
            console.print(f"Drawing the demo's landscape ({size} x {size} px), once ...")
            landscape = generate(DEMO_SEED, size)
            for path, write in ((scene, write_picture), (labels, write_truth)):
                if not path.exists():
                    write(path, landscape)
        names = ("demo", "landcover")
        settings = _settings(str(scene), str(MODEL_FOLDER), None, None, names=names, exports=folder / "exports")
        settings.scenes["demo"].title = "Invented landscape, 0.5 m"
        settings.scenes["demo"].labels = LabelSettings(path=str(labels), title="As it was drawn")
        _run(settings, host, _free_port(host, port))


def _settings(
    scene: str | None,
    model: str | None,
    bidx: str | None,
    max_gsd_factor: float | None,
    names: tuple[str, str] | None = None,
    gsds: list[float] | None = None,
    exports: Path | None = None,
) -> Settings:
    from tiler.naming import name_for
    from tiler.settings import SceneSettings, Settings

    given: dict[str, Any] = {}
    if bool(scene) != bool(model):
        raise typer.BadParameter("give both SCENE and --model, or neither and a settings file (TILER_CONFIG)")
    if scene and model:
        scene_name, model_name = names or (name_for(scene, "scene"), name_for(model, "model"))
        given["scenes"] = {scene_name: SceneSettings(path=scene, bands=bands_of(bidx))}
        given["models"] = {model_name: model}
        if gsds:
            given["gsds"] = {model_name: gsds}
    elif gsds:
        raise typer.BadParameter("--gsds is for SCENE and --model; in a settings file write `gsds:`")
    if exports is not None:
        given["exports"] = exports
    if max_gsd_factor is not None:
        given["max_gsd_factor"] = max_gsd_factor
    settings = Settings(**given)
    named = settings.default_pair is not None or (settings.scenes and settings.registry is not None)
    if not named and not settings.allowed_urls:
        raise typer.BadParameter("nothing to serve: give SCENE and --model, or name a settings file in TILER_CONFIG")
    return settings


def _free_port(host: str, port: int) -> int:
    for candidate in range(port, port + 50):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError:
                continue
            return candidate
    raise typer.BadParameter(f"no free port from {port} to {port + 49} on {host}")


def _run(settings: Settings, host: str, port: int) -> None:
    import uvicorn
    from rasterio.errors import NotGeoreferencedWarning

    from tiler.app import create_app

    # An encoded tile has no place of its own; rasterio would say so for every one.
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    application = create_app(settings)
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        log_level="warning",
        proxy_headers=True,
        # After SIGTERM: what has begun is answered, but no longer than a request may take.
        timeout_graceful_shutdown=int(settings.timeout) + 5,
    )
    _reload_on_hangup(application.state.inference.reload)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            # From here on a connection waits until the server runs: whoever reads the address may use it at once.
            listening.listen(config.backlog)
        except OSError as error:
            raise typer.BadParameter(f"{host}:{port} cannot be listened on ({error.strerror}); choose --port") from None
        address = f"http://{host}:{listening.getsockname()[1]}"
        console.print(f"Map page: [bold]{address}/[/bold]", highlight=False, soft_wrap=True)
        pair = application.state.inference.default_pair
        if pair:
            scene, model = pair
            for kind, end in (
                ("Tiles:   ", "{z}/{x}/{y}.png"),
                ("TileJSON:", "tilejson.json"),
                ("WMTS:    ", "1.0.0/WMTSCapabilities.xml"),
            ):
                # A wrapped address cannot be copied.
                console.print(f"{kind} {address}/{scene}/{model}/{end}", highlight=False, markup=False, soft_wrap=True)
        console.print("Ctrl-C stops it.")
        # Modules and routes stay for good. Looking through them for garbage takes a tenth of a second, again and again
        # while tiles are served.
        gc.collect()
        gc.freeze()
        uvicorn.Server(config).run(sockets=[listening])


def _reload_on_hangup(reload: Callable[[], list[str]]) -> None:
    """SIGHUP looks at the models' files again; what changed takes over while the old one goes on answering."""

    def work() -> None:
        try:
            changed = reload()
        except Exception as error:  # the old models stay, and the server too
            errors.print(f"[red]Reload:[/red] {error}", highlight=False)
        else:
            console.print(f"Reloaded: {', '.join(changed) or 'nothing has changed'}", highlight=False)

    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=work, name="reload", daemon=True).start())


def _print_report(found: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in found["facts"].items():
        table.add_row(key, escape(str(value)))
    console.print(table)
    console.print()
    for finding in found["findings"]:
        mark = "[green]fits[/green]" if finding["fits"] else "[red]does not fit[/red]"
        console.print(f"{finding['subject']}: {mark}: {escape(finding['detail'])}", highlight=False, soft_wrap=True)
        if finding["remedy"]:
            console.print(f"  {escape(finding['remedy'])}.", highlight=False, soft_wrap=True)
