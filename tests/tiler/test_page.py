"""The page in a real Chromium: layers, modes, address, pickers, pointer, progress. Pixels and elements, no mocks."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import rasterio

from model_registry.testing import conv_chain, strided_unet, write_model
from tests.tiler.helpers import MERCATOR, RES, ZOOM, landscape, write_scene
from tests.tiler.pages import EXACT, Tab, tab
from tests.tiler.servers import serving
from tiler.app import create_app
from tiler.settings import Settings

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 700, 800
# Not where pixels meet: whole pixels of the screen lie inside of the scene's.
LON, LAT = MERCATOR.lnglat(1000 + 400.3 * RES, 5000 - 350.3 * RES)
PLACE = f"{ZOOM}/{LAT}/{LON}"


@dataclass
class Site:
    """A server, and a gate in front of its tiles that tests may close."""

    port: int
    hold: threading.Event  # tiles wait while it is not set
    busy: list[int]  # answers 503 to so many tiles first
    seen: list[str]
    labels: Path


class Gate:
    """ASGI: lets predictions' tiles wait, or answers that the server is busy; everything else goes through."""

    status = 503

    def __init__(self, app: Any) -> None:
        self.app, self.hold, self.busy, self.seen = app, threading.Event(), [0], []
        self.hold.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and b"output=class_confidence" in scope["query_string"]:
            import asyncio

            self.seen.append(scope["path"])
            while not self.hold.is_set():
                await asyncio.sleep(0.01)
            if self.busy[0] > 0:
                self.busy[0] -= 1
                status = self.status
                headers = [(b"retry-after", b"1"), (b"cache-control", b"no-store")]
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": b"{}"})
                return
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("page")
    pixels = landscape(HEIGHT, WIDTH)
    scene, other = write_scene(folder / "scene.tif", pixels), write_scene(folder / "other.tif", pixels[:, ::-1])
    truth = (pixels[:1] > 128).astype(np.uint8)
    labels = write_scene(folder / "labels.tif", truth)
    value = {"name": "height", "unit": "m", "range": [0, 20], "scale": 5, "offset": 10}
    models = {
        "cover": write_model(
            folder / "cover", conv_chain(layers=2, classes=2), classes=["low <b>", "high"], license="MIT", **EXACT
        ),
        "five": write_model(folder / "five", conv_chain(layers=2, classes=5, seed=3), classes=list("abcde"), **EXACT),
        "height": write_model(
            folder / "height", strided_unet(depth=1, classes=1), tasks=["regression"], gsd=round(RES, 4),
            output={"value": value},
        ),
    }  # fmt: skip
    scenes = {
        "field": {"path": str(scene), "title": "The <field>", "labels": str(labels)},
        "mirror": {"path": str(other)},
    }
    app = create_app(Settings(scenes=scenes, models={name: str(path) for name, path in models.items()}))
    gate = Gate(app)
    with serving(gate) as port:
        yield Site(port, gate.hold, gate.busy, gate.seen, labels)


def opened(browser: Any, site: Site, more: str = "", query: str = "", **options: Any) -> Any:
    return tab(browser, site.port, f"{query}#{PLACE}{more}", **options)


def rasterio_label(site: Site, lon: float, lat: float) -> str:
    """Name of the label at a place, read from the file."""
    with rasterio.open(site.labels) as dataset:
        row, col = dataset.index(*MERCATOR.xy(lon, lat))
        return ["low <b>", "high"][dataset.read(1)[row, col]]


def map_area(page: Tab) -> np.ndarray:
    """The picture left of the panel."""
    return page.picture()[60:700, 60:1100]


# Imagery and prediction


def test_opacity_by_slider_and_keys(browser: Any, site: Site) -> None:
    with opened(browser, site) as page:
        page.settle()
        over = map_area(page)
        page.page.keyboard.press("a")
        page.draw()
        clear = map_area(page)
        page.page.get_by_role("checkbox", name="Prediction").uncheck()
        page.draw()
        imagery = map_area(page)
        np.testing.assert_array_equal(clear, imagery)
        page.page.get_by_role("checkbox", name="Prediction").check()
        page.page.keyboard.press("f")
        page.draw()
        opaque = map_area(page)
        assert page.page.get_by_label("Opacity").input_value() == "100"
        mixed = 0.6 * opaque.astype(float) + 0.4 * imagery
        assert np.abs(mixed - over).mean() < 2 and np.abs(opaque.astype(float) - imagery).mean() > 20
        page.page.keyboard.press("s")
        page.until("document.getElementById('opacity-value').textContent === '95 %'")
        page.page.keyboard.press("d")
        page.until("document.getElementById('opacity-value').textContent === '100 %'")


