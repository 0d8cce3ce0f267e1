"""The examples of Leaflet, OpenLayers and MapLibre in Chromium: all at its place, in its colour, nothing elsewhere."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
from numpy.typing import NDArray

from tests.clients.browser import Seen, corners, opened, ready, show
from tests.clients.places import COLORS, PLACES, VALUES, Place, misplaced, replace_model, write_classifier
from tests.clients.server import Server, running

pytestmark = pytest.mark.slow

LIBRARIES = ("leaflet", "openlayers", "maplibre")
ZOOM = 18


def wrong_pixels(
    page: Any, library: str, place: Place, picture: NDArray[np.uint8], margin: float, **options: Any
) -> int:
    """Pixels of a picture that show something else than they must."""
    to_mercator = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True)
    (left, top), (right, bottom) = (to_mercator.transform(*corner) for corner in corners(page, library))
    height, width, _ = picture.shape

    def coordinates(xs: NDArray[Any], ys: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        return left + xs / width * (right - left), top + ys / height * (bottom - top)

    wrong, compared = misplaced(picture, place, coordinates, "EPSG:3857", margin=margin, **options)
    assert compared > picture[..., 0].size / 2
    return wrong


def zoom_of(tile: str) -> int:
    """Zoom in a tile's address, /{scene}/{model}@{revision}/{z}/{x}/{y}.png."""
    return int(tile.split("/")[5])


def clean(seen: Seen) -> None:
    """No page may have complained, or asked for what is not there or not on this machine."""
    assert seen.errors == [] and seen.failed == []


@pytest.mark.parametrize("scene", PLACES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_map_shows_every_class_at_its_place_and_nothing_outside(
    library: str, scene: str, browser: Any, pages: str, server: Server
) -> None:
    place = PLACES[scene]
    with opened(browser, f"{pages}/{library}.html?server={server.address}/{scene}/landcover") as (page, seen):
        picture = show(page, library, place.center, ZOOM)
        # 1.5 px of the screen, in pixels of the scene.
        assert wrong_pixels(page, library, place, picture, margin=1.5) == 0
        clean(seen)
        pinned = server.tilejson(scene)["tiles"][0].partition("{z}")[0]
        assert seen.tiles(pinned), "a tile's address names the revision"
        # Shifted by three pixels of the screen the same picture is wrong.
        assert wrong_pixels(page, library, place, np.roll(picture, 4, axis=1), margin=1.5) > 100


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_sharp_screen_gets_sharp_tiles(library: str, browser: Any, pages: str, server: Server) -> None:
    place = PLACES["utm"]
    address = f"{pages}/{library}.html?server={server.address}/utm/landcover"
    with opened(browser, address, sharp=2) as (page, seen):
        picture = show(page, library, place.center, ZOOM)
        assert picture.shape == (1200, 1600, 3)
        assert wrong_pixels(page, library, place, picture, margin=0.75) == 0
        tiles = seen.tiles(server.address)
        assert tiles and all("@2x.png" in tile for tile in tiles)
        clean(seen)


@pytest.mark.parametrize("library", LIBRARIES)
def test_tiles_of_512_px_are_one_zoom_up_and_show_the_same(
    library: str, browser: Any, pages: str, server: Server
) -> None:
    """A tile of 512 px shows what four of 256 px do: a quarter of the requests."""
    place = PLACES["utm"]
    for size, zoom in ((256, ZOOM), (512, ZOOM - 1)):
        address = f"{pages}/{library}.html?server={server.address}/utm/landcover&tilesize={size}"
        with opened(browser, address) as (page, seen):
            picture = show(page, library, place.center, ZOOM)
            assert wrong_pixels(page, library, place, picture, margin=1.5) == 0
            tiles = seen.tiles(server.address)
            assert zoom in set(map(zoom_of, tiles))
            assert all(tile.endswith(".png?tilesize=512" if size == 512 else ".png") for tile in tiles)
            clean(seen)


@pytest.mark.parametrize("library", LIBRARIES)
def test_nothing_is_asked_for_outside_of_the_scene(library: str, browser: Any, pages: str, server: Server) -> None:
    """Bounds of the TileJSON limit what a client asks for; a view beside the scene is empty and free."""
    lon, lat = PLACES["utm"].center
    address = f"{pages}/{library}.html?server={server.address}/utm/landcover"
    with opened(browser, address) as (page, seen):
        show(page, library, (lon, lat), ZOOM)
        before = len(seen.tiles(server.address))
        picture = show(page, library, (lon + 0.1, lat), ZOOM)
        assert len(seen.tiles(server.address)) == before
        assert np.array_equal(np.unique(picture.reshape(-1, 3), axis=0), [[255, 0, 255]])
        clean(seen)


@pytest.mark.parametrize("library", LIBRARIES)
def test_closer_than_the_deepest_zoom_the_client_enlarges_by_itself(
    library: str, browser: Any, pages: str, server: Server
) -> None:
    place = PLACES["utm"]
    deepest = server.tilejson("utm")["maxzoom"]
    with opened(browser, f"{pages}/{library}.html?server={server.address}/utm/landcover") as (page, seen):
        picture = show(page, library, place.center, deepest + 1)
        assert max(map(zoom_of, seen.tiles(server.address))) == deepest
        # A pixel of the tile is two of the screen here.
        assert wrong_pixels(page, library, place, picture, margin=1.5) == 0
        clean(seen)


def test_after_a_reload_the_new_revision_is_seen(
    browser: Any, pages: str, scenes: dict[str, Path], tmp_path: Path
) -> None:
    """Leaflet and OpenLayers keep tiles in memory whatever the headers say: the address has to change, and does."""
    model, place = write_classifier(tmp_path / "landcover"), PLACES["utm"]
    with running(tmp_path, {"utm": scenes["utm"]}, {"landcover": model}) as server, ExitStack() as stack:
        shown = {
            library: stack.enter_context(opened(browser, f"{pages}/{library}.html?server={server.address}"))
            for library in LIBRARIES
        }
        for library, (page, _) in shown.items():
            assert wrong_pixels(page, library, place, show(page, library, place.center, ZOOM), margin=1.5) == 0
        replace_model(model, write_classifier(tmp_path / "fresh", VALUES[::-1]))
        server.reload("utm")
        for library, (page, seen) in shown.items():
            # What is open goes on, with what it has.
            lon, lat = place.center
            again = show(page, library, (lon + 1e-5, lat), ZOOM)
            assert wrong_pixels(page, library, place, again, margin=1.5) == 0
            page.reload()
            ready(page)
            picture = show(page, library, place.center, ZOOM)
            assert wrong_pixels(page, library, place, picture, margin=1.5, colors=COLORS[::-1]) == 0, library
            clean(seen)
