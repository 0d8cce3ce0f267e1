"""Results of the probe, kept in the user's cache folder (`json_cache`)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from model_registry import json_cache

if TYPE_CHECKING:
    from model_registry.probe import Probe

ROOM = "probe"


def key(digest: str, runtime: str, device: str, version: int) -> str:
    """Return the file name for a model's digest, measured by `version` of the probe on that runtime and device."""
    return json_cache.key(digest, runtime, device, version)


def read(key: str, kind: type[Probe]) -> Probe | None:
    """Return the kept result, None when there is none or it is unreadable."""
    try:
        found = json_cache.read(ROOM, key)
        numbers = [found[name] for name in ("multiple", "period", "halo")]
        sound = all(isinstance(n, int) for n in numbers) and numbers[0] > 0 and numbers[1] > 0 and numbers[2] >= 0
        if not sound or found["exactness"] not in ("exact", "bounded", "unsafe"):
            return None
        multiple, period, halo = numbers
        return kind(multiple, period, halo, exactness=found["exactness"], notes=tuple(str(n) for n in found["notes"]))
    except (ValueError, KeyError, TypeError):
        return None


def write(key: str, probe: Probe) -> None:
    """Keep `probe`."""
    json_cache.write(ROOM, key, asdict(probe))
