"""What was measured on this machine, kept as small JSON files in the user's cache folder.

A cache that cannot be read or written costs a new measurement, never an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def folder(room: str) -> Path:
    """Return $XDG_CACHE_HOME/titiler-inference/`room`, with ~/.cache where the variable is unset."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "titiler-inference" / room


def key(*parts: object) -> str:
    """Return a file name that differs when any of `parts` does."""
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


def read(room: str, key: str) -> Any:
    """Return what was kept, None when there is nothing or it is no JSON; its shape is the caller's to check."""
    try:
        return json.loads((folder(room) / f"{key}.json").read_bytes())
    except (OSError, ValueError):
        return None


def write(room: str, key: str, value: Any) -> None:
    """Keep `value`: written beside its place and renamed, so that no reader sees half a file."""
    with contextlib.suppress(OSError):
        folder(room).mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder(room), suffix=".tmp")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(value, file)
            os.replace(name, folder(room) / f"{key}.json")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
