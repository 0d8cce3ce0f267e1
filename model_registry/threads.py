"""How many cores this process really has, and how to divide them.

A container's limit is a quota of CPU time, not a number of cores: a runtime that starts a thread for each core of the
host is throttled for most of its time. So the smaller of CPU affinity and cgroup quota counts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_CGROUP = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


class Share(NamedTuple):
    """Threads for the network (inside its runtime), for reading windows (GDAL) and for warping, painting, encoding."""

    network: int
    readers: int
    finishers: int


def default_threads() -> int:
    """Return the number of whole cores this process may use: CPU affinity and cgroup quota, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    limit = quota()
    # Rounded down: a thread more than the quota allows gets all of them stopped for the rest of every period.
    return count if limit is None else max(1, min(count, int(limit + 0.01)))


def share(cores: int, readers: int | None = None, finishers: int | None = None) -> Share:
    """Divide `cores` between the network, the readers and the finishers; numbers given are kept.

    Readers mostly wait (for a disk or an object store) and finishers work for a few milliseconds per tile, so up to
    four cores all belong to the network and the others borrow: a core held back would idle during every forward pass.
    Beyond that one core in four is held back, so that decoding and encoding do not stop a pass, whose threads wait for
    the slowest of them. Several readers hide the latency of a store even on one core.
    """
    cores = max(1, cores)
    network = cores if cores <= 4 else cores - cores // 4
    return Share(
        network=network,
        readers=max(1, readers) if readers is not None else min(8, max(2, cores)),
        finishers=max(1, finishers) if finishers is not None else min(8, max(1, cores // 2)),
    )


def quota(cgroup: Path = _CGROUP, mount: Path = _MOUNT) -> float | None:
    """Return the cgroup's limit in cores (v2 cpu.max, v1 cfs quota), the smallest on the way up; None: no limit."""
    try:
        lines = cgroup.read_text().splitlines()
    except OSError:
        return None
    limits: list[float] = []
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers == "":
            limits += [found for folder in _upwards(mount, path) if (found := _v2(folder)) is not None]
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                limits += [found for folder in _upwards(mount / name, path) if (found := _v1(folder)) is not None]
    return min(limits, default=None)


def _upwards(root: Path, path: str) -> list[Path]:
    """`root`/`path` and every folder above it: in a container the path may be the host's, the files lie at the root."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [root.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]


def _v2(folder: Path) -> float | None:
    try:
        allowed, period = (folder / "cpu.max").read_text().split()[:2]
        return None if allowed == "max" else int(allowed) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _v1(folder: Path) -> float | None:
    try:
        allowed = int((folder / "cpu.cfs_quota_us").read_text())
        return allowed / int((folder / "cpu.cfs_period_us").read_text()) if allowed > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
