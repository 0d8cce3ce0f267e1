"""Below the zooms that are inferred, the page shows what was exported: a real export, in a real browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import MERCATOR, RES, ZOOM, landscape, rgba, write_scene
from tests.tiler.pages import EXACT, Tab, tab
from tests.tiler.servers import serving
from tiler.app import create_app
from tiler.export.local import Manner, export
from tiler.export.order import Order, SceneOrder
from tiler.settings import Settings

pytestmark = pytest.mark.slow

SIZE = 1500
LIVE = ZOOM - 1  # a tile there covers 512 x 512 px of the grid, as many as the settings allow
FAR = LIVE - 2
LON, LAT = MERCATOR.lnglat(1000 + SIZE / 2 * RES, 5000 - SIZE / 2 * RES)
CLASSES = ["water", "forest", "soil"]


@dataclass
class Place:
    """What is served, and how the same is exported."""

    scene: Path
    model: Path
    told: Path

    @property
    def app(self) -> Any:
        settings = Settings(
            scenes={"field": {"path": str(self.scene)}}, models={"cover": str(self.model)}, materialised=str(self.told),
            max_tile_pixels=512 * 512,
        )  # fmt: skip
        return create_app(settings)

    def export(self, app: Any, out: Path) -> None:
        """As `tiler export` does it, registration and all."""
        order = Order(scenes=(SceneOrder(str(self.scene)),), model=str(self.model))
        result = export(order, out, Manner())
        for path in result.files.values():
            app.state.inference.service.materialised.register(path)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    scene = write_scene(tmp_path / "scene.tif", landscape(SIZE, SIZE))
    model = write_model(tmp_path / "cover", conv_chain(layers=2, classes=3), classes=CLASSES, **EXACT)
    return Place(scene, model, tmp_path / "told")


def tile_on_screen(page: Tab, tile: Any) -> np.ndarray:
    bounds = MERCATOR.bounds(tile)
    x, y = page.pixel_of(bounds.left, bounds.top)
    return page.picture()[y : y + 256, x : x + 256]


@pytest.mark.parametrize("query", ["", "?canvas=1"])
def test_an_export_is_seen_from_far_away(browser: Any, place: Place, tmp_path: Path, query: str) -> None:
    app = place.app
    address = f"{query}#{FAR}/{LAT}/{LON}&o=100&l=prediction"
    with serving(app) as port:
        with tab(browser, port, address) as page:
            page.page.locator("#note").wait_for()
            assert page.tiles() == [], "nothing is there to be seen yet"
        place.export(app, tmp_path / "out.tif")
        engine = app.state.inference.service.engine
        forwards = engine.forwards
        document = httpx.get(f"http://127.0.0.1:{port}/field/cover/tilejson.json").json()
        assert document["live_minzoom"] == LIVE and document["minzoom"] <= FAR and document["materialised"][0]["whole"]
        tile = MERCATOR.tile(LON, LAT, FAR)
        wanted = rgba(httpx.get(f"http://127.0.0.1:{port}/field/cover/{FAR}/{tile.x}/{tile.y}.png").content)
        there = wanted[..., 3] > 0
        assert there.sum() > 5000 and len(np.unique(wanted[there], axis=0)) == len(CLASSES)
        with tab(browser, port, address) as page:
            page.settle()
            assert page.page.locator("#note").is_hidden()
            assert (tile_on_screen(page, tile) == wanted[..., :3])[there].all(axis=-1).mean() > 0.999
            assert set(page.tell("[...viewer.prediction.loader.kind.values()]")) == {"materialised"}
            assert all("output=" not in url for url in page.tiles())
            # The class under the pointer, whose confidence nobody knows.
            rows, cols = np.nonzero(there)
            bounds, near = MERCATOR.bounds(tile), len(rows) // 2
            x, y = page.pixel_of(bounds.left, bounds.top)
            page.page.mouse.move(x + int(cols[near]) + 0.5, y + int(rows[near]) + 0.5)
            page.page.locator("#hover:visible").wait_for()
            color = "#{:02x}{:02x}{:02x}".format(*wanted[rows[near], cols[near], :3])
            name = next(item["name"] for item in document["classes"] if item["color"] == color)
            assert page.page.locator("#hover").inner_text().strip() == name
            # Toggled and recoloured as ever, without a request.
            before = len(page.asked)
            page.page.get_by_label("forest", exact=True).uncheck()
            page.draw()
            forest = next(item["color"] for item in document["classes"] if item["name"] == "forest")
            rgb = np.array([int(forest[i : i + 2], 16) for i in (1, 3, 5)])
            hidden = (wanted[..., :3] == rgb).all(axis=-1) & there
            drawn = tile_on_screen(page, tile)
            assert hidden.sum() > 50 and not (drawn[hidden] == rgb).all(axis=-1).any()
            assert (drawn == wanted[..., :3])[there & ~hidden].all(axis=-1).mean() > 0.999
            assert page.asked[before:] == []
            assert engine.forwards == forwards, "no network ran for any of it"
            # Near enough, it is class and confidence again.
            page.page.get_by_label("forest", exact=True).check()
            page.tell(f"viewer.panes.view.setZoom({LIVE})")
            page.until(f"[...viewer.prediction.loader.kept.keys()].some(key => key.startsWith('{LIVE}/'))")
            page.settle()
            assert any(f"/{LIVE}/" in url and "output=class_confidence" in url for url in page.tiles())
