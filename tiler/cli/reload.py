"""`tiler models reload`: tell a running server to look at its models again."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.markup import escape

from tiler.cli.common import console, errors, told

# Loading and warming new versions may take minutes.
SECONDS = 900.0


def reload(
    url: Annotated[str, typer.Option(help="Address of the server")] = "http://127.0.0.1:8000",
    token: Annotated[
        str, typer.Option(envvar="TILER_ADMIN_TOKEN", help="The server's TILER_ADMIN_TOKEN", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="The server's answer as JSON")] = False,
) -> None:
    """Let new versions, moved aliases and changed folders take over in a running server.

    Exits with 1 if something of it cannot be used: what answered before goes on.
    """
    with told():
        done = _ask(url, token)
        if as_json:
            typer.echo(json.dumps(done))
        else:
            changed = ", ".join(done["changed"]) or "nothing has changed"
            console.print(escape(f"Reloaded: {changed}"), highlight=False, soft_wrap=True)
            for name, reason in done["failed"].items():
                text = escape(f"{name} was not replaced: {reason}")
                errors.print(f"[red]Reload:[/red] {text}", highlight=False, soft_wrap=True)
        if done["failed"]:
            raise typer.Exit(1)


def _ask(url: str, token: str) -> dict[str, Any]:
    from tiler.errors import InferenceError

    if urlsplit(url).scheme not in ("http", "https"):
        raise InferenceError(f"--url {url!r} is no address of a server", "Write http://HOST:PORT")
    request = urllib.request.Request(
        url.rstrip("/") + "/models/reload", method="POST", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return _read(answer.read())
    except urllib.error.HTTPError as error:
        if error.code == 422:
            return _read(error.read())
        told_of = {
            401: ("the server refused the token", "Give the server's own: --token, or TILER_ADMIN_TOKEN"),
            404: ("the server takes no reloads over HTTP", "Start it with TILER_ADMIN_TOKEN set, or send it SIGHUP"),
        }.get(error.code, (f"the server answered {error.code}", "Look into its log"))
        raise InferenceError(*told_of) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or type(error).__name__
        raise InferenceError(f"the server cannot be reached ({why})", "Check --url") from None


def _read(body: bytes) -> dict[str, Any]:
    found = json.loads(body)
    if not isinstance(found, dict) or not {"changed", "failed"} <= set(found):
        raise ValueError("another server's answer")
    return found
