"""`tiler models add`, `import` and `trust`: from a file that somebody has to a version in a registry."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tiler.cli.common import console, told

if TYPE_CHECKING:
    from model_registry.intake import Answers

Registry = Annotated[Path, typer.Option("--registry", envvar="TILER_REGISTRY", help="Folder of the registry")]
Name = Annotated[str | None, typer.Option(help="Name in the registry; the file's own by default")]
Alias = Annotated[str | None, typer.Option(help="Point this alias to the new version, e.g. default")]
Classes = Annotated[str | None, typer.Option(help="a,b,c in the order of the channels, or a file with a line each")]
Colors = Annotated[str | None, typer.Option(help="RRGGBB,RRGGBB,... one for each class")]
Bands = Annotated[str | None, typer.Option(help="B04,B03,B02 in the network's order; 1,2,3 are the scene's by number")]
Gsd = Annotated[str | None, typer.Option(help="Metres per pixel that it was trained at, or any")]
Scaling = Annotated[
    str | None,
    typer.Option(help="none, scale=255, mean=..;std=.., min=..;max=.., clip=low,high; | between steps; or MLM's YAML"),
]
Dtypes = Annotated[str | None, typer.Option(help="Dtypes of the rasters that it is meant for: uint8,uint16,...")]
Values = Annotated[str | None, typer.Option(help="dn: the raster's own numbers; physical: after its scale and offset")]
Kind = Annotated[str | None, typer.Option(help="classes (the default), regression or embedding")]
Value = Annotated[str | None, typer.Option(help="Of a regression: 'name=canopy height,unit=m,range=0..40'")]
Emits = Annotated[str | None, typer.Option(help="logits, probabilities or labels, where the file does not show it")]
Activation = Annotated[str | None, typer.Option(help="softmax, sigmoid or none: what is still to be done")]
Threshold = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Below this probability a pixel gets the first class; of a mask: none"),
]
License = Annotated[str | None, typer.Option(help="Licence of the model, as SPDX names it")]
Attribution = Annotated[str | None, typer.Option(help="What a map has to say about it")]
Title = Annotated[str | None, typer.Option(help="Title for people")]
Architecture = Annotated[str | None, typer.Option(help="Network that weights belong to: unet, smp.Unet, ...")]
Hyperparameters = Annotated[str | None, typer.Option(help="in_channels=4,classes=3,... or YAML {...}")]
TestInput = Annotated[Path | None, typer.Option(help=".npy of raw pixels [band, row, column]")]
TestOutput = Annotated[Path | None, typer.Option(help=".npy of the right scores or classes of them: checked")]
Seconds = Annotated[float, typer.Option(min=1, help="Give up after so many seconds")]
Memory = Annotated[float, typer.Option(min=0.1, help="Give up beyond so many GiB of memory")]


def add(
    source: Annotated[str, typer.Argument(help="Model file, folder, item.json, or org/name@commit of Hugging Face")],
    registry: Registry = Path("models"),
    name: Name = None,
    alias: Alias = None,
    classes: Classes = None,
    colors: Colors = None,
    bands: Bands = None,
    gsd: Gsd = None,
    scaling: Scaling = None,
    dtypes: Dtypes = None,
    values: Values = None,
    kind: Kind = None,
    value: Value = None,
    emits: Emits = None,
    activation: Activation = None,
    threshold: Threshold = None,
    license: License = None,
    attribution: Attribution = None,
    title: Title = None,
    architecture: Architecture = None,
    hyperparameters: Hyperparameters = None,
    test_input: TestInput = None,
    test_output: TestOutput = None,
    seconds: Seconds = 300,
    memory: Memory = 8,
) -> None:
    """Add a model to a registry: read it, ask for what it does not say, run it once, publish it as a new version."""
    with told():
        given = _answers(
            classes, colors, bands, gsd, scaling, dtypes, values, kind, value, emits, activation, threshold, license,
            attribution, title, architecture, hyperparameters, test_input, test_output,
        )  # fmt: skip
        _publish(source, registry, name, alias, given, seconds, memory)


def convert(
    checkpoint: Annotated[str, typer.Argument(help="A .pth or .ckpt file")],
    architecture: Annotated[str, typer.Option(help="Network that the weights belong to: unet, smp.Unet, ...")],
    hyperparameters: Hyperparameters = None,
    output: Annotated[Path | None, typer.Option(help="File to write; CHECKPOINT with .safetensors by default")] = None,
    seconds: Seconds = 300,
    memory: Memory = 8,
) -> None:
    """Convert a checkpoint (a pickle) to safetensors, in a child process; `tiler models add` takes the result."""
    with told():
        from model_registry import ManifestError, intake
        from model_registry.intake.answers import read_mapping

        target = output or Path(checkpoint).with_suffix(".safetensors")
        if target.exists():
            raise ManifestError(f"{target.name!r} is there already", "Name another with --output")
        known = {} if hyperparameters is None else read_mapping(hyperparameters, "--hyperparameters")
        limits: dict[str, Any] = {"seconds": seconds, "memory_bytes": int(memory * 2**30)}
        intake.convert(checkpoint, target, architecture, known, **limits)
        again = f" --hyperparameters {hyperparameters}" if hyperparameters else ""
        for line in (f"Weights in {target}", f"Next: tiler models add {target} --architecture {architecture}{again}"):
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def trust(
    source: Annotated[str, typer.Argument(help="File, or NAME, NAME:VERSION, NAME@ALIAS of the registry")],
    registry: Registry = Path("models"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
    revoke: Annotated[bool, typer.Option("--revoke", help="Take it off the list")] = False,
) -> None:
    """Let a .pt2 or TorchScript file run, which may do anything: writes its sha256 into your list of trusted files."""
    with told():
        from model_registry import UnsupportedModel, intake, trust

        path = _artifact(source, registry)
        found = intake.describe(path)
        digest, kind = found["sha256"], found["kind"]
        plain: dict[str, Any] = {"highlight": False, "soft_wrap": True, "markup": False}
        console.print(f"file:    {path.name}, {found['size']} bytes", **plain)
        console.print(f"format:  {kind}", **plain)
        console.print(f"sha256:  {digest}", **plain)
        for finding in found["findings"]:
            console.print(f"warning: {finding}", **plain)
        if revoke:
            console.print("no longer trusted" if trust.distrust(digest) else "it was not trusted", **plain)
            return
        if kind not in trust.CODE_FORMATS:
            raise UnsupportedModel(
                f"a file of the format {kind} needs no trust"
                if kind != "checkpoint"
                else "a checkpoint is never loaded",
                "Add it with tiler models add" if kind != "checkpoint" else "Convert it with tiler models import",
            )
        if trust.is_trusted(digest):
            console.print("it is trusted already", **plain)
            return
        question = "This file can run any code as you, whenever it is loaded. Trust it?"
        if not yes and not (at_terminal() and typer.confirm(question)):
            raise UnsupportedModel("nothing was trusted", "Say yes, or give --yes")
        entry = trust.trust(digest, source if not os.path.exists(source) else path.name)
        console.print(f"trusted by {entry.who} at {entry.when}", **plain)


def at_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()


def _artifact(source: str, registry: Path) -> Path:
    """The file that `source` means: a file, the one artifact of a version, or of a folder with a model.yaml."""
    from model_registry import UnsupportedModel, open_model
    from model_registry.artifacts import locate
    from model_registry.store import Store

    path = Path(source)
    if path.is_file():
        return path
    model = open_model(path) if path.is_dir() else Store(registry).open(source)
    if len(model.artifacts) != 1:
        raise UnsupportedModel(f"the model has {len(model.artifacts)} artifacts", "Name the file that is meant")
    return locate(model.folder, model.artifacts[0].href)


def _publish(
    source: str, registry: Path, name: str | None, alias: str | None, answers: Answers, seconds: float, memory: float,
) -> None:  # fmt: skip
    from model_registry import intake
    from model_registry.store import Store

    if at_terminal() and os.path.exists(source):
        answers = _ask(source, answers)
    store = Store(registry)
    with store.publish(name or intake.name_of(source)) as draft:
        limits: dict[str, Any] = {"seconds": seconds, "memory_bytes": int(memory * 2**30)}
        intake.prepare(source, draft.folder, answers, **limits)
    version = draft.version
    assert version is not None
    if alias:
        store.alias(version.name, alias, version.number)
    now = f", which is now @{alias}" if alias else ""
    console.print(f"Added {version.name}:{version.number}{now}", highlight=False, soft_wrap=True)
    where = "" if registry == Path("models") or "TILER_REGISTRY" in os.environ else f" --registry {registry}"
    following = f"Next: tiler models check {version.name}:{version.number}{where}"
    console.print(following, highlight=False, soft_wrap=True, markup=False)


def _ask(source: str, answers: Answers) -> Answers:
    """Ask at the terminal for whatever is missing, until nothing is."""
    from model_registry import ManifestError, intake

    while missing := intake.questions(source, answers):
        for item in missing:
            option = item["option"].partition(" ")
            text = typer.prompt(f"{item['what'][:1].upper()}{item['what'][1:]} ({option[2]})")
            try:
                answers = replace(answers, **{item["field"]: _read(item["field"], text)})
            except ManifestError as error:
                console.print(str(error), highlight=False, markup=False, soft_wrap=True)
    return answers


def _read(field: str, text: str) -> Any:
    from model_registry.intake import answers as reading

    if field == "classes":
        return reading.read_classes(text)
    if field == "scaling":
        return reading.read_scaling(text)
    if field == "gsd":
        return reading.read_gsd(text)
    if field == "value":
        return reading.read_mapping(text, "--value")
    return reading.read_list(text)


def _answers(
    classes: str | None, colors: str | None, bands: str | None, gsd: str | None, scaling: str | None,
    dtypes: str | None, values: str | None, kind: str | None, value: str | None, emits: str | None,
    activation: str | None, threshold: float | None, license: str | None, attribution: str | None,
    title: str | None, architecture: str | None, hyperparameters: str | None,
    test_input: Path | None, test_output: Path | None,
) -> Answers:  # fmt: skip
    from model_registry import ManifestError
    from model_registry.intake import Answers
    from model_registry.intake.answers import read_classes, read_gsd, read_list, read_mapping, read_scaling

    if colors is not None and classes is None:
        raise ManifestError("colours without classes", "Give --classes as well")
    return Answers(
        title=title,
        classes=None if classes is None else read_classes(classes, colors),
        bands=None if bands is None else read_list(bands),
        gsd=None if gsd is None else read_gsd(gsd),
        scaling=None if scaling is None else read_scaling(scaling),
        dtypes=None if dtypes is None else read_list(dtypes),
        values=values,
        kind=kind,
        value=None if value is None else read_mapping(value, "--value"),
        emits=emits,
        activation=activation,
        threshold=threshold,
        license=license,
        attribution=attribution,
        architecture=architecture,
        hyperparameters=None if hyperparameters is None else read_mapping(hyperparameters, "--hyperparameters"),
        test_input=None if test_input is None else str(test_input.absolute()),
        test_output=None if test_output is None else str(test_output.absolute()),
    )
