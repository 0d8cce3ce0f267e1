"""Servers on the loopback interface, each a process of its own: plain files over HTTP, and S3 as moto plays it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

DEADLINE = 30.0


@contextlib.contextmanager
def files(folder: Path) -> Iterator[str]:
    """Serve `folder` over HTTP; gives the address."""
    with _running("http.server", "--bind", "127.0.0.1", "--directory", str(folder)) as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def s3() -> Iterator[str]:
    """An S3 server with nothing in it; gives the address."""
    with _running("moto.server", "-H", "127.0.0.1", "-p") as port:
        yield f"http://127.0.0.1:{port}"


def make_bucket(address: str, bucket: str) -> None:
    """Make an empty bucket."""
    urllib.request.urlopen(urllib.request.Request(f"{address}/{bucket}", method="PUT"), timeout=DEADLINE).read()


def upload(bucket: str, folder: Path) -> None:
    """Put everything below `folder` into `bucket` of the server that the environment names."""
    import obstore
    from obstore.store import S3Store

    place = S3Store(bucket)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            obstore.put(place, str(path.relative_to(folder)), path.read_bytes())


def delete(bucket: str, key: str) -> None:
    """Delete one object."""
    import obstore
    from obstore.store import S3Store

    obstore.delete(S3Store(bucket), key)


@contextlib.contextmanager
def _running(module: str, *arguments: str) -> Iterator[int]:
    port = _free_port()
    # moto wants the port last and named, http.server wants it bare: both take it at the end.
    command = [sys.executable, "-m", module, *arguments, str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(DEADLINE)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError("the server did not start")
