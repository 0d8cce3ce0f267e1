"""What the page does beside drawing: areas and accuracy, copying, embedding, access; and what it never does."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import numpy as np
import pytest
import rasterio

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import MERCATOR, RES, ZOOM, landscape, rgba, write_scene
from tests.tiler.pages import EXACT, Tab, tab
from tests.tiler.servers import serving
from tiler import vendor
from tiler.app import create_app
from tiler.settings import Settings

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 700, 800
CLASSES = ["water", "forest", "soil", "roof"]
LON, LAT = MERCATOR.lnglat(1000 + 400.3 * RES, 5000 - 350.3 * RES)
PLACE = f"{ZOOM}/{LAT}/{LON}"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("tools")
    pixels = landscape(HEIGHT, WIDTH)
    scene = write_scene(folder / "scene.tif", pixels)
    labels = write_scene(folder / "labels.tif", (pixels[:1] // 64).astype(np.uint8))
    model = write_model(folder / "cover", conv_chain(layers=2, classes=4), classes=CLASSES, **EXACT)
    scenes = {"field": {"path": str(scene), "title": "The field", "labels": str(labels)}}
    settings = Settings(scenes=scenes, models={"cover": str(model)}, frame_ancestors=["'self'", "http://127.0.0.1:*"])
    with serving(create_app(settings)) as number:
        yield number


def opened(browser: Any, port: int, more: str = "", query: str = "", **options: Any) -> Any:
    return tab(browser, port, f"{query}#{PLACE}{more}", **options)


def draw(page: Tab, corners: list[tuple[int, int]]) -> None:
    page.page.get_by_role("button", name="Draw a polygon").click()
    for x, y in corners:
        page.page.mouse.move(x, y)
        page.page.mouse.click(x, y)
        page.page.wait_for_timeout(300)  # two clicks in a row would be a double click, which ends the polygon
    page.page.locator("#area-answer table").wait_for()  # live, before the polygon is closed
    assert page.tell("viewer.areas.drawing")
    page.page.mouse.click(*corners[0])


def kept(page: Tab, button: str) -> str:
    """What a button saves."""
    with page.page.expect_download() as told:
        page.page.get_by_role("button", name=button, exact=True).click()
    return Path(told.value.path()).read_bytes().decode()


# Areas


def test_a_drawn_polygon_is_measured_live_and_saved(browser: Any, port: int) -> None:
    corners = [(500, 200), (900, 220), (860, 560), (480, 500)]
    with opened(browser, port) as page:
        page.settle()
        page.page.get_by_text("Measure an area").click()
        draw(page, corners)
        page.until("!viewer.areas.drawing && viewer.areas.source.getFeatures().length === 1")
        page.until("viewer.areas.found?.asked.startsWith(JSON.stringify([viewer.areas.feature()]).slice(0, -1))")
        feature = json.loads(kept(page, "GeoJSON"))
        rows = list(csv.DictReader(io.StringIO(kept(page, "CSV"))))
        measured = page.tell("ol.sphere.getArea(viewer.areas.source.getFeatures()[0].getGeometry())") / 1e4
        before = page.page.locator("#area-answer caption").text_content()
        # A corner is dragged: counted again.
        page.page.mouse.move(*corners[1])
        page.page.mouse.down()
        page.page.mouse.move(1000, 120, steps=4)
        page.page.mouse.up()
        page.until(f"viewer.areas.found && document.querySelector('#area-answer caption').textContent !== {before!r}")
    assert feature["geometry"]["type"] == "Polygon" and len(feature["geometry"]["coordinates"][0]) == 5
    wanted = httpx.post(f"http://127.0.0.1:{port}/field/cover/areas", json=feature).json()
    assert [(row["class"], int(row["pixels"])) for row in rows] == [(c["name"], c["pixels"]) for c in wanted["classes"]]
    assert abs(sum(float(row["hectares"]) for row in rows) - measured) < 0.01 * measured
    assert abs(sum(float(row["percent"]) for row in rows) - 100) < 0.01
    assert feature["properties"]["classes"] == wanted["classes"]


def test_accuracy_of_the_view_is_scikit_learns(browser: Any, port: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    with opened(browser, port) as page:
        page.settle()
        page.page.locator("#map").focus()
        page.page.keyboard.press("v")
        page.page.get_by_role("button", name="Compare with labels").click()
        page.page.locator("#accuracy-answer .matrix").wait_for()
        feature = page.tell("viewer.areas.feature()")
        shown = page.page.locator("#accuracy-answer > div").first.inner_text()
        cells = [int(text) for text in page.page.locator(".matrix td.number").all_inner_texts()]
        table = page.page.locator("#accuracy-answer table").first.locator("tbody tr").all_inner_texts()
    ring = np.asarray(feature["geometry"]["coordinates"][0])
    (left, bottom), (right, top) = (MERCATOR.xy(*ring.min(axis=0)), MERCATOR.xy(*ring.max(axis=0)))
    box = f"1000,{5000 - HEIGHT * RES},{1000 + WIDTH * RES},5000"
    answer = httpx.get(
        f"http://127.0.0.1:{port}/field/cover/bbox/{box}/{WIDTH}x{HEIGHT}.npy",
        params={"coord_crs": "EPSG:3857", "dst_crs": "EPSG:3857"},
    )
    predicted = np.load(io.BytesIO(answer.content))[0]
    xs, ys = 1000 + (np.arange(WIDTH) + 0.5) * RES, 5000 - (np.arange(HEIGHT) + 0.5) * RES
    inside = ((ys > bottom) & (ys < top))[:, None] & ((xs > left) & (xs < right))[None]
    truth = (landscape(HEIGHT, WIDTH)[0] // 64)[inside]
    predicted = predicted[inside]
    assert cells == metrics.confusion_matrix(truth, predicted, labels=range(4)).ravel().tolist()
    assert f"Overall accuracy {metrics.accuracy_score(truth, predicted):.3f}" in shown
    scores = [
        metrics.jaccard_score(truth, predicted, average=None), metrics.f1_score(truth, predicted, average=None),
        metrics.precision_score(truth, predicted, average=None), metrics.recall_score(truth, predicted, average=None),
    ]  # fmt: skip
    for number, row in enumerate(table):
        assert row.split() == [CLASSES[number], *(f"{score[number]:.3f}" for score in scores)]


def test_the_error_layer_is_clear_where_labels_agree(browser: Any, port: int) -> None:
    with opened(browser, port, "&o=0&l=prediction") as page:
        page.settle()
        clear = page.picture()[200:500, 450:900]
        assert len(np.unique(clear.reshape(-1, 3), axis=0)) == 1
        page.page.get_by_role("checkbox", name="Errors").check()
        page.draw()
        seen = page.picture()[200:500, 450:900]
        shown = (seen != clear[0, 0]).any(axis=-1)
        assert 0.1 < shown.mean() < 0.99
        page.until("location.hash.includes('l=prediction,errors')")


# Use this layer in ...


def test_every_client_gets_a_text_with_the_present_styling(browser: Any, port: int) -> None:
    with opened(browser, port) as page:
        page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.settle()
        page.page.get_by_label("forest", exact=True).uncheck()
        page.page.get_by_label("Confidence").fill("50")
        page.page.get_by_role("button", name="Use this layer in").click()
        texts = {
            section.get_attribute("data-client"): section.locator("pre").inner_text()
            for section in page.page.locator("#snippets section").all()
        }
        page.page.get_by_role("button", name="Copy for QGIS (XYZ)").click()
        page.until("[...document.querySelectorAll('#snippets button')].some(button => button.textContent === 'Copied')")
        assert page.tell("navigator.clipboard.readText()") == texts["QGIS (XYZ)"]
        page.page.keyboard.press("Escape")
        assert page.page.locator("#use-dialog").is_hidden()
    clients = {"XYZ", "TileJSON", "Leaflet", "OpenLayers", "MapLibre", "QGIS (XYZ)", "QGIS (WMTS)", "ArcGIS", "GDAL"}
    assert clients | {"Notebook (leafmap)", "Notebook (folium)"} == set(texts)
    tile = MERCATOR._tile(*MERCATOR.xy(LON, LAT), ZOOM)
    xyz = texts["XYZ"].replace("{z}", str(tile.z)).replace("{x}", str(tile.x)).replace("{y}", str(tile.y))
    shown = rgba(httpx.get(xyz).content)
    plain = rgba(httpx.get(xyz.split("?")[0]).content)
    assert (shown[..., 3] > 0).sum() < (plain[..., 3] > 0).sum()
    assert set(parse_qs(urlsplit(xyz).query)) == {"class", "threshold"}
    assert unquote(parse_qs(texts["QGIS (XYZ)"])["url"][0]) == texts["XYZ"]
    for name in ("Leaflet", "OpenLayers", "MapLibre", "Notebook (leafmap)", "Notebook (folium)"):
        assert texts["XYZ"] in texts[name], name
    assert httpx.get(texts["TileJSON"]).json()["tiles"] == [texts["XYZ"]]
    wmts = httpx.get(texts["QGIS (WMTS)"])
    assert wmts.status_code == 200 and "threshold=0.5" in wmts.text


def test_gdal_reads_what_the_dialog_gives(browser: Any, port: int) -> None:
    with opened(browser, port) as page:
        page.settle()
        page.page.locator("#map").focus()
        page.page.keyboard.press("u")
        xml = page.page.locator("section[data-client=GDAL] pre").inner_text()
    with rasterio.open(xml) as dataset:
        row, col = dataset.index(1000 + 400.3 * RES, 5000 - 350.3 * RES)
        window = rasterio.windows.Window(col - 50, row - 50, 100, 100)
        pixels = dataset.read(window=window)
    tile = MERCATOR._tile(*MERCATOR.xy(LON, LAT), ZOOM)
    there = rgba(httpx.get(f"http://127.0.0.1:{port}/field/cover/{tile.z}/{tile.x}/{tile.y}.png").content)
    left, top = MERCATOR.xy_bounds(tile).left, MERCATOR.xy_bounds(tile).top
    x, y = int((1000 + 400.3 * RES - left) / RES), int((top - 5000 + 350.3 * RES) / RES)
    assert tuple(pixels[:, 50, 50]) == tuple(there[y, x])


# Embedding, policy, access


def test_another_page_frames_it_and_hears_of_the_view(browser: Any, port: int) -> None:
    with tab(browser, port, "static/docs.html") as page:
        page.expected = ("404", "Failed to load")  # its relative addresses lead nowhere from there
        page.complaints.clear()
        page.tell(
            """src => { window.heard = []; addEventListener('message', event => heard.push(event.data));
            const frame = document.createElement('iframe'); frame.width = 800; frame.height = 500; frame.src = src;
            document.body.replaceChildren(frame); }""",
            f"/?embed=1#{PLACE}",
        )
        page.until("heard.length > 0 && heard.at(-1).view.bounds")
        first = page.tell("heard.at(-1)")
        assert first["type"] == "titiler-inference:view" and first["layer"]["scene"] == "field"
        assert abs(first["view"]["zoom"] - ZOOM) < 0.01 and abs(first["view"]["lon"] - LON) < 1e-4
        frame = page.page.frames[1]
        assert not frame.locator("#panel").is_visible()
        page.tell(
            "frames[0].postMessage({type: 'titiler-inference:set', view: {lon: 0.012, lat: 0.043, zoom: 17}}, '*')"
        )
        page.until("Math.abs(heard.at(-1).view.zoom - 17) < 0.01 && Math.abs(heard.at(-1).view.lon - 0.012) < 1e-4")


def test_who_may_frame_the_page_is_the_operators_word(port: int) -> None:
    policy = httpx.get(f"http://127.0.0.1:{port}/").headers["content-security-policy"]
    assert "frame-ancestors 'self' http://127.0.0.1:*" in policy
    assert "unsafe" not in policy and "default-src 'none'" in policy and "script-src 'self';" in policy


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_axe_finds_no_serious_fault(browser: Any, port: int, axe: str, width: int, scheme: str) -> None:
    size = {"width": width, "height": 760}
    with opened(browser, port, viewport=size, color_scheme=scheme) as page:
        page.settle()
        page.tell("document.querySelectorAll('#panel details:not([hidden])').forEach(node => { node.open = true; })")
        page.page.get_by_role("button", name="This view").click()
        page.page.locator("#area-answer table").wait_for()
        page.page.get_by_role("button", name="Compare with labels").click()
        page.page.locator("#accuracy-answer .matrix").wait_for()
        page.page.locator("#map").focus()
        page.page.keyboard.press("Enter")
        page.page.locator(".bars li").first.wait_for()
        page.tell(f"(() => {{ {axe} }})()")
        for dialog in (None, "use", "help"):
            if dialog:
                page.tell(f"document.getElementById('{dialog}').click()")
            found = page.tell("axe.run().then(result => result.violations)")
            serious = [
                (item["id"], item["nodes"][0]["html"]) for item in found if item["impact"] in ("serious", "critical")
            ]
            assert serious == [], dialog
            page.tell("document.querySelector('dialog[open]')?.close()")
        wide = page.tell("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], "nothing hangs over the side"


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core by npm; skips by name without it."""
    folder, npm = tmp_path_factory.mktemp("axe"), shutil.which("npm")
    if npm is None:
        pytest.skip("no npm to fetch axe-core with")
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "axe-core@4.10.3"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip("axe-core cannot be fetched")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def test_everything_can_be_reached_by_tab(browser: Any, port: int) -> None:
    with opened(browser, port) as page:
        page.settle()
        wanted = set(page.tell(
            "[...document.querySelectorAll('#panel :is(button, summary, input[type=range], input[type=checkbox])')]"
            ".filter(node => node.checkVisibility()).map(node => node.id || node.textContent || node.value)"
        ))  # fmt: skip
        seen = set()
        for _ in range(60):
            page.page.keyboard.press("Tab")
            seen.add(page.tell("(node => node.id || node.textContent || node.value)(document.activeElement)"))
        assert wanted <= seen, wanted - seen


