"""A polygon drawn by keyboard alone, and what the colours of the error layer are said to mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import MERCATOR, RES, ZOOM, landscape, rgba, write_scene
from tests.tiler.pages import EXACT, tab
from tests.tiler.servers import serving
from tiler.app import create_app
from tiler.settings import Settings

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 700, 800
LON, LAT = MERCATOR.lnglat(1000 + 400.3 * RES, 5000 - 350.3 * RES)
PLACE = f"#{ZOOM}/{LAT}/{LON}"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("keys")
    pixels = landscape(HEIGHT, WIDTH)
    scene = write_scene(folder / "scene.tif", pixels)
    labels = write_scene(folder / "labels.tif", (pixels[:1] // 86).astype(np.uint8))
    names = ["ground", "roof", "road"]
    models = {
        "cover": write_model(folder / "cover", conv_chain(layers=2, classes=3), classes=names, **EXACT),
        "mask": write_model(folder / "mask", conv_chain(layers=2, classes=2), classes=names[:2], **EXACT),
    }
    scenes = {"field": {"path": str(scene), "labels": str(labels)}}
    app = create_app(Settings(scenes=scenes, models={name: str(path) for name, path in models.items()}))
    with serving(app) as number:
        yield number


def test_a_polygon_is_drawn_without_a_pointer(browser: Any, port: int) -> None:
    with tab(browser, port, PLACE) as page:
        page.settle()
        keys, said = page.page.keyboard, page.page.locator("#said")
        centre = "viewer.map.getView().getCenter()"
        page.page.get_by_text("Measure an area").click()
        page.page.get_by_role("button", name="Draw a polygon").focus()
        keys.press("Enter")
        assert page.tell("viewer.areas.drawing && document.activeElement.id === 'map'")
        page.until("getComputedStyle(document.getElementById('crosshair')).display === 'block'")
        keys.press("Enter")
        assert said.get_attribute("role") == "status" and said.text_content().startswith("Corner 1 at ")
        corners = [page.tell(centre)]
        keys.press("Enter")
        assert "3 corners at least" in said.text_content() and page.tell("viewer.areas.drawing")
        for key, steps in (("ArrowRight", 1), ("ArrowDown", 1), ("Shift+ArrowDown", 3), ("ArrowLeft", 2)):
            for _ in range(steps):
                keys.press(key)
            keys.press("Enter")
            corners.append(page.tell(centre))
        assert said.text_content().startswith("Corner 5 at ")
        assert abs(corners[1][0] - corners[0][0] - 64 * page.tell("viewer.map.getView().getResolution()")) < 0.01
        fine = corners[3][1] - corners[2][1], page.tell("viewer.map.getView().getResolution()")
        assert abs(fine[0] + 3 * 8 * fine[1]) < 0.01 * fine[1], "small steps"
        # Live, before it is closed: the loose end is below the cross, where no corner is yet.
        live = "viewer.areas.found?.feature.geometry.coordinates[0].map(place => ol.proj.fromLonLat(place))"
        for key, left in (("ArrowUp", 5), ("Backspace", 4)):
            keys.press(key)
            page.until(f"{live}?.length === {left} + 2")
            page.until(f"{live}.some(([x, y]) => Math.hypot(x - {centre}[0], y - {centre}[1]) < 0.01)")
        assert said.text_content() == "4 corners are left."
        corners.pop()
        assert page.page.locator("#area-answer table").is_visible()
        # Where the last corner is: there, Enter ends the polygon.
        page.tell("place => viewer.map.getView().setCenter(place)", corners[-1])
        keys.press("Enter")
        page.until("!viewer.areas.drawing && viewer.areas.source.getFeatures().length === 1")
        ring = page.tell("viewer.areas.source.getFeatures()[0].getGeometry().getCoordinates()[0]")
        np.testing.assert_allclose(ring, [*corners, corners[0]])
        page.until("viewer.areas.found?.asked.startsWith(JSON.stringify([viewer.areas.feature()]).slice(0, -1))")
        feature = page.tell("viewer.areas.feature()")
        wanted = httpx.post(f"http://127.0.0.1:{port}/field/cover/areas", json=feature).json()
        assert page.tell("viewer.areas.found.hectares") == wanted["hectares"] > 0
        assert page.page.locator("#crosshair").is_hidden()


def test_escape_gives_a_polygon_up_and_backspace_takes_the_first_corner(browser: Any, port: int) -> None:
    with tab(browser, port, PLACE) as page:
        page.settle()
        keys, said = page.page.keyboard, page.page.locator("#said")
        page.page.locator("#map").focus()
        keys.press("p")
        keys.press("Backspace")
        assert said.text_content() == "There is no corner to take away."
        keys.press("Enter")
        keys.press("Backspace")
        assert said.text_content() == "0 corners are left."
        keys.press("Enter")
        assert said.text_content().startswith("Corner 1 at ")
        keys.press("Escape")
        assert said.text_content() == "Drawing is given up."
        assert page.tell("!viewer.areas.drawing && viewer.areas.source.getFeatures().length === 0")
        # The keys are the map's own again.
        keys.press("Enter")
        page.page.locator(".bars li").first.wait_for()


def test_the_error_layer_says_what_its_colours_mean(browser: Any, port: int) -> None:
    base = f"http://127.0.0.1:{port}/field"
    with tab(browser, port, f"{PLACE}&m=cover&o=0&l=prediction") as page:
        page.settle()
        assert page.page.locator("#error-legend").is_hidden()
        page.page.get_by_role("checkbox", name="Errors").check()
        rows = page.page.locator("#error-rows li")
        for choice, query in (("all classes", ""), ("roof", "?class=1")):
            page.page.get_by_label("Errors of").select_option(label=choice)
            legend = httpx.get(f"{base}/cover/errors/legend.json{query}").json()
            page.until(f"document.querySelector('#error-rows').textContent.includes({legend[0]['meaning']!r})")
            assert rows.all_inner_texts() == [f"{row['name']} {row['meaning']}" for row in legend]
            colors = page.tell(
                "[...document.querySelectorAll('#error-rows .swatch')].map(node => node.style.backgroundColor)"
            )
            hexes = [row["color"] for row in legend]
            assert colors == [f"rgb({', '.join(str(int(item[i : i + 2], 16)) for i in (1, 3, 5))})" for item in hexes]
        # Missed and false, as the server draws them.
        page.draw()
        tile = MERCATOR._tile(*MERCATOR.xy(LON, LAT), ZOOM)
        wanted = rgba(httpx.get(f"{base}/cover/errors/{tile.z}/{tile.x}/{tile.y}.png?class=1").content)
        bounds = MERCATOR.bounds(tile)
        x, y = page.pixel_of(bounds.left, bounds.top)
        page.until("viewer.errors[0].getSource().getUrls()[0].includes('class=1')")
        page.draw()
        drawn, marked = page.picture()[y : y + 256, x : x + 256], wanted[..., 3] > 0
        assert (drawn == wanted[..., :3])[marked].all(axis=-1).mean() > 0.98
        assert len(np.unique(wanted[marked], axis=0)) == 2 and marked.mean() > 0.05
        page.until("location.hash.includes('e=1')")
        address = page.tell("location.href").split("/", 3)[3]
    with tab(browser, port, address) as again:
        again.settle()
        again.page.locator("#error-rows", has_text="missed").wait_for()


def test_errors_of_a_mask_are_missed_and_false_by_themselves(browser: Any, port: int) -> None:
    with tab(browser, port, f"{PLACE}&m=mask&o=0&l=prediction,errors") as page:
        page.settle()
        page.page.locator("#error-rows", has_text="missed roof, but predicted otherwise").wait_for()
        page.draw()
        assert any("/errors/" in url and "class=1" in url for url in page.asked)
        page.page.get_by_role("checkbox", name="Errors").uncheck()
        assert page.page.locator("#error-legend").is_hidden()
