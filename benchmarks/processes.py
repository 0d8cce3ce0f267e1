"""Child processes: started, asked, measured, and stopped by their own id whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parent.parent
# Loading a model may measure its runtimes the first time, and reading a large one takes its time.
START_TIMEOUT = 180.0


class Child:
    """`python -m <module>` that says `{"ready": ...}` on its standard output, and ends when its standard input does.

    Attributes:
        ready: what it said when it was.
    """

    def __init__(
        self, module: str, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it, without waiting."""
        self.module = module
        self.ready: Any = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait(self) -> Child:
        """Wait until it is ready; returns itself."""
        # A child that hangs is killed, which ends the read below.
        watchdog = threading.Timer(START_TIMEOUT, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            self.ready = self._read()["ready"]
        finally:
            watchdog.cancel()
        return self

    def ask(self, **question: Any) -> Any:
        """Send one line of JSON, and read the answer's."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def cpu_seconds(self) -> float:
        """CPU time that it has used, all of its threads together; 0 where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def thread_seconds(self) -> dict[str, float]:
        """CPU time of each of its threads, by the system's number."""
        used = {}
        for task in Path(f"/proc/{self.pid}/task").glob("*"):
            try:
                fields = (task / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            used[task.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return used

    def rss_bytes(self) -> int:
        """Memory that it holds; 0 where the system does not tell."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self, *, at_once: bool = False) -> None:
        """End it: politely first, unless `at_once`, then not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.module} ended with {self._process.wait()} before it answered; its error is above")


def threads_of() -> dict[str, float]:
    """CPU seconds so far of this process's living threads by kind; `runtime` are those that Python did not start."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found: dict[str, float] = {}
    for task in Path("/proc/self/task").glob("*"):
        try:
            nanoseconds = int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue
        kind = names.get(int(task.name), "runtime").partition("-")[0].partition("_")[0]
        found[kind] = found.get(kind, 0.0) + nanoseconds / 1e9
    return found


def tell(value: Any) -> None:
    """In a child: one line of JSON to the parent."""
    print(json.dumps(value), flush=True)


def end_with_parent() -> None:
    """In a child: end when standard input does, so that a killed benchmark leaves no server behind."""

    def watch() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
