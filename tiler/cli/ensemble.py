"""`tiler models ensemble`: models of a registry, each at a ground resolution of its own, as a model like any other."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from tiler.cli.common import console, numbers_of, told
from tiler.cli.models import DEFAULT_REGISTRY, RegistryOption, writable


def ensemble(
    name: Annotated[str, typer.Argument(help="Name in the registry")],
    member: Annotated[
        list[str], typer.Option("--member", "-m", help="MODEL@METRES, e.g. landcover:3@0.5; once for each member")
    ],
    weights: Annotated[
        str | None, typer.Option(help="Shares of the members in their order, e.g. 2,1,1; the same for all by default")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="As in `add`, of the averaged probability; the members' own by default"),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title for people")] = None,
    alias: Annotated[str | None, typer.Option(help="Point this alias to the new version, e.g. default")] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Publish an ensemble: the mean of its members' probabilities, each looking at the scene at its own resolution.

    A member without a number means the version that it means now, and goes on meaning that.
    """
    with told():
        from model_registry.ensemble import of_models
        from model_registry.ensemble_yaml import write_ensemble

        store = writable(registry)
        given = [_member(text) for text in member]
        versions = [store.resolve(ref) for ref, _ in given]
        whole = of_models(
            [(str(version.ref), store.open(version)) for version in versions],
            [gsd for _, gsd in given],
            numbers_of(weights, "--weights") or (),
            name=name,
            title=title or "",
            threshold=threshold,
        )
        with store.publish(name) as draft:
            write_ensemble(whole, draft.folder)
        version = draft.version
        assert version is not None
        if alias:
            store.alias(version.name, alias, version.number)
        now = f", which is now @{alias}" if alias else ""
        console.print(f"Added {version.ref}{now}: {whole.description}", highlight=False, soft_wrap=True, markup=False)


def _member(text: str) -> tuple[str, float]:
    """The model and its resolution in `landcover:3@0.5`; an alias has an @ of its own before the last one."""
    from model_registry.errors import RegistryError

    ref, _, gsd = text.rpartition("@")
    with suppress(ValueError):
        if ref:
            return ref, float(gsd)
    raise RegistryError(f"--member {text[:120]!r} does not say at which resolution", "Write e.g. landcover:3@0.5")
