"""A child: asks for /healthz every 20 ms until standard input ends, then tells how long the answers took, in ms."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time

INTERVAL = 0.02


def main() -> None:
    """Ask the server on the port given."""
    stop = threading.Event()
    took: list[float] = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
        while not stop.is_set():
            begun = time.monotonic()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            took.append((time.monotonic() - begun) * 1e3)
            stop.wait(max(0.0, INTERVAL - (time.monotonic() - begun)))

    print(json.dumps({"ready": True}), flush=True)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    sys.stdin.readline()
    stop.set()
    thread.join(30)
    print(json.dumps({"ms": took}), flush=True)


if __name__ == "__main__":
    main()
