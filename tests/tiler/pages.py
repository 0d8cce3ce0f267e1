"""A real Chromium on the page of a real server. No page may reach another host, and none may log an error."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.tiler.helpers import RES
from tiler import vendor

DEADLINE = 60.0  # two cores are shared with whatever else runs
LOOPBACK = ("127.0.0.1", "localhost")
# Of `write_model`, for chains of two layers: the scene's own resolution, and tiles that need no checking.
EXACT: dict[str, Any] = {
    "gsd": round(RES, 4),
    "exactness": "exact",
    "window": {"multiple": 1, "period": 1, "halo": 2},
}
SOFTWARE_GL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@contextmanager
def browsing(*more: str) -> Iterator[Any]:
    """A Chromium, Debian's or the one that CHROMIUM names; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium: apt install chromium, or name one in CHROMIUM")
    if not vendor.is_current(vendor.default_root()):
        pytest.skip(f"OpenLayers is not here: {vendor.COMMAND}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", *SOFTWARE_GL, *more])
        yield browser
        browser.close()


class Tab:
    """One page: what it asked for, what it complained of, and what it looks like."""

    def __init__(self, browser: Any, port: int, path: str = "", **options: Any) -> None:
        self.port, self.asked, self.complaints, self.foreign = port, [], [], []
        self.expected: tuple[str, ...] = ()
        context = browser.new_context(**{"viewport": {"width": 1500, "height": 800}, **options})
        context.set_default_timeout(DEADLINE * 1000)
        self.page = context.new_page()
        self.page.route("**/*", self._gate)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(error.stack or str(error)))
        if path is not None:
            self.page.goto(f"http://127.0.0.1:{port}/{path}")

    def _gate(self, route: Any) -> None:
        url = route.request.url
        if url.startswith(("data:", "blob:")) or urlsplit(url).hostname in LOOPBACK:
            self.asked.append(url)
            route.continue_()
        else:
            self.foreign.append(url)
            route.abort()

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def tell(self, expression: str, *args: Any) -> Any:
        """What a JavaScript expression is in the page."""
        return self.page.evaluate(expression, *args)

    def until(self, expression: str) -> None:
        """Wait until an expression is true. (Playwright's own wait needs `eval`, which the page's policy forbids.)"""
        end = time.monotonic() + DEADLINE
        while not self.tell(f"Boolean({expression})"):
            if time.monotonic() > end:
                seen = self.tell("document.body.innerText")[-300:]
                raise AssertionError(f"never came true: {expression}; complaints: {self.complaints}; seen: {seen}")
            self.page.wait_for_timeout(30)

    def settle(self) -> None:
        """Wait until every tile of the view is drawn."""
        self.until("window.viewer?.prediction && viewer.prediction.loader.kept.size && document.title.includes('–')")
        self.until("document.getElementById('status').hidden && viewer.marked.length === 0 && !viewer.frame")
        self.draw()

    def draw(self) -> None:
        """Wait for a frame in which OpenLayers has nothing left to load."""
        self.tell("new Promise(done => { viewer.map.once('rendercomplete', done); viewer.map.render(); })")

    def tiles(self, part: str = "") -> list[str]:
        """Tiles of predictions that were asked for."""
        wanted = [url for url in self.asked if "/static/" not in url and ".png" in url and "/imagery/" not in url]
        return [url for url in wanted if part in url]

    def picture(self) -> NDArray[np.uint8]:
        """[rows, cols, 3] of what is seen."""
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))

    def pixel_of(self, lon: float, lat: float) -> tuple[int, int]:
        """(x, y) of a place in the picture."""
        x, y = self.tell(
            "([lon, lat]) => { const box = viewer.map.getTargetElement().getBoundingClientRect(); "
            "const [x, y] = viewer.map.getPixelFromCoordinate(ol.proj.fromLonLat([lon, lat])); "
            "return [x + box.left, y + box.top]; }",
            [lon, lat],
        )
        return round(x), round(y)

    def close(self) -> None:
        """Close it; fails if it complained or asked another host."""
        self.page.context.close()
        left = [text for text in self.complaints if not any(part in text for part in self.expected)]
        assert left == []
        assert self.foreign == []


@contextmanager
def tab(browser: Any, port: int, path: str = "", **options: Any) -> Iterator[Tab]:
    """A page that is closed at the end."""
    opened = Tab(browser, port, path, **options)
    try:
        yield opened
    except BaseException:
        opened.page.context.close()
        raise
    opened.close()
