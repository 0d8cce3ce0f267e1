"""Eight users for a long time over caches that are much too small: what memory, threads and errors come to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import servers, workloads
from benchmarks.figures import growth
from benchmarks.traces import User
from benchmarks.workloads import Served

USERS = 8
INTERVAL = 1.0  # seconds between two looks at the server


async def soak(scene: Path, model: Path, users: Sequence[User], seconds: float, device: str) -> dict[str, float]:
    """Figures of a soak; "start" is the server with its model loaded, before the first user.

    Growth is counted from the warm-up's end, for caches and a runtime's kept shapes fill first: after a quarter of the
    time, at least 20 s, at most 300 s.
    """
    name = model.name
    with servers.our_server(
        {servers.SCENE: scene}, {name: model}, device, cache_bytes=8 * 2**20, picture_bytes=2**20
    ) as child:
        served = Served(child.wait())
        place = await served.place(servers.SCENE, name)
        begun = time.monotonic()
        memory = [(0.0, float(child.rss_bytes()))]
        threads = [len(child.thread_seconds())]

        async def watch() -> None:
            while True:
                await asyncio.sleep(INTERVAL)
                await served.forwards()  # or the notes of the benchmark itself would grow
                memory.append((time.monotonic() - begun, float(child.rss_bytes())))
                threads.append(len(child.thread_seconds()))

        watcher = asyncio.ensure_future(watch())
        found = await workloads.walk(child, place.url, place, users[:USERS], seconds)
        watcher.cancel()
        served.close()
    return {
        "rss_growth_percent": growth(memory, min(max(seconds / 4, 20.0), 300.0)),
        "soak_rss_mib_start": memory[0][1] / 2**20,
        "soak_rss_mib_most": max(value for _, value in memory) / 2**20,
        "soak_rss_mib_end": memory[-1][1] / 2**20,
        "soak_threads_start": threads[0],
        "soak_threads_most": max(threads),
        "soak_threads_end": threads[-1],
        "soak_seconds": seconds,
        "soak_tiles": len(found.took),
        "soak_aborted": found.aborted,
        "soak_failed": found.failed,
    }
