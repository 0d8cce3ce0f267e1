"""Results of the probe, kept in the user's cache folder (`json_cache`)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from model_registry import json_cache
from model_registry.seams import Seam

if TYPE_CHECKING:
    from model_registry.probe import Probe

ROOM = "probe"


def key(digest: str, runtime: str, device: str, version: int) -> str:
    """Return the file name for a model's digest, measured by `version` of the probe on that runtime and device."""
    return json_cache.key(digest, runtime, device, version)


def read(key: str, kind: type[Probe]) -> Probe | None:
    """Return the kept result, None when there is none or it is unreadable."""
    return parse(json_cache.read(ROOM, key), kind)


def parse(found: Any, kind: type[Probe]) -> Probe | None:
    """Return the probe that `write` made that value of, None when it is not one."""
    try:
        numbers = [found[name] for name in ("multiple", "period", "halo")]
        sound = all(isinstance(n, int) for n in numbers) and numbers[0] > 0 and numbers[1] > 0 and numbers[2] >= 0
        if not sound or found["exactness"] not in ("exact", "bounded", "unsafe"):
            return None
        multiple, period, halo = numbers
        errors = tuple(Seam(int(w), int(h), float(moved), float(dprob)) for w, h, moved, dprob in found["errors"])
        notes = tuple(str(note) for note in found["notes"])
        return kind(multiple, period, halo, found["exactness"], notes, errors)
    except (ValueError, KeyError, TypeError):
        return None


def write(key: str, probe: Probe) -> None:
    """Keep `probe`."""
    json_cache.write(ROOM, key, asdict(probe))