def test_swipe_cuts_the_prediction_where_the_line_is(browser: Any, site: Site) -> None:
    with opened(browser, site, "&o=100") as page:
        page.settle()
        whole = page.picture()
        page.page.keyboard.press("a")
        page.draw()
        imagery = page.picture()
        page.page.keyboard.press("f")
        page.draw()
        page.page.get_by_label("Swipe", exact=True).check()
        before = len(page.asked)
        for share in (30, 50):
            page.page.get_by_label("Swipe: imagery left").fill(str(share))
            page.page.wait_for_timeout(0)
            page.draw()
            line, seen = round(1500 * share / 100), page.picture()
            rows = slice(100, 600)
            np.testing.assert_array_equal(seen[rows, 60 : line - 20], imagery[rows, 60 : line - 20])
            np.testing.assert_array_equal(seen[rows, line + 20 : 1100], whole[rows, line + 20 : 1100])
        assert page.asked[before:] == []
        page.until("location.hash.includes('mode=swipe') && location.hash.includes('sw=50')")


def test_side_by_side_maps_move_together(browser: Any, site: Site) -> None:
    with opened(browser, site, "&mode=side&o=100&l=prediction") as page:
        page.settle()
        shown = page.page.locator(".pane:visible")
        assert shown.count() == 3
        boxes = [shown.nth(number).bounding_box() for number in range(3)]
        assert len({round(box["width"]) for box in boxes}) == 1
        center = "[panes.imagery, panes.main, panes.labels].map(map => map.getView().getCenter().join())"
        page.until(f"(panes => new Set({center}).size === 1)(viewer.panes)")
        page.until("viewer.shown.length > 4")
        page.tell(
            "new Promise(done => { viewer.panes.labels.once('rendercomplete', done); viewer.panes.labels.render(); })"
        )
        page.tell(
            "new Promise(done => { viewer.panes.imagery.once('rendercomplete', done); viewer.panes.imagery.render(); })"
        )
        picture = page.picture()
        panes = [picture[100:600, round(box["x"]) + 60 : round(box["x"] + box["width"]) - 60] for box in boxes]
        assert len(np.unique(panes[0].reshape(-1, 3), axis=0)) > 1000, "imagery"
        colors = page.tell("viewer.classes.map(item => item.color)")
        wanted = {tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in colors}
        for pane in panes[1:]:  # prediction and labels, in the same colours, but for the seams of a canvas's tiles
            flat = [tuple(color) for color in pane.reshape(-1, 3).tolist()]
            assert sum(color in wanted for color in flat) > 0.98 * len(flat) and set(flat) >= wanted
        page.page.locator("#map-labels").focus()
        before = page.tell("viewer.panes.main.getView().getCenter()[0]")
        page.page.keyboard.press("ArrowRight")
        page.until(f"viewer.panes.main.getView().getCenter()[0] > {before}")
        assert page.tell("viewer.panes.imagery.getView() === viewer.panes.labels.getView()")


def test_the_address_keeps_everything(browser: Any, site: Site) -> None:
    with opened(browser, site) as page:
        page.settle()
        page.page.get_by_label("Swipe", exact=True).check()
        page.page.get_by_label("Swipe: imagery left").fill("35")
        page.page.get_by_label("Opacity").fill("80")
        page.page.get_by_label("Confidence").fill("55")
        page.page.get_by_label("high", exact=True).uncheck()
        page.page.get_by_label("Colour of low <b>").fill("#12ab34")
        page.page.locator("#map").focus()
        page.page.keyboard.press("ArrowRight")
        page.until(
            "!viewer.panes.view.getAnimating() && ['k=0:12ab34', 'o=80'].every(part => location.hash.includes(part))"
        )
        page.page.wait_for_timeout(400)
        address, picture = page.tell("location.href"), None
        page.settle()
        picture = map_area(page)
    revision = httpx.get(f"http://127.0.0.1:{site.port}/field/cover/tilejson.json").json()["revision"]
    assert f"m=cover@{revision}" in address and "s=field" in address
    with tab(browser, site.port, address.split("/", 3)[3]) as again:
        again.settle()
        assert again.tell("location.href") == address
        np.testing.assert_array_equal(map_area(again), picture)
        assert not again.page.get_by_label("high", exact=True).is_checked()


def test_a_revision_that_is_gone_is_said_and_the_present_one_shown(browser: Any, site: Site) -> None:
    with opened(browser, site, "&s=field&m=cover@0123456789ab") as page:
        page.expected = ("404",)  # what browsers log of it
        page.settle()
        assert "no longer here" in page.page.locator("#said").text_content()
        assert "0123456789ab" not in page.tell("viewer.base")


# Pickers


