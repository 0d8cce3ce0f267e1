"""The order in which the page asks: what bounds how soon a prediction is seen. Counted, not timed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import landscape, write_scene
from tests.tiler.pages import EXACT, browsing, tab
from tests.tiler.servers import serving
from tests.tiler.test_page import Gate
from tiler import vendor
from tiler.app import create_app
from tiler.settings import Settings

FEW = 4  # /api/pairs, tilejson, features; and nothing comes twice


def imports_of(file: Path) -> set[str]:
    return set(re.findall(r"from '\./(\w+\.js)'", file.read_text(encoding="utf-8")))


def test_every_module_is_named_in_the_page() -> None:
    """One imported by another would be found only when that has come, and so on."""
    static = vendor.static_dir()
    named = re.findall(r'rel="modulepreload" href="static/(\w+\.js)"', (static / "index.html").read_text())
    needed, todo = set(), ["map.js"]
    while todo:
        new = imports_of(static / todo.pop()) - needed
        needed |= new
        todo += new
    assert sorted(named) == sorted(needed)


@pytest.mark.slow
def test_one_prediction_is_asked_for_first_and_imagery_does_not_wait_for_it(tmp_path: Path) -> None:
    size = 1200
    scene = write_scene(tmp_path / "scene.tif", landscape(size, size))
    model = write_model(tmp_path / "cover", conv_chain(layers=2, classes=3), classes=list("abc"), **EXACT)
    gate = Gate(create_app(Settings(scenes={"field": {"path": str(scene)}}, models={"cover": str(model)})))
    gate.hold.clear()
    with browsing() as browser, serving(gate) as port, tab(browser, port) as page:
        try:
            page.until("document.getElementById('status').dataset.running === '1'")
            # No prediction comes yet: all of the imagery does.
            imagery: Any = "performance.getEntriesByType('resource').filter(({name}) => name.includes('/imagery/'))"
            page.until(f"(all => all.length > 5 && all.every(one => one.responseEnd))({imagery})")
            assert (
                len(page.tiles()) == len(gate.seen) == 1 and int(page.tell("viewer.prediction.loader.queue.length")) > 5
            )
            first = next(i for i, url in enumerate(page.asked) if "class_confidence" in url)
            before = [url for url in page.asked[:first] if not re.search(r"/static/|/imagery/|/$", url)]
            assert len(before) <= FEW and not any("/imagery/" in url for url in page.asked[: first - 1]), before
            gate.hold.set()
            page.settle()
            # Then several at once, and a connection is left.
            gate.hold.clear()
            page.tell("viewer.panes.view.setZoom(viewer.panes.view.getZoom() + 1)")
            page.until("viewer.prediction.loader.flying.size === 5 && viewer.prediction.loader.queue.length > 0")
            page.until(f"{imagery}.every(one => one.responseEnd)")
        finally:
            gate.hold.set()
        page.settle()
        assert len(set(page.tiles())) == len(page.tiles())
