"""How many threads a runtime may use."""

from __future__ import annotations

import os


def default_threads() -> int:
    """Return the number of cores this process may run on (its CPU affinity where the system tells it)."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
