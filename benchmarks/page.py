"""How soon the map page shows a prediction: first drawn pixel after navigation against the server's time for its tile.

    python -m benchmarks.page [--runs 5] [--size 4096] [--folder .demo]

Each run starts a server process of its own, with empty caches, and opens the page in a Chromium that has never seen it.
The first pixel is read back from the prediction's own canvas, in the frame that draws it. The server's time is that of
the very tile that came first, asked for alone by a plain client on this machine after its caches were emptied: the
median of three. Its Server-Timing (`timing_ms`) names the slowest window only, and says nothing of planning and of the
others. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.figures import median, ratio
from benchmarks.servers import our_server, scene_file
from tiler.demo import MODEL_FOLDER

DEADLINE = 60.0
REPEATS = 3
VIEWPORT = {"width": 1500, "height": 800}
# Runs before the page's own scripts. To look at a canvas takes time: only once there is a tile, until a pixel was seen.
PROBE = """
(() => {
  const seen = window.seen = {first: null};
  const small = Object.assign(document.createElement('canvas'), {width: 160, height: 90});
  const hear = layer => layer.on('postrender', ({context}) => {
    if (seen.first !== null || !viewer.prediction.loader.kept.size) return;
    const pen = small.getContext('2d', {willReadFrequently: true});
    pen.clearRect(0, 0, 160, 90);
    pen.drawImage(context.canvas, 0, 0, 160, 90);
    if (pen.getImageData(0, 0, 160, 90).data.some((value, i) => i % 4 === 3 && value)) seen.first = performance.now();
  });
  const wait = () => window.viewer?.prediction ? hear(viewer.prediction.layer) : setTimeout(wait, 1);
  wait();
})();
"""
ASKED = """() => performance.getEntriesByType('resource').map(
  ({name, startTime, requestStart, responseEnd}) => [name, startTime, requestStart, responseEnd])"""


def chromium(playwright: Any) -> Any:
    """Debian's, or the one that CHROMIUM names, on software GL."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise SystemExit("no Chromium: apt install chromium, or name one in CHROMIUM")
    software = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    return playwright.chromium.launch(executable_path=found, args=["--no-sandbox", *software])


def opened(browser: Any, port: int) -> tuple[float, list[list[Any]]]:
    """Open the page; milliseconds from navigation to the first pixel, and what was asked for: as `ASKED`."""
    context = browser.new_context(viewport=VIEWPORT)
    try:
        page = context.new_page()
        page.add_init_script(PROBE)
        page.goto(f"http://127.0.0.1:{port}/", wait_until="commit")
        end = time.monotonic() + DEADLINE
        while (first := page.evaluate("window.seen?.first ?? null")) is None:
            if time.monotonic() > end:
                raise SystemExit(f"no prediction was drawn within {DEADLINE:.0f} s")
            page.wait_for_timeout(20)
        return float(first), page.evaluate(ASKED)
    finally:
        context.close()


def ask(port: int, path: str) -> tuple[float, http.client.HTTPResponse]:
    """Milliseconds that an answer takes, and the answer, read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        begun = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        took = 1e3 * (time.perf_counter() - begun)
    finally:
        connection.close()
    if answer.status != 200:
        raise SystemExit(f"the server answered {answer.status} to {path}")
    return took, answer


def alone(port: int, path: str) -> tuple[float, float]:
    """Milliseconds that a tile takes which nothing is kept of: for its client, and by its Server-Timing."""
    ask(port, "/benchmark/forget")
    took, answer = ask(port, path)
    return took, sum(float(part) for part in re.findall(r"dur=([\d.]+)", answer.getheader("Server-Timing", "")))


def run(playwright: Any, scene: Path) -> dict[str, Any]:
    """One cold server, one cold browser."""
    with our_server({"demo": scene}, {"landcover": MODEL_FOLDER}) as server:
        port = server.wait().ready
        ask(port, "/healthz")  # it listens before it has started
        browser = chromium(playwright)
        try:
            first, asked = opened(browser, port)
        finally:
            browser.close()
        done = [entry for entry in asked if "output=class_confidence" in entry[0] and entry[3]]
        name, begun, _, ended = min(done, key=lambda entry: entry[3])
        path = name.split(str(port), 1)[1]
        time.sleep(2)  # what the page no longer waits for ends
        times = [alone(port, path) for _ in range(REPEATS)]
    own = median(took for took, _ in times)
    return {
        "ratio": round(ratio(first, own), 2),
        "first_ms": round(first, 1),
        "own_ms": round(own, 1),
        "timing_ms": round(median(by_header for _, by_header in times), 1),
        "asked_ms": round(begun, 1),
        "answered_ms": round(ended, 1),
        "requests_before": sum(entry[1] < begun for entry in asked),
        "imagery_before": sum("/imagery/" in entry[0] and 0 < entry[3] < ended for entry in asked),
        "asked": [[entry[0].split(str(port), 1)[1], *(round(value, 1) for value in entry[1:])] for entry in asked],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it, and print what came out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="servers and browsers, one after another")
    parser.add_argument("--size", type=int, default=4096, help="pixels along each side of the demo's scene")
    parser.add_argument("--folder", type=Path, default=None, help="where the scene is kept; default: a passing one")
    parser.add_argument("--asked", action="store_true", help="list every request with its times")
    chosen = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    about = machine.describe()
    with tempfile.TemporaryDirectory() as passing, sync_playwright() as playwright:
        scene = scene_file(chosen.folder or Path(passing), chosen.size)
        runs = []
        for number in range(chosen.runs):
            found = run(playwright, scene)
            asked = found.pop("asked")
            runs.append(found)
            print(f"run {number + 1}: {json.dumps(found)}", file=sys.stderr)
            if chosen.asked:
                for line in asked:
                    print("  ", *line, file=sys.stderr)
    names = ("ratio", "first_ms", "own_ms", "timing_ms", "asked_ms", "answered_ms", "requests_before", "imagery_before")
    middle = {name: round(median(found[name] for found in runs), 2) for name in names}
    print(json.dumps({**middle, "runs": [found["ratio"] for found in runs], "machine": about}))


if __name__ == "__main__":
    main()
