"""`tiler components`: what an embedding is shown by."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tiler.cli.common import bands_of, console, told
from tiler.cli.serving import BidxOption, FactorOption


def components(
    scene: Annotated[str, typer.Argument(help="Raster whose contents the colours should tell apart: a path or URL")],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder with the model.yaml of an embedding")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: components.json in the model's folder")
    ] = None,
    bidx: BidxOption = None,
    max_gsd_factor: FactorOption = None,
) -> None:
    """Fit the three components that become an embedding's red, green and blue, and write them to a file."""
    with told():
        from model_registry.artifacts import checksum_of
        from model_registry.components import to_json
        from tiler.errors import RequestError
        from tiler.fitting import components_of

        target = out or Path(model) / "components.json"
        if target.exists():
            raise RequestError(
                f"{target.name!r} is there already, and a model may be shown by it", "Remove it, or give another --out"
            )
        found = components_of(scene, model, bands_of(bidx), max_gsd_factor)
        data = to_json(found)
        _publish(target, data)
        shares = ", ".join(f"{100 * share:.1f} %" for share in found.explained)
        console.print(f"{target.name}: three components with {shares} of the variance.", highlight=False)
        console.print("Add to serving.output of model.yaml:", highlight=False)
        typer.echo(f'  components: {{href: {target.name}, checksum: "{checksum_of(data)}"}}')


def _publish(target: Path, data: bytes) -> None:
    """Write beside the file and rename, so that nobody reads half of it."""
    from tiler.errors import RequestError

    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.chmod(name, 0o644)
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RequestError(f"{target.name!r} cannot be written ({error.strerror})", "Give another --out") from None
