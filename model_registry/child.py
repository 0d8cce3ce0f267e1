"""Run a function of ours in a process of its own: files that nobody knows are parsed there, and only there.

The process has a limit of time and of memory, an empty standard input, none of the caller's secrets in its environment,
and is killed with everything that it started. That keeps a crash, a bomb or a hang out of the server. It is no sandbox:
code that runs there may do what its user may, so formats that carry code need the operator's trust as well (`trust`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import IO, Any

from model_registry import errors
from model_registry.errors import ModelError

_MAX_ANSWER = 64 << 20
_MAX_FILE = 16 << 30  # RLIMIT_FSIZE: no child fills the disk
# Virtual memory that runtimes set aside and never touch: stacks and heaps of threads, code that is mapped privately.
_HEADROOM = 2 << 30
_GLANCE = 0.05  # seconds between two looks at the clock and at the memory

# What a child needs to find programs, folders and its share of the cores; tokens, passwords and proxies stay out.
_PASSED = frozenset(
    {
        "PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "VIRTUAL_ENV",
        "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TILER_TRUST", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY",
    }
)  # fmt: skip
_ENTRY = "from model_registry.child import _answer_and_exit as run; run()"


class ChildError(ModelError):
    """The child process gave no answer: out of time, out of memory, crashed, or failed in a way nobody foresaw."""


def run(function: str, arguments: Mapping[str, Any], *, seconds: float, memory_bytes: int) -> Any:
    """Call `function` ("module:name") with keyword `arguments` (JSON) in a child process; return its answer (JSON).

    Args:
        function: a function of ours; never a name that came from a file or a request.
        arguments: what JSON can hold; files travel as paths.
        seconds: wall clock, imports included (torch alone takes one to two).
        memory_bytes: resident memory of the child, imports included (torch 0.3 GB).

    Raises:
        ModelError: what the function itself raised, as itself.
        ChildError: no answer in time, too much memory, a crash (with the signal's name), or any other exception.
    """
    job = {"function": function, "arguments": dict(arguments), "memory": memory_bytes}
    with tempfile.TemporaryFile() as question, tempfile.TemporaryFile() as answer:
        question.write(json.dumps(job).encode())
        question.seek(0)
        process = subprocess.Popen(
            # -P: a file named torch.py in the working directory is not the torch that is meant.
            [sys.executable, "-P", "-c", _ENTRY, str(question.fileno()), str(answer.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            pass_fds=(question.fileno(), answer.fileno()),
            start_new_session=True,
        )
        try:
            _watch(process, seconds, memory_bytes)
        finally:
            _end(process)
        return _read(answer, process.returncode, memory_bytes)


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key in _PASSED or key.startswith("LC_")}
    paths = [path for path in sys.path if path and os.path.isabs(path)]
    return kept | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Libraries that would ask a hub for weights must find out that they cannot.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _watch(process: subprocess.Popen[bytes], seconds: float, memory_bytes: int) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            process.wait(timeout=min(_GLANCE, max(0.0, end - time.monotonic())))
            return
        except subprocess.TimeoutExpired:
            pass
        if time.monotonic() >= end:
            raise ChildError(
                f"no answer within {seconds:g} s", "Raise the time limit if the model is known to be this slow"
            )
        if _resident(process.pid) > memory_bytes:
            raise _too_large(memory_bytes)


def _resident(pid: int) -> int:
    """Resident memory in bytes; 0 where the system has no /proc, whose limit is then the child's own alone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the child and what it started: its group outlives a child that ended by itself."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(answer: IO[bytes], code: int, memory_bytes: int) -> Any:
    answer.seek(0)
    text = answer.read(_MAX_ANSWER + 1)
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        remedy = "The machine may be out of memory" if name == "SIGKILL" else "The file is probably damaged"
        raise ChildError(f"the child process crashed ({name})", remedy)
    try:
        found = json.loads(text) if len(text) <= _MAX_ANSWER else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or len(found) != 1:
        raise ChildError(f"the child process ended (code {code}) without an answer", "The file is probably damaged")
    if "value" in found:
        return found["value"]
    kind, reason, remedy = (str(part) for part in found.get("error", ("", "unknown failure", "")))
    if kind == MemoryError.__name__:
        raise _too_large(memory_bytes)
    known = getattr(errors, kind, None)
    raise (known if isinstance(known, type) and issubclass(known, ModelError) else ChildError)(reason, remedy)


def _too_large(memory_bytes: int) -> ChildError:
    return ChildError(
        f"more than {memory_bytes / (1 << 20):.0f} MiB of memory were needed",
        "Raise the memory limit if the model is known to be this large",
    )


def _answer_and_exit() -> None:
    """The child's side: limits first, then the function, then one JSON object into the answer's file."""
    question, answer = (os.fdopen(int(number), mode) for number, mode in zip(sys.argv[1:3], ("rb", "wb"), strict=True))
    job = json.load(question)
    _die_with_parent()
    _limit(job["memory"])
    try:
        module, _, name = job["function"].partition(":")
        import importlib

        found: dict[str, Any] = {"value": getattr(importlib.import_module(module), name)(**job["arguments"])}
        text = json.dumps(found)
    except ModelError as error:
        kind = next(c.__name__ for c in type(error).__mro__ if getattr(errors, c.__name__, None) is c)
        text = json.dumps({"error": [kind, error.reason, error.remedy]})
    except MemoryError:
        text = json.dumps({"error": [MemoryError.__name__, "", ""]})
    except BaseException as error:
        text = json.dumps({"error": ["ChildError", _told(error), "The file is probably damaged, or not what it says"]})
    answer.write(text.encode())
    answer.flush()
    # Not sys.exit: what a library left behind to run at exit could still hang or crash.
    os._exit(0)


def _told(error: BaseException) -> str:
    """The first line of an unforeseen exception, without paths."""
    import re

    if re.search(r"bad_alloc|can't allocate|Cannot allocate|DefaultCPUAllocator", str(error)):
        return "there was not enough memory"
    line = (str(error).strip().splitlines() or [""])[0]
    line = re.sub(r"(?:[A-Za-z]:)?(?:[\\/][\w.+-]+){2,}", "<path>", line)[:200]
    return f"it cannot be read ({type(error).__name__}{': ' if line else ''}{line})"


def _limit(memory_bytes: int) -> None:
    """RLIMIT_DATA, not RLIMIT_AS: GPU libraries and allocators set terabytes of addresses aside."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": _MAX_FILE, "RLIMIT_DATA": memory_bytes + _HEADROOM}
    for name, value in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            number = getattr(resource, name)
            hard = resource.getrlimit(number)[1]
            least = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (least, least))


def _die_with_parent() -> None:
    """Linux: a caller that is killed takes the child along."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
