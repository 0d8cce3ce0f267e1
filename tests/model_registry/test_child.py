"""A child process: answers, errors, limits, and nothing left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model_registry import child
from model_registry.errors import ArtifactError

HERE = "tests.model_registry.test_child"


def call(name: str, seconds: float = 20, memory: int = 300 << 20, **arguments):
    return child.run(f"{HERE}:{name}", arguments, seconds=seconds, memory_bytes=memory)


# What runs in the child.


def surroundings() -> dict:
    return {
        "env": sorted(os.environ),
        "stdin": sys.stdin.read(),
        "finds": [path for path in sys.path if path in ("", os.getcwd())],
        "leader": os.getpgid(0) == os.getpid(),
        "core": __import__("resource").getrlimit(__import__("resource").RLIMIT_CORE)[0],
    }


def fails(kind: str) -> None:
    if kind == "model":
        raise ArtifactError("the file is not it", "Take another")
    if kind == "unforeseen":
        raise KeyError("/home/someone/secret/model.onnx")
    if kind == "exit":
        os._exit(3)
    if kind == "system exit":
        sys.exit(0)
    if kind == "segfault":
        ctypes.string_at(1)
    if kind == "no json":
        return object()  # type: ignore[return-value]


def sleeps(marker: str) -> None:
    """Starts a process of its own too, which must not outlive the child."""
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(marker).write_text(str(grandchild.pid))
    time.sleep(60)


def eats(at_once: bool) -> int:
    if at_once:
        return len(bytearray(64 << 30))
    held = []
    while True:
        held.append(os.urandom(1 << 20) * 16)


def echo(**arguments) -> dict:
    return arguments


# What is checked.


def test_arguments_and_answer_are_json():
    assert call("echo", a=[1, None, "ü"], b={"c": 0.5}) == {"a": [1, None, "ü"], "b": {"c": 0.5}}


def test_surroundings_hold_no_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)  # a torch.py here must not be found
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy")
    found = call("surroundings")
    assert not {"AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY"} & set(found["env"])
    assert "HF_HUB_OFFLINE" in found["env"]
    assert (found["stdin"], found["finds"], found["leader"], found["core"]) == ("", [], True, 0)


def test_a_model_error_comes_out_as_itself():
    with pytest.raises(ArtifactError) as caught:
        call("fails", kind="model")
    assert str(caught.value) == "the file is not it. Take another"


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("unforeseen", "cannot be read (KeyError"),
        ("exit", "(code 3) without an answer"),
        ("system exit", "SystemExit"),
        ("segfault", "SIGSEGV"),
        ("no json", "not JSON serializable"),
    ],
)
def test_every_other_end_is_told_without_paths(kind: str, told: str):
    with pytest.raises(child.ChildError) as caught:
        call("fails", kind=kind)
    assert told in str(caught.value) and "someone" not in str(caught.value)


def test_out_of_time_and_nothing_lives_on(tmp_path: Path):
    marker = tmp_path / "pid"
    started = time.monotonic()
    with pytest.raises(child.ChildError, match="no answer within 1.5 s"):
        call("sleeps", seconds=1.5, marker=str(marker))
    assert time.monotonic() - started < 10
    end = time.monotonic() + 10
    while _alive(int(marker.read_text())):
        assert time.monotonic() < end, "the child's own process lives on"
        time.sleep(0.02)


@pytest.mark.parametrize("at_once", [True, False])
def test_out_of_memory(at_once: bool):
    with pytest.raises(child.ChildError, match="more than 300 MiB"):
        call("eats", at_once=at_once)


def test_a_killed_caller_takes_it_along(tmp_path: Path):
    if sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux's")
    marker = tmp_path / "pid"
    code = f"from {HERE} import call; call('sleeps', seconds=60, marker={str(marker)!r})"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    end = time.monotonic() + 20
    while not (marker.exists() and marker.read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    grandchild = int(marker.read_text())
    middle = int(Path(f"/proc/{grandchild}/stat").read_text().rsplit(")", 1)[1].split()[1])
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    try:
        while _alive(middle):
            assert time.monotonic() < end, "the child lives on without its caller"
            time.sleep(0.02)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
