"""`tiler models check`: what a model is, measured in a child process, and whether its manifest says the same."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from tiler.cli.common import bands_of, console, told

if TYPE_CHECKING:
    from model_registry import Model

_COLORS = {"exact": "green", "bounded": "yellow", "unsafe": "red"}


def check(
    model: Annotated[
        str, typer.Argument(help="name, name@alias or name:3 of the registry; a folder with model.yaml; an ONNX file")
    ],
    registry: Annotated[
        str, typer.Option(envvar="TILER_REGISTRY", help="The registry: a folder, or s3://, gs://, https:// (read-only)")
    ] = "models",
    scene: Annotated[str | None, typer.Option(help="Raster to try it on as well: a path or URL")] = None,
    bidx: Annotated[str | None, typer.Option(help="Bands of the scene in the model's order, e.g. 3,2,1")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON instead of tables")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="Give up after so many seconds")] = 600,
    memory: Annotated[float, typer.Option(min=0.1, help="Give up beyond so many GiB of memory")] = 8,
    device: Annotated[str, typer.Option(help="Where it runs: cpu, cuda, cuda:1")] = "cpu",
) -> None:
    """Measure a model: sizes, period, halo, exactness, precisions, speed, golden test.

    Exits with 1 if the manifest claims more than was measured or the golden test fails, with 2 if the model cannot be
    loaded.
    """
    with told():
        from model_registry import child
        from model_registry.check import report_path, write

        path = _located(model, registry)
        limits: dict[str, Any] = {"seconds": seconds, "memory_bytes": int(memory * 2**30)}
        whole = _ensemble(path)
        arguments: dict[str, Any] = {"path": str(path.absolute()), "device": device}
        function = "model_registry.check:check"
        picture = None
        if scene is not None:
            function = "tiler.check:on_scene"
            picture = _picture_of(report_path(path.absolute()))
            arguments |= {"scene": _absolute(scene), "picture": str(picture), "bands": bands_of(bidx)}
        if whole is not None:
            found = _of_members(whole, model, registry, scene, {"device": device}, limits)
        else:
            found = child.run(function, arguments, **limits)
        kept = write(path, found)
        if as_json:
            typer.echo(json.dumps(found))
        else:
            _print(found)
            console.print(f"Kept in {kept}" if kept else "Not kept: the model's folder cannot be written to", **_PLAIN)
            if picture is not None and found["scene"]["picture"]:
                console.print(f"Picture: {picture}", **_PLAIN)
        if any(finding["level"] == "error" for finding in found["findings"]):
            raise typer.Exit(1)


def _located(model: str, registry: str) -> Path:
    """The folder or file that is meant: a path that exists, else a reference into the registry."""
    from model_registry import ManifestError
    from model_registry.refs import parse_ref
    from model_registry.remote import open_store

    path = Path(model)
    if path.exists():
        return path
    if path.suffix.lower() == ".onnx" or len(path.parts) > 1:
        raise ManifestError(f"there is no {path.name!r}", "Give a folder with a model.yaml, or an .onnx file")
    # Its manifest is read here, as `tiler models list` does; only the artifact is anybody's file.
    return open_store(registry).open(parse_ref(model)).folder


def _ensemble(path: Path) -> Model | None:
    """The model at a path if it is an ensemble of others: there is no file of its own to be measured."""
    from model_registry import open_model
    from model_registry.ensemble import refs_of

    if not path.is_dir():
        return None
    found = open_model(path)
    return found if refs_of(found) else None


def _of_members(
    whole: Model, name: str, registry: str, scene: str | None, arguments: dict[str, Any], limits: dict[str, Any]
) -> dict[str, Any]:
    """The report of an ensemble: each member is measured in a child process of its own."""
    from model_registry import UnsupportedModel, child
    from model_registry.ensemble import find_beside, member_models, refs_of
    from model_registry.ensemble_check import merged
    from model_registry.remote import open_store

    if scene is not None:
        raise UnsupportedModel(f"{whole.name!r} is an ensemble", "Try its members on the scene, one by one")
    find = find_beside(whole) if Path(name).exists() else open_store(registry).open
    member_models(whole, find)
    reports = {}
    for ref in refs_of(whole):
        there = {**arguments, "path": str(find(ref).folder.absolute())}
        reports[ref] = child.run("model_registry.check:check", there, **limits)
    return merged(whole, reports)


_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}


def _picture_of(report: Path) -> Path:
    """check.png beside the report, in the working directory where that folder cannot be written to."""
    name = report.name.removesuffix("probe.json") + "check.png"
    return (report.parent if os.access(report.parent, os.W_OK) else Path.cwd()) / name


def _absolute(scene: str) -> str:
    """A local path that holds in the child, too; URLs as they are."""
    return str(Path(scene).absolute()) if Path(scene).exists() else scene


def _print(found: dict[str, Any]) -> None:
    exactness = found["exactness"]
    color = _COLORS.get(exactness, "red")
    console.print(f"[bold]{escape(found['title'])}[/bold] ({escape(found['model'])})", highlight=False, soft_wrap=True)
    table = _table("", "")
    if exactness is None:
        table.add_row("exactness", f"[{color}]not measured[/{color}]: see below")
    else:
        table.add_row("exactness", f"[{color}]{exactness}[/{color}]: {_meaning(found)}")
        table.add_row("windows", escape(_windows(found)))
    for note in found["notes"]:
        table.add_row("", escape(note))
    if found["contract"]:
        table.add_row("answer", escape(_answer(found["contract"])))
    if found["golden"]:
        table.add_row("golden test", escape(_golden(found["golden"])))
    table.add_row("measured in", f"{found['seconds']:g} s, {found['cpu_seconds']:g} CPU s")
    console.print(table)
    if found["errors"] and exactness != "exact":
        _print_seams("What a halo leaves, in windows of one size on noise", found["errors"])
    _print_runtimes(found)
    shown = found.get("scene")
    if shown:
        if shown["why_not"]:
            console.print(f"Not tried on {escape(shown['name'])}: {escape(shown['why_not'])}", soft_wrap=True)
        if shown["seams"]:
            _print_seams(f"What a halo leaves on {shown['name']}", shown["seams"])
    for finding in found["findings"]:
        mark = "[red]wrong[/red]" if finding["level"] == "error" else "[yellow]note[/yellow]"
        text = f"{mark} {escape(finding['subject'])}: {escape(finding['detail'])}"
        console.print(text, highlight=False, soft_wrap=True)
        if finding["remedy"]:
            console.print(f"  {escape(finding['remedy'])}.", highlight=False, soft_wrap=True)


def _meaning(found: dict[str, Any]) -> str:
    if found["exactness"] == "exact":
        return "tiles equal one pass over the whole scene"
    error = found["error"]
    if error is None:
        return "windows differ; by how much was not measured"
    told = f"on noise, neighbouring windows differ in {100 * error['moved']:.2g} % of the pixels"
    return told + f" (probability by up to {error['dprob']:.2g})"


def _windows(found: dict[str, Any]) -> str:
    sizes = "{} x {} px only".format(*found["fixed"]) if found["fixed"] else f"multiples of {found['multiple']} px"
    text = f"halo {found['halo']} px, on multiples of {found['period']} px, sizes: {sizes}"
    off = (found["windows"] or {}).get("moved_one_px_off")
    return text if off is None else f"{text}; 1 px off the period moves {100 * off:.2g} % of the pixels"


def _answer(contract: dict[str, Any]) -> str:
    low, high = contract["range"]
    seen = sum(share > 0 for share in contract["seen"].values())
    return (
        f"{contract['channels']} channels of {contract['emits']} from {low:.3g} to {high:.3g}; "
        f"{seen} of {len(contract['seen'])} classes seen in noise"
    )


def _golden(golden: dict[str, Any]) -> str:
    passed = "passed" if golden["passed"] else "failed"
    return f"{passed}: {golden['mismatched_per_million']:.4g} in a million {golden['kind']} differ"


def _print_seams(title: str, rows: list[dict[str, Any]]) -> None:
    # A table's own title is wrapped to the table's width.
    console.print(title, style="italic", highlight=False, markup=False, soft_wrap=True)
    table = _table("window", "halo", "pixels moved", "probability by up to")
    for row in _some(rows):
        table.add_row(f"{row['window']} px", f"{row['halo']} px", f"{100 * row['moved']:.4g} %", f"{row['dprob']:.2g}")
    console.print(table)


def _some(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """About five rows for each size of window, the smallest halo and the largest among them; JSON has them all."""
    shown = []
    # Crops of an exact network grow with their halo: one row each.
    for window in dict.fromkeys(row["window"] for row in rows):
        same = [row for row in rows if row["window"] == window]
        shown += [row for n, row in enumerate(same) if (len(same) - 1 - n) % max(1, (len(same) - 1) // 4) == 0]
    return shown


def _print_runtimes(found: dict[str, Any]) -> None:
    if not found["drift"]:
        return
    table = _table("runtime", "Mpx/s", "CPU s per Mpx", "pixels moved", "")
    speeds = {(row["runtime"], row["precision"]): row for row in found["speed"]}
    for row in found["drift"]:
        speed = speeds.get((row["runtime"], row["precision"]))
        moved = "-" if row["moved"] is None else f"{100 * row['moved']:.3g} %"
        remark = "reference" if row["reference"] else row["why_not"] or row["seams"]
        table.add_row(
            f"{row['runtime']} {row['precision']}",
            f"{speed['mpx_per_s']:.3g}" if speed else "-",
            f"{speed['cpu_s_per_mpx']:.3g}" if speed else "-",
            f"{moved} of {row['on']}" if not row["reference"] else "",
            escape(remark),
        )
    console.print(table)


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False, show_header=bool(columns[0]))
