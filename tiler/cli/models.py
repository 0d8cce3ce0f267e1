"""`tiler models`: what a registry holds, and how it is managed. Other rooms add commands to the same `models_app`."""

from __future__ import annotations

import typer

models_app = typer.Typer(no_args_is_help=True, help="Models of a registry: list, show, alias, retire, remove, export.")
