"""A file server with byte ranges on the loopback interface, in a process of its own.

Of its own, since rasterio keeps Python's global lock while it reads a header: a server in a thread of the same process
could never answer it.
"""

from __future__ import annotations

import http.server
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOG = "requests.log"


@dataclass(frozen=True)
class FileServer:
    """Where it listens, and what it was asked for."""

    address: str
    log: Path

    @property
    def asked(self) -> list[str]:
        """Paths that were asked for, oldest first."""
        return self.log.read_text().splitlines()


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """Serve a folder until the block ends."""
    log = folder.parent / LOG
    log.write_text("")
    command = [sys.executable, __file__, str(folder), str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield FileServer(f"http://127.0.0.1:{int(process.stdout.readline())}", log)
        finally:
            process.terminate()


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files with byte ranges; what begins with /open/moved is redirected into /secret."""

    log: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        with self.log.open("a") as log:
            log.write(self.path + "\n")
        if self.path.startswith("/open/moved"):
            self.send_response(302)
            self.send_header("Location", "/secret/scene.tif")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        first, last, status = 0, len(data) - 1, 200
        if wanted := self.headers.get("Range", "").removeprefix("bytes="):
            begin, _, end = wanted.partition("-")
            first, last, status = int(begin), min(int(end or last), last), 206
        if first > last:
            self.send_error(416)
            return
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        if body:
            self.wfile.write(data[first : last + 1])

    def log_message(self, *args: Any) -> None:
        pass


def main(folder: str, log: str) -> None:
    Handler.log = Path(log)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: Handler(*args, directory=folder)  # type: ignore[arg-type]
    )  # fmt: skip
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
