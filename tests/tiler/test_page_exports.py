"""The page's export panel against the server's own exports."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import rasterio

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import MERCATOR, RES, ZOOM, landscape, write_scene
from tests.tiler.pages import EXACT, tab
from tests.tiler.servers import serving
from tiler.app import create_app
from tiler.settings import Settings

pytestmark = pytest.mark.slow

LON, LAT = MERCATOR.lnglat(1000 + 200.3 * RES, 5000 - 200.3 * RES)
PLACE = f"#{ZOOM}/{LAT}/{LON}"


def settings(folder: Path, size: int = 400, **more: Any) -> Settings:
    model = write_model(folder / "cover", conv_chain(layers=2, classes=3), classes=list("abc"), **EXACT)
    scenes = {"field": {"path": str(write_scene(folder / "scene.tif", landscape(size, size)))}}
    return Settings(scenes=scenes, models={"cover": str(model)}, materialised=str(folder / "told"), **more)


def test_an_export_is_begun_watched_and_fetched(browser: Any, tmp_path: Path) -> None:
    app = create_app(settings(tmp_path, exports=tmp_path / "exports", export_token="open sesame"))
    with serving(app) as port, tab(browser, port, PLACE) as page:
        page.expected = ("401",)
        page.settle()
        page.page.locator("#export summary").click()
        page.page.locator("#export-what").select_option("scene")
        page.page.locator("#export-output").select_option("confidence")
        page.page.get_by_label("Polygons as well").check()
        export = page.page.get_by_role("button", name="Export", exact=True)
        export.click()
        page.page.get_by_label("Token").fill("open sesame")
        export.click()
        line = page.page.locator("#export-jobs li[data-status=finished]")
        page.until("document.querySelector('#export-jobs li[data-status]')?.dataset.status === 'finished'")
        names = {text.split(" ")[0] for text in line.get_by_role("link").all_inner_texts()}
        (raster,) = [name for name in names if name.endswith(".tif") and not name.endswith("_confidence.tif")]
        assert raster.replace(".tif", "_confidence.tif") in names and any(name.endswith(".gpkg") for name in names)
        with page.page.expect_download() as told:
            line.get_by_role("link", name=raster).click()
        with rasterio.open(told.value.path()) as dataset:
            exported = dataset.read(1)
        box = f"1000,{5000 - 400 * RES},{1000 + 400 * RES},5000"
        served = httpx.get(
            f"http://127.0.0.1:{port}/field/cover/bbox/{box}/400x400.npy",
            params={"coord_crs": "EPSG:3857", "dst_crs": "EPSG:3857"},
        )
        np.testing.assert_array_equal(exported, np.load(io.BytesIO(served.content))[0])


def test_an_export_is_cancelled(browser: Any, tmp_path: Path) -> None:
    app = create_app(settings(tmp_path, size=6000, exports=tmp_path / "exports"))
    with serving(app) as port, tab(browser, port, PLACE) as page:
        page.settle()
        page.page.locator("#export summary").click()
        page.page.locator("#export-what").select_option("scene")
        page.page.get_by_role("button", name="Export", exact=True).click()
        line = page.page.locator("#export-jobs li")
        line.get_by_role("button", name="Cancel").click()
        page.page.locator("#export-jobs li[data-status=cancelled]").wait_for()
        page.until("document.querySelector('#export-jobs a') === null")


def test_there_is_no_panel_where_exports_are_off(browser: Any, tmp_path: Path) -> None:
    with serving(create_app(settings(tmp_path))) as port, tab(browser, port, PLACE) as page:
        page.settle()
        assert page.page.locator("#export").is_hidden()
        assert not [url for url in page.asked if "/exports" in url and "/static/" not in url]
