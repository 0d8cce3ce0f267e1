"""Chromium without a screen, a server for pages and libraries, and pictures of a map with where its pixels lie."""

from __future__ import annotations

import functools
import http.server
import io
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

# MapLibre and OpenLayers' WebGL layers need GL, which a machine without a GPU has in software only.
FLAGS = (
    "--no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage --hide-scrollbars --use-gl=angle --use-angle=swiftshader "
    "--enable-unsafe-swiftshader"
).split()
SIZE = (800, 600)
PATIENCE = 60_000  # ms
# Behind the map a colour that no class has, and nothing of the clients' own on top of it.
STYLE = """
html, body, #map, .leaflet-container, .folium-map {background: rgb(255, 0, 255) !important}
.leaflet-control-container, .ol-overlaycontainer-stopevent, .maplibregl-control-container {display: none !important}
"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips by name where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("Chromium is not here")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=FLAGS, headless=True)
        yield browser
        browser.close()


class _Files(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

    def __init__(self, *args: Any, roots: Mapping[str, Path], **options: Any) -> None:
        self.roots = roots
        super().__init__(*args, **options)

    def translate_path(self, path: str) -> str:
        path = path.split("?")[0].lstrip("/")
        for start, root in self.roots.items():
            if path.startswith(start):
                return str(root / path[len(start) :])
        return "/nowhere"

    def send_error(self, code: int, *args: Any, **options: Any) -> None:
        if self.path == "/favicon.ico":  # which every browser asks for, and no example has
            self.send_response(204)
            self.end_headers()
        else:
            super().send_error(code, *args, **options)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving_files(roots: Mapping[str, Path]) -> Iterator[str]:
    """Files of some folders, by the first part of their path."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, roots=roots))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Seen:
    """What a page asked for, and what it complained of."""

    requests: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def tiles(self, start: str) -> list[str]:
        """Tiles asked for below an address."""
        return [url for url in self.requests if url.startswith(start) and ".png" in url]


@contextmanager
def opened(browser: Any, address: str, sharp: int = 1) -> Iterator[tuple[Any, Seen]]:
    """A page that cannot reach anything but this machine. `sharp`: the screen's pixels for one of CSS."""
    page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, device_scale_factor=sharp)
    seen = Seen()
    page.route("**/*", lambda route: route.abort() if foreign(route.request.url) else route.continue_())
    page.on("request", lambda request: seen.requests.append(request.url))
    # What a map drops by itself, since its view has changed meanwhile, has not failed.
    dropped = "net::ERR_ABORTED"
    page.on(
        "requestfailed",
        lambda request: request.failure != dropped and seen.failed.append(f"{request.url} {request.failure}"),
    )
    page.on("response", lambda answer: answer.status >= 400 and seen.failed.append(f"{answer.url} {answer.status}"))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda line: line.type == "error" and seen.errors.append(line.text))
    try:
        page.goto(address)
        ready(page)
        yield page, seen
    finally:
        page.close()


def ready(page: Any) -> None:
    """Wait for the page's map; before it is made, `map` is the element that it goes into."""
    page.add_style_tag(content=STYLE)
    page.wait_for_function("globalThis.map && !(map instanceof Element)", timeout=PATIENCE)


def foreign(url: str) -> bool:
    """Whether an address is on another machine."""
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))


# Of each library: show a place at a zoom of 256 px tiles, and wait until it is drawn.
SHOW = {
    "leaflet": """async ([lon, lat, zoom]) => {
      map.setView([lat, lon], zoom, {animate: false});
      const layers = []; map.eachLayer(layer => layer.isLoading && layers.push(layer));
      while (layers.some(layer => layer.isLoading())) await new Promise(done => setTimeout(done, 50));
      await new Promise(done => setTimeout(done, 600)); // a tile fades in
    }""",
    "openlayers": """async ([lon, lat, zoom]) => {
      map.getView().setCenter(ol.proj.fromLonLat([lon, lat])); map.getView().setZoom(zoom);
      const drawn = new Promise(done => map.once('rendercomplete', done));
      map.render(); await drawn;
    }""",
    "maplibre": """async ([lon, lat, zoom]) => {
      map.jumpTo({center: [lon, lat], zoom: zoom - 1});
      const drawn = new Promise(done => map.once('idle', done));
      map.triggerRepaint(); await drawn;
    }""",
}
# Longitude and latitude of a point of the page.
WHERE = {
    "leaflet": "at => { const {lng, lat} = map.containerPointToLatLng(at); return [lng, lat]; }",
    "openlayers": "at => ol.proj.toLonLat(map.getCoordinateFromPixel(at))",
    "maplibre": "at => { const {lng, lat} = map.unproject(at); return [lng, lat]; }",
}


def show(page: Any, library: str, center: tuple[float, float], zoom: float) -> NDArray[np.uint8]:
    """Go to a place, wait until it is drawn, and take a picture [rows, cols, 3]."""
    page.evaluate(SHOW[library], [*center, zoom])
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))


def corners(page: Any, library: str) -> NDArray[np.float64]:
    """Longitude and latitude of the page's upper left and lower right corner, as the client itself says."""
    return np.array([page.evaluate(WHERE[library], [0, 0]), page.evaluate(WHERE[library], list(SIZE))])
