"""The page draws class numbers in colours of its own: right pixels, and no request for a toggle, a colour, a slider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import MERCATOR, RES, ZOOM, landscape, rgba, write_scene
from tests.tiler.pages import EXACT, Tab, tab
from tests.tiler.servers import serving
from tiler.app import create_app
from tiler.settings import Settings

pytestmark = pytest.mark.slow

CLASSES = ["water", "forest", "soil", "roof", "road"]
BARE = "&o=100&l=prediction"  # the prediction alone, opaque
BOTH = pytest.mark.parametrize("mode", ["webgl", "canvas"])


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("palette")
    scene = write_scene(folder / "scene.tif", landscape(700, 800))
    model = write_model(folder / "cover", conv_chain(layers=2, classes=5), classes=CLASSES, **EXACT)
    with serving(create_app(Settings(scenes={"field": {"path": str(scene)}}, models={"cover": str(model)}))) as number:
        yield number


def middle_tile() -> Any:
    return MERCATOR._tile(1000 + 400 * RES, 5000 - 350 * RES, ZOOM)


def opened(browser: Any, port: int, mode: str = "webgl", more: str = BARE, **options: Any) -> Any:
    lon, lat = MERCATOR.lnglat(1000 + 400 * RES, 5000 - 350 * RES)
    query = "?canvas=1" if mode == "canvas" else ""
    return tab(browser, port, f"{query}#{ZOOM}/{lat}/{lon}{more}", **options)


def server_tile(port: int, query: str = "") -> np.ndarray:
    item = middle_tile()
    answer = httpx.get(f"http://127.0.0.1:{port}/field/cover/{item.z}/{item.x}/{item.y}.png{query}")
    assert answer.status_code == 200
    return rgba(answer.content)


def drawn_tile(page: Tab) -> np.ndarray:
    """The pixels of the middle tile as they stand on the screen."""
    item, page_pixels = middle_tile(), page.picture()
    bounds = MERCATOR.bounds(item)
    x, y = page.pixel_of(bounds.left, bounds.top)
    return page_pixels[y : y + 256, x : x + 256]


def same(drawn: np.ndarray, wanted: np.ndarray) -> float:
    """Share of pixels of exactly the wanted colour."""
    return float((drawn == wanted[..., :3])[wanted[..., 3] > 0].all(axis=-1).mean())


@BOTH
def test_the_screen_shows_the_servers_own_colours_pixel_by_pixel(browser: Any, port: int, mode: str) -> None:
    with opened(browser, port, mode) as page:
        page.settle()
        assert page.tell("viewer.prediction.webgl") == (mode == "webgl")
        wanted = server_tile(port)
        assert same(drawn_tile(page), wanted) > 0.999 and len(np.unique(wanted[..., :3].reshape(-1, 3), axis=0)) == 5
        assert all("output=class_confidence" in url for url in page.tiles())


@BOTH
def test_a_class_is_hidden_without_a_request(browser: Any, port: int, mode: str) -> None:
    with opened(browser, port, mode) as page:
        page.settle()
        before = len(page.asked)
        page.page.get_by_label("forest", exact=True).uncheck()
        page.draw()
        wanted, drawn = server_tile(port, "?class=water,soil,roof,road"), drawn_tile(page)
        assert same(drawn, wanted) > 0.999
        forest = (wanted[..., 3] == 0) & (server_tile(port)[..., 3] > 0)
        assert forest.sum() > 500 and len(np.unique(drawn[forest], axis=0)) == 1, "the page's own background"
        page.page.get_by_label("forest", exact=True).check()
        page.draw()
        assert same(drawn_tile(page), server_tile(port)) > 0.999
        assert page.asked[before:] == []


@BOTH
def test_a_class_is_recoloured_without_a_request(browser: Any, port: int, mode: str) -> None:
    with opened(browser, port, mode) as page:
        page.settle()
        before = len(page.asked)
        page.page.get_by_label("Colour of water").fill("#ff00ff")
        page.draw()
        wanted = server_tile(port).copy()
        water = (wanted == server_tile(port, "?class=water")).all(axis=-1) & (wanted[..., 3] > 0)
        wanted[water] = (255, 0, 255, 255)
        assert water.sum() > 500 and same(drawn_tile(page), wanted) > 0.999
        assert page.asked[before:] == []
        page.until("location.hash.includes('k=0:ff00ff')")


@BOTH
def test_the_slider_hides_what_is_less_sure_without_a_request(browser: Any, port: int, mode: str) -> None:
    with opened(browser, port, mode) as page:
        page.settle()
        before = len(page.asked)
        whole = server_tile(port)
        page.page.get_by_label("Confidence").fill("60")
        page.draw()
        wanted, drawn = server_tile(port, "?threshold=0.6"), drawn_tile(page)
        # A step of the tile is 1/254: what lies within it of the threshold may fall to either side.
        assert same(drawn, wanted) > 0.99
        gone = (wanted[..., 3] == 0) & (whole[..., 3] > 0)
        assert 0.02 < gone.mean() < 0.98
        assert (drawn[gone] == whole[gone][:, :3]).all(axis=-1).mean() < 0.02
        assert page.asked[before:] == []
        page.until("location.hash.includes('t=60')")


def test_toggle_slider_and_swipe_compile_no_shader_and_ask_for_nothing(browser: Any, port: int) -> None:
    """So that they cost no more than a frame in which nothing changes; the time is in `benchmarks/RESULTS.md`."""
    count = """() => {
      window.did = {links: 0, frames: 0};
      for (const {prototype} of [WebGLRenderingContext, WebGL2RenderingContext]) {
        const link = prototype.linkProgram;
        prototype.linkProgram = function (...given) { did.links += 1; return link.apply(this, given); };
      }
      viewer.map.on('postrender', () => { did.frames += 1; });
    }"""
    with opened(browser, port, more=f"{BARE}&mode=swipe") as page:
        page.settle()
        page.page.wait_for_timeout(300)  # what follows a view that has come to rest
        page.tell(count)
        before = len(page.asked)
        for share in ("20", "30"):
            page.page.get_by_label("Swipe: imagery left").fill(share)
        page.tell("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page.tell("did") == {"links": 0, "frames": 0}, "a clip moves, and nothing is drawn"
        page.page.get_by_label("forest", exact=True).uncheck()
        page.page.get_by_label("Confidence").fill("60")
        page.draw()
        assert page.tell("did.links") == 0 < page.tell("did.frames")
        assert page.asked[before:] == []
        page.page.get_by_label("Colour of water").fill("#ff00ff")  # another palette: a shader of its own
        page.draw()
        assert page.tell("did.links") > 0


def test_two_pixels_per_point_are_asked_for_on_a_sharp_screen(browser: Any, port: int) -> None:
    with opened(browser, port, device_scale_factor=2) as page:
        page.settle()
        assert page.tiles() and all("@2x.png" in url for url in page.tiles())
        size = page.tell("[...viewer.prediction.loader.kept.values()].map(tile => tile.width)")
        assert set(size) == {512}


def test_tiles_in_the_models_own_colours_become_numbers_too(browser: Any, port: int) -> None:
    """What was materialised has no confidence; below the live zooms the page reads the colours."""
    with opened(browser, port) as page:
        page.settle()
        page.tell("viewer.prediction.liveFrom = 99; viewer.prediction.loader.kept.clear(); viewer.prediction.retry()")
        page.page.get_by_label("soil", exact=True).uncheck()
        page.settle()
        assert "output=class_confidence" not in page.tiles()[-1]
        assert same(drawn_tile(page), server_tile(port, "?class=water,forest,roof,road")) > 0.999
        before = len(page.asked)
        page.page.get_by_label("Confidence").fill("90")
        page.draw()
        assert same(drawn_tile(page), server_tile(port, "?class=water,forest,roof,road")) > 0.999
        assert page.asked[before:] == []
