"""`tiler serve` in a process of its own, on a free port of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    address: str
    process: subprocess.Popen[str]

    def get(self, path: str, **headers: str) -> Any:
        """GET; an answer of any status."""
        request = urllib.request.Request(f"{self.address}/{path}", headers=headers)
        return urllib.request.build_opener(_AnyStatus).open(request, timeout=PATIENCE)

    def tilejson(self, scene: str, model: str = "landcover") -> dict[str, Any]:
        """A pair's TileJSON."""
        return dict(json.load(self.get(f"{scene}/{model}/tilejson.json")))

    def reload(self, scene: str) -> str:
        """Let changed models take over; returns the revision that has."""
        before = self.tilejson(scene)["revision"]
        self.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + PATIENCE
        while (revision := str(self.tilejson(scene)["revision"])) == before:
            assert time.monotonic() < until, "the changed model did not take over"
            time.sleep(0.05)
        return revision


class _AnyStatus(urllib.request.HTTPErrorProcessor):
    def http_response(self, request: Any, response: Any) -> Any:
        return response


@contextmanager
def running(folder: Path, scenes: Mapping[str, Path], models: Mapping[str, Path], **settings: Any) -> Iterator[Server]:
    """A server of `scenes` and `models`, ended afterwards. `settings`: more of the settings file."""
    file = folder / "tiler.yaml"
    named = {"scenes": {name: {"path": str(path)} for name, path in scenes.items()}}
    file.write_text(yaml.safe_dump({**named, "models": {n: str(path) for n, path in models.items()}, **settings}))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TILER_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tiler.cli", "serve", "--port", "0"],
        cwd=ROOT, env={**kept, "TILER_CONFIG": str(file), "PYTHONUNBUFFERED": "1"}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Map page:"), line + process.stdout.read()
        server = Server(line.split()[-1].rstrip("/"), process)
        assert server.get("healthz").status == 200
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
