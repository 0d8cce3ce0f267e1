"""`tiler models`: what a registry holds, and how it is managed. Other rooms add commands to the same `models_app`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from tiler.cli import cards
from tiler.cli.common import console, told

if TYPE_CHECKING:
    from model_registry.store import Store
    from model_registry.versions import Registry, Version

models_app = typer.Typer(
    no_args_is_help=True,
    help="A registry of models: add them, measure them, look at them, say which version is served.",
)

# Also for the rooms that add commands.
DEFAULT_REGISTRY = "models"
RegistryOption = Annotated[
    str,
    typer.Option(
        "--registry", "-r", envvar="TILER_REGISTRY", help="Folder of the registry; to read also s3://, https://"
    ),
]
RefArgument = Annotated[str, typer.Argument(metavar="REF", help="NAME, NAME@ALIAS or NAME:VERSION")]
VersionArgument = Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The version, by its number")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of a table")]


def open_registry(root: str) -> Registry:
    """The registry at `root`, a folder or a URL; to be called inside `told`."""
    from model_registry.remote import open_store

    return open_store(root)


def writable(root: str) -> Store:
    """The registry at `root` where it is a folder; what is remote is only read."""
    from model_registry.errors import RegistryError
    from model_registry.store import Store

    registry = open_registry(root)
    if not isinstance(registry, Store):
        raise RegistryError("a remote registry is only read", "Change the folder that it is uploaded from")
    return registry


@models_app.command("list")
def list_models(registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False) -> None:
    """List all versions: aliases, state, classes, resolution, exactness, licence."""
    with told():
        from model_registry.card import summary

        shelves = open_registry(registry)
        found = [summary(shelves, version) for version in _versions(shelves)]
        if as_json:
            typer.echo(json.dumps(found))
        elif not found:
            console.print("No models. Add one with `tiler models add FILE`.", soft_wrap=True)
        else:
            cards.print_list(found)


@models_app.command()
def show(ref: RefArgument, registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False) -> None:
    """Show one model: where it is from, what it answers, how exact and how fast it is."""
    with told():
        from model_registry.card import card

        shelves = open_registry(registry)
        found = card(shelves, shelves.resolve(ref))
        if as_json:
            typer.echo(json.dumps(found))
        else:
            cards.print_card(found)


@models_app.command()
def alias(
    ref: RefArgument,
    alias: Annotated[str, typer.Argument(help="Alias, e.g. default or canary")],
    registry: RegistryOption = DEFAULT_REGISTRY,
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away instead")] = False,
) -> None:
    """Point ALIAS to a version: `alias cover:3 default`, or take it away: `alias cover old --remove`."""
    with told():
        from model_registry.refs import parse_ref

        store = writable(registry)
        if remove:
            name = parse_ref(ref).name
            store.unalias(name, alias)
            _say(f"{name}@{alias} is gone")
        else:
            version = store.resolve(ref)
            store.alias(version.name, alias, version.number)
            _say(f"{version.name}@{alias} is {version.ref}")


@models_app.command()
def retire(
    ref: VersionArgument,
    registry: RegistryOption = DEFAULT_REGISTRY,
    undo: Annotated[bool, typer.Option("--undo", help="Bring it back")] = False,
) -> None:
    """Keep a version from being chosen unless it is asked for by number."""
    with told():
        store = writable(registry)
        version = (store.unretire if undo else store.retire)(_by_number(ref))
        _say(f"{version.ref} is {'back' if undo else 'retired'}")


@models_app.command()
def remove(
    ref: VersionArgument,
    registry: RegistryOption = DEFAULT_REGISTRY,
    force: Annotated[bool, typer.Option("--force", help="Also when aliases point to it; they go as well")] = False,
) -> None:
    """Delete a version for good. Its number is never given again."""
    with told():
        version = writable(registry).remove(_by_number(ref), force)
        _say(f"{version.ref} is gone")


@models_app.command("export-mlm")
def export_mlm(
    ref: RefArgument,
    registry: RegistryOption = DEFAULT_REGISTRY,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; standard output if left out")] = None,
) -> None:
    """Write a model as an item of STAC's Machine Learning Model extension."""
    with told():
        import os

        from model_registry import aside
        from model_registry.mlm import item_from_model

        model = open_registry(registry).open(ref)
        if output is None:
            typer.echo(json.dumps(item_from_model(model), indent=2))
            return
        # From the item to the files: what a reader of the item follows.
        way = Path(os.path.relpath(model.folder.resolve(), output.resolve().parent)).as_posix()
        item = item_from_model(model, base="./" if way == "." else f"{way}/")
        try:
            aside.write(output, (json.dumps(item, indent=2) + "\n").encode())
        except OSError as error:
            raise typer.BadParameter(f"{output.name} cannot be written ({error.strerror})") from None
        _say(f"{output.name} written")


@models_app.command()
def index(root: Annotated[Path, typer.Argument(help="Folder of the registry")]) -> None:
    """Write index.json, which a registry at https:// needs: after every change, and uploaded last."""
    with told():
        from model_registry.index import write_index

        path, versions = write_index(root)
        _say(f"{path.name} lists {versions} version{'s' if versions != 1 else ''}")


def _by_number(text: str) -> str:
    """What deletes asks for a number: an alias may have moved since it was looked up."""
    from model_registry.errors import RegistryError
    from model_registry.refs import parse_ref

    if parse_ref(text).version is None:
        raise RegistryError(f"{text!r} does not say which version", f"Write its number: {parse_ref(text).name}:3")
    return text


def _versions(registry: Registry) -> list[Version]:
    from model_registry.refs import ModelRef

    refs = (ModelRef(name, version=number) for name in registry.names() for number in registry.versions(name))
    return [registry.resolve(ref) for ref in refs]


def _say(text: str) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)
