"""What a command costs: CPU seconds and memory of all its processes, and time."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from benchmarks.processes import ROOT

TIMEOUT = 1800.0
INTERVAL = 0.05  # seconds between two looks at a command's memory


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one command.

    Attributes:
        wall: seconds.
        cpu: seconds, user and system, of it and of all its children that it waited for.
        rss: bytes held at most, all its processes together; pages that they share count for each.
        told: what it said on its standard output.
    """

    wall: float
    cpu: float
    rss: int
    told: str


def run(command: Sequence[str], cores: int, environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end on so many cores, in this checkout.

    Raises:
        RuntimeError: it failed, or took too long; with the end of what it said.
    """
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        begun = time.monotonic()
        process = _start(command, cores, {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}, out, err)
        watch = _Memory(process.pid)
        watchdog = threading.Timer(TIMEOUT, _kill, (process.pid,))
        watchdog.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            _kill(process.pid)
            process.wait()
            raise
        finally:
            watchdog.cancel()
            watch.stop()
        wall = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
        err.seek(0)
        out.seek(0)
        if process.returncode:
            text = f"{out.read()[-500:]}\n{err.read()[-1500:]}".strip()
            raise RuntimeError(f"{Path(command[0]).name} ended with {process.returncode}: {text}")
        return Cost(wall, used.ru_utime + used.ru_stime, watch.most, out.read())


def _start(
    command: Sequence[str], cores: int, environment: Mapping[str, str], out: object, err: object
) -> subprocess.Popen[bytes]:
    """Started with the affinity that it shall have: runtimes look at it when they count cores."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(mine)[:cores])
    try:
        return subprocess.Popen(
            list(command), cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=err,  # type: ignore[call-overload,no-any-return]
            start_new_session=True,
        )  # fmt: skip
    finally:
        os.sched_setaffinity(0, mine)


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


class _Memory(threading.Thread):
    """Looks at a process and its descendants until it is stopped.

    The system's own record, ru_maxrss, will not do: it begins with what the parent held when it forked.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.most, self._pid, self._over = 0, pid, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(INTERVAL):
            family = _family(self._pid)
            # The sum at this moment; and of each alone its most, which may lie between two looks.
            self.most = max(self.most, sum(_held(pid, "VmRSS") for pid in family), *(_held(p, "VmHWM") for p in family))

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self.join()


def _family(pid: int) -> list[int]:
    found, new = [pid], [pid]
    while new:
        children = [int(child) for parent in new for child in _children(parent)]
        new = [child for child in children if child not in found]
        found += new
    return found


def _children(pid: int) -> list[str]:
    found: list[str] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += thread.read_text().split()
        except OSError:
            continue
    return found


def _held(pid: int, field: str) -> int:
    """Bytes in one of the kB fields of a process's status; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