def test_the_page_weighs_less_than_450_kb(browser: Any, port: int) -> None:
    with opened(browser, port) as page:
        page.settle()
        urls = {url.split("#")[0] for url in page.asked if url.startswith("http")}
    own = {url for url in urls if not re.search(r"\.png", url)}
    sizes = {urlsplit(url).path: len(gzip.compress(httpx.get(url).content, 9)) for url in own}
    assert any(path.endswith("ol.js") for path in sizes) and len(sizes) > 15
    assert sum(sizes.values()) <= 450_000, sizes


def test_the_api_page_works_from_here(browser: Any, port: int) -> None:
    with tab(browser, port, "docs") as page:
        page.page.locator(".opblock").first.wait_for()
        assert page.page.get_by_text("titiler-inference").first.is_visible()
    assert any("swagger-ui-bundle.js" in url for url in page.asked)


def test_without_the_map_library_the_page_says_what_to_run(browser: Any, port: int) -> None:
    page = Tab(browser, port, None)  # type: ignore[arg-type]
    page.page.route("**/ol.js", lambda route: route.fulfill(status=200, content_type="text/javascript", body=""))
    page.page.goto(f"http://127.0.0.1:{port}/")
    page.page.locator("#message", has_text=vendor.COMMAND).wait_for()
    page.close()