def test_cards_tell_what_there_is_and_the_old_layer_stays_until_the_new_one_draws(browser: Any, site: Site) -> None:
    with opened(browser, site, "&o=100&l=prediction") as page:
        page.settle()
        page.page.get_by_text("Scene and model").click()
        card = page.page.locator("#models .card", has=page.page.locator("input[value=cover]"))
        card.get_by_text("low <b>").wait_for()
        words = card.text_content()
        for part in ("MIT", "exact", "2 classes", "m per pixel", "high"):
            assert part in words, words
        assert page.page.locator("#scenes .card").count() == 2
        assert page.page.locator("#scenes .card").first.text_content().startswith("The <field>")
        page.until("document.querySelector('#scenes img').naturalWidth === 256")
        before = map_area(page)
        site.hold.clear()
        page.page.locator("#models input[value=five]").check()
        page.until("viewer.pair.model === 'five' && viewer.prediction.loader.flying.size > 0")
        page.page.wait_for_timeout(100)
        meanwhile = map_area(page)
        kept = (np.abs(meanwhile.astype(int) - before).max(axis=-1) < 140).mean()
        assert kept > 0.9 and not (meanwhile == 255).all(axis=-1).mean() > 0.5, "hatched, but not gone"
        old = {tuple(color) for color in np.unique(before.reshape(-1, 3), axis=0)}
        site.hold.set()
        page.settle()
        page.draw()
        after = {tuple(color) for color in np.unique(map_area(page)[100:500, 320:900].reshape(-1, 3), axis=0)}
        assert len(after) == 5 and not after <= old
        assert page.tell("viewer.map.getLayers().getLength()") < 12
        page.until("location.hash.includes('m=five@')")


def test_a_model_without_classes_is_drawn_with_its_ramp(browser: Any, site: Site) -> None:
    with opened(browser, site, "&m=height&s=field&o=100&l=prediction") as page:
        page.settle()
        assert len(np.unique(map_area(page).reshape(-1, 3), axis=0)) > 50
        assert page.page.locator("#ramp").is_visible() and page.page.locator("#threshold-row").is_hidden()
        x, y = page.pixel_of(LON, LAT)
        page.page.mouse.click(x, y)
        page.page.locator("#point-answer", has_text=re.compile(r"height: -?[\d.]+ m")).wait_for()


# The pointer


def test_hovering_tells_the_class_without_a_request(browser: Any, site: Site) -> None:
    with opened(browser, site, "&m=five&s=field") as page:
        page.settle()
        before, names = len(page.asked), {"a", "b", "c", "d", "e"}
        found = []
        for step in range(8):
            x, y = 420 + 67 * step, 250 + 31 * step
            page.page.mouse.move(x, y)
            page.page.locator("#hover").wait_for()
            text = page.page.locator("#hover").text_content()
            where = f"ol.proj.toLonLat(viewer.map.getCoordinateFromPixel([{x}, {y}]))"
            found.append((page.tell(where), text))
        assert page.asked[before:] == []
        for (lon, lat), text in found:
            x, y = MERCATOR.xy(lon, lat)
            tile = MERCATOR._tile(x, y, ZOOM)
            bounds = MERCATOR.xy_bounds(tile)
            url = f"http://127.0.0.1:{site.port}/field/five/{tile.z}/{tile.x}/{tile.y}.npy?output=class_confidence"
            numbers = np.load(io.BytesIO(httpx.get(url).content))
            value, sure, _ = numbers[:, int((bounds.top - y) / RES), int((x - bounds.left) / RES)]
            name, _, share = text.partition(" ")
            assert name == "abcde"[int(value)] and name in names
            assert abs(float(share.removesuffix(" %")) - 100 * sure) < 1.1
        assert len({text[0] for _, text in found}) > 1


def test_a_click_tells_probabilities_entropy_label_and_place(browser: Any, site: Site) -> None:
    with opened(browser, site) as page:
        page.settle()
        x, y = 500, 300
        lon, lat = page.tell(f"ol.proj.toLonLat(viewer.map.getCoordinateFromPixel([{x}, {y}]))")
        page.page.mouse.click(x, y)
        page.page.locator("#point-answer .bars li").first.wait_for()
        said = re.findall(r"-?\d+\.\d+", page.page.locator("#point-place").text_content())
        answer = httpx.get(
            f"http://127.0.0.1:{site.port}/field/cover/point/{said[1]},{said[0]}?output=probability"
        ).json()
        shares = sorted(answer["values"], reverse=True)
        told = [float(text.rstrip(" %")) / 100 for text in page.page.locator(".bars .number").all_text_contents()]
        assert len(told) == 2 and abs(sum(told) - 1) < 0.002
        np.testing.assert_allclose(told, shares, atol=0.002)
        label = rasterio_label(site, lon, lat)
        assert f"Label: {label}" in page.page.locator("#point-answer").text_content()
        bits = float(re.search(r"Entropy ([\d.]+) bit", page.page.locator("#point-answer").text_content())[1])
        assert abs(bits + sum(share * np.log2(share) for share in told if share > 0)) < 0.02
        widths = page.tell(
            "[...document.querySelectorAll('.bars .bar > span')].map(bar => parseFloat(bar.style.width))"
        )
        np.testing.assert_allclose(widths, [100 * share for share in told], atol=0.06)
        assert abs(float(said[0]) - lat) < 2e-5 and abs(float(said[1]) - lon) < 2e-5


