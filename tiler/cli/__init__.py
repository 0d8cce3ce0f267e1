"""The commands: thin doors. Errors go to standard error in one line with a remedy, and exit with 2."""

from __future__ import annotations

import typer
from typer.models import CommandInfo

from tiler.cli import check, components, ensemble, export, intake, reload, serving
from tiler.cli.models import models_app
from tiler.gdal import GDAL_DEFAULTS

__all__ = ["GDAL_DEFAULTS", "app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A model's prediction as a live map layer.")
for command in (serving.serve, serving.info, export.export, serving.demo, components.components):
    app.command()(command)
models_app.command("check")(check.check)
models_app.command("add")(intake.add)
models_app.command("ensemble")(ensemble.ensemble)
models_app.command("import")(intake.convert)
models_app.command("trust")(intake.trust)
models_app.command("reload")(reload.reload)
# As a model goes: in, looked at, managed, out. What is not named comes last.
ORDER = "add import trust ensemble check list show alias reload retire remove export-mlm index".split()


def _place(command: CommandInfo) -> int:
    name = command.name or getattr(command.callback, "__name__", "")
    return ORDER.index(name) if name in ORDER else len(ORDER)


models_app.registered_commands.sort(key=_place)
app.add_typer(models_app, name="models")
