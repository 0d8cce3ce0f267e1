"""What all commands share: where they write, and how they tell of errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from tiler.gdal import settle

console = Console()
errors = Console(stderr=True)


@contextmanager
def told() -> Iterator[None]:
    """Errors of the domain in one line on standard error, exit code 2."""
    settle()
    from pydantic import ValidationError

    from model_registry import ModelError
    from tiler.errors import InferenceError

    try:
        yield
    except (InferenceError, ModelError) as error:
        errors.print(f"[red]Error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except ValidationError as error:
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            text = escape(f"{where}: {problem['msg']}")
            errors.print(f"[red]Settings:[/red] {text}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


def bands_of(bidx: str | None) -> list[int] | None:
    """Band numbers from text such as 3,2,1."""
    if bidx is None:
        return None
    try:
        return [int(part) for part in bidx.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--bidx {bidx!r} is not a list of whole numbers such as 3,2,1") from None


def numbers_of(text: str | None, option: str) -> list[float] | None:
    """Numbers from text such as 0.5,1,2; `option` is its name, for messages."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{option} {text!r} is not a list of numbers such as 0.5,1,2") from None