# Progress


def test_tiles_not_inferred_are_hatched_counted_and_then_drawn(browser: Any, site: Site) -> None:
    site.hold.clear()
    try:
        with opened(browser, site, "&m=five&s=mirror&o=100") as page:
            page.until("document.getElementById('status').dataset.running > 0")
            words = page.page.locator("#status").text_content()
            assert re.search(r"Tiles: \d+ running.*0 of \d+ done", words), words
            page.until("viewer.waiting.getRenderer, document.querySelector('canvas.waiting').dataset.waiting > 0")
            hatched = map_area(page)
            site.hold.set()
            page.settle()
            assert page.page.locator("#status").is_hidden()
            assert page.tell("document.querySelector('canvas.waiting').dataset.waiting") == "0"
            drawn = map_area(page)
            assert len(np.unique(drawn[200:400, 300:700].reshape(-1, 3), axis=0)) == 5
            assert (hatched != drawn).any(axis=-1).mean() > 0.3
    finally:
        site.hold.set()


def test_a_busy_server_is_asked_again_after_the_time_that_it_names(browser: Any, site: Site) -> None:
    site.busy[0] = 2
    with opened(browser, site, "&m=cover&s=mirror") as page:
        page.expected = ("503",)  # browsers log each
        page.settle()
        assert site.busy[0] == 0
        assert page.tell("viewer.prediction.loader.failed.size") == 0


def test_tiles_that_failed_are_marked_and_tried_again_on_demand(
    browser: Any, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gate, "status", 500)
    site.busy[0] = 3
    with opened(browser, site, "&m=five&s=field") as page:
        page.expected = ("500",)
        page.until(
            "document.getElementById('status').dataset.failed === '3' && viewer.prediction.loader.flying.size === 0"
        )
        assert "3 failed" in page.page.locator("#status").text_content()
        page.until("document.querySelector('canvas.waiting').dataset.waiting === '3'")
        before = len(page.tiles())
        page.page.get_by_role("button", name="Try again").click()
        page.settle()
        assert len(page.tiles()) == before + 3, "only those"


def test_tiles_that_leave_the_view_are_given_up(browser: Any, site: Site) -> None:
    site.hold.clear()
    try:
        with opened(browser, site, "&m=five&s=field") as page:
            page.until("window.viewer?.prediction?.loader.flying.size > 0")
            first = set(page.tell("[...viewer.prediction.loader.flying.keys()]"))
            page.tell("viewer.panes.view.setZoom(17)")
            page.until(
                f"[...viewer.prediction.loader.flying.keys()].every(key => !{json.dumps(sorted(first))}.includes(key))"
            )
            page.tell(f"viewer.panes.view.setZoom({ZOOM})")
            site.hold.set()
            page.settle()  # they are asked for again when they come back
            assert first <= set(page.tell("[...viewer.prediction.loader.kept.keys()]"))
            assert page.tell("viewer.prediction.loader.failed.size") == 0
    finally:
        site.hold.set()


def test_tiles_that_the_map_disposes_of_leave_their_place_and_have_not_failed(browser: Any, site: Site) -> None:
    site.hold.clear()
    try:
        with opened(browser, site, "&m=five&s=field") as page:
            page.until("window.viewer?.prediction?.loader.queue.length > 0")
            page.tell("""async () => {
              const gone = new AbortController(), {loader} = viewer.prediction;
              const asked = Array.from({length: 20}, (_, x) => loader.load(1, x, 0, gone.signal));
              gone.abort(new Error('disposed')); // in OpenLayers' words
              await Promise.allSettled(asked);
            }""")
            site.hold.set()
            page.settle()
            assert page.tell("[viewer.prediction.loader.failed.size, viewer.prediction.loader.flying.size]") == [0, 0]
    finally:
        site.hold.set()


def test_too_far_away_the_page_says_zoom_in_and_asks_for_nothing(browser: Any, site: Site) -> None:
    with tab(browser, site.port, f"#5/{LAT}/{LON}") as page:
        page.page.locator("#note").wait_for()
        assert page.tiles() == []
        page.page.get_by_role("button", name="Zoom in", exact=True).click()
        page.settle()
        assert page.tiles() and page.page.locator("#note").is_hidden()
