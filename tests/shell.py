"""Commands of the documentation, run as whoever reads them would: in a folder of their own, nothing of ours set."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path

from affine import Affine

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import landscape, write_scene

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {"tiler": "-m tiler.cli", "dask": "-m dask", "python": ""}


def commands(section: str) -> list[str]:
    """Lines of the blocks of shell in a piece of Markdown, continued ones joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.S | re.M)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def sections(text: str) -> dict[str, str]:
    """What stands below each heading of the second level; what stands before them is under ''."""
    parts = re.split(r"^## ", text, flags=re.M)
    return {"": parts[0], **{part.splitlines()[0]: part for part in parts[1:]}}


def surroundings(folder: Path) -> dict[str, str]:
    """An environment in which `tiler`, `dask` and `python` are this interpreter's; `folder` holds what it needs."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name, call in PROGRAMS.items():
        program(programs / name, f'exec "{sys.executable}" {call} "$@"')
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TILER_", "DASK_"))}
    return {
        **kept,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        "XDG_STATE_HOME": str(folder / "state"),
    }


def program(path: Path, script: str) -> None:
    """A program of a few lines of shell."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def lay_out(folder: Path) -> None:
    """What the pages on exports speak of: `scene.tif` at 9.00 E, 48.75 N, and `models/landcover`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_scene(
        folder / "scene.tif",
        landscape(700, 900),
        crs="EPSG:32632",
        transform=Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000),
    )
    classes = ["background", "road", "field", "forest"]
    write_model(
        folder / "models" / "landcover", conv_chain(layers=2, classes=4), classes=classes, gsd=0.5, exactness="exact",
        window={"multiple": 1, "period": 1, "halo": 2},
    )  # fmt: skip


def run(line: str, folder: Path, environment: dict[str, str], expect: int = 0) -> str:
    """Run a line of shell to its end; its standard output."""
    done = subprocess.run(
        ["bash", "-ec", line], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=400,
    )  # fmt: skip
    assert done.returncode == expect, f"{line}\n{done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def ask(line: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a line of curl, or where there is none do in Python what it would; the answer, unless it goes to a file."""
    if shutil.which("curl"):
        return run(line, folder, environment)
    words = shlex.split(line)
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    given = words[words.index("-d") + 1] if "-d" in words else None
    body = (folder / given[1:]).read_bytes() if given and given[0] == "@" else given and given.encode()
    method = words[words.index("-X") + 1] if "-X" in words else "GET"
    url = next(word for word in words if word.startswith("http"))
    with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=120) as answer:
        content: bytes = answer.read()
    if "-o" in words:
        (folder / words[words.index("-o") + 1]).write_bytes(content)
        return ""
    return content.decode()


@contextmanager
def serving(line: str, folder: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Keep a line of `tiler serve` running on a free port, ended by Ctrl-C; the addresses that it prints, by name."""
    with subprocess.Popen(
        ["bash", "-ec", f"exec env {line} --port 0"], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            printed = list(takewhile(lambda text: not text.startswith("Ctrl-C"), server.stdout))
            addresses = {name: address.strip() for name, _, address in (text.partition(":") for text in printed)}
            assert "Map page" in addresses, printed
            yield addresses
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)


@contextmanager
def running(lines: Sequence[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Keep lines of shell running, each in a process group of its own."""
    with ExitStack() as stack:
        for line in lines:
            process = subprocess.Popen(
                ["bash", "-ec", f"exec env {line}"], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            stack.callback(process.wait, 60)
            stack.callback(_end, process.pid)
        yield


def _end(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
