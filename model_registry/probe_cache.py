"""Results of the probe, kept as small JSON files in the user's cache folder.

A cache that cannot be read or written costs a new measurement, never an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model_registry.probe import Probe


def folder() -> Path:
    """Return $XDG_CACHE_HOME/titiler-inference/probe, with ~/.cache where the variable is unset."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "titiler-inference" / "probe"


def key(digest: str, runtime: str, device: str, version: int) -> str:
    """Return the file name for a model's digest, measured by `version` of the probe on that runtime and device."""
    return hashlib.sha256(f"{digest} {runtime} {device} {version}".encode()).hexdigest()


def read(key: str, kind: type[Probe]) -> Probe | None:
    """Return the kept result, None when there is none or it is unreadable."""
    try:
        found = json.loads((folder() / f"{key}.json").read_bytes())
        numbers = [found[name] for name in ("multiple", "period", "halo")]
        sound = all(isinstance(n, int) for n in numbers) and numbers[0] > 0 and numbers[1] > 0 and numbers[2] >= 0
        if not sound or found["exactness"] not in ("exact", "bounded", "unsafe"):
            return None
        multiple, period, halo = numbers
        return kind(multiple, period, halo, exactness=found["exactness"], notes=tuple(str(n) for n in found["notes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(key: str, probe: Probe) -> None:
    """Keep `probe`: written beside its place and renamed, so that no reader sees half a file."""
    with contextlib.suppress(OSError):
        folder().mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder(), suffix=".tmp")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(probe), file)
            os.replace(name, folder() / f"{key}.json")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
