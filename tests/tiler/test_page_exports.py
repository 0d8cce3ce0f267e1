"""The page's export panel, against a stand-in that keeps to the contract of `/exports`: the page is what is tested."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import MERCATOR, RES, ZOOM, landscape, write_scene
from tests.tiler.pages import browsing, tab
from tests.tiler.servers import serving
from tiler.app import create_app
from tiler.settings import Settings

pytestmark = pytest.mark.slow

LON, LAT = MERCATOR.lnglat(1000 + 100.3 * RES, 5000 - 100.3 * RES)


class Jobs:
    """Jobs that get one block further each time somebody looks, and stop at `until` of four."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.done: dict[str, int] = {}
        self.cancelled: set[str] = set()
        self.until = 4

    def state(self, name: str) -> dict[str, Any]:
        done = self.done[name]
        files = [{"name": "out.tif", "href": f"exports/{name}/out.tif", "size": 12}] if done == 4 else []
        status = "cancelled" if name in self.cancelled else "finished" if done == 4 else "running"
        return {
            "id": name, "status": status, "blocks": 4, "done": done, "pixels_per_second": 2e6, "seconds_left": 4 - done,
            "files": files,
        }  # fmt: skip


def application(inner: FastAPI, jobs: Jobs) -> FastAPI:
    app = FastAPI()

    @app.get("/api/features")
    async def features() -> dict[str, bool]:
        return {"exports": True}

    @app.get("/exports")
    async def known() -> list[Any]:
        return []

    @app.post("/exports")
    async def begin(request: Request) -> JSONResponse:
        jobs.asked.append(await request.json())
        name = f"job{len(jobs.asked)}"
        jobs.done[name] = 0
        return JSONResponse({"id": name, "status": "queued", "links": []}, 202)

    @app.get("/exports/{name}")
    async def look(name: str) -> dict[str, Any]:
        if name not in jobs.cancelled:
            jobs.done[name] = min(jobs.until, jobs.done[name] + 1)
        return jobs.state(name)

    @app.delete("/exports/{name}")
    async def cancel(name: str) -> Response:
        jobs.cancelled.add(name)
        return Response(status_code=202)

    @app.get("/exports/{name}/out.tif")
    async def file(name: str) -> Response:
        return Response(b"II*\0 a file", media_type="image/tiff")

    app.mount("/", inner)
    return app


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as made:
        yield made


def test_an_export_is_begun_watched_cancelled_and_fetched(
    browser: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, jobs = tmp_path_factory.mktemp("exports"), Jobs()
    model = write_model(
        folder / "cover", conv_chain(layers=1, classes=3), classes=list("abc"), gsd=round(RES, 4), exactness="exact",
        window={"multiple": 1, "period": 1, "halo": 1},
    )  # fmt: skip
    scenes = {"field": {"path": str(write_scene(folder / "scene.tif", landscape(200, 200)))}}
    inner = create_app(Settings(scenes=scenes, models={"cover": str(model)}))
    with serving(application(inner, jobs)) as port, tab(browser, port, f"#{ZOOM}/{LAT}/{LON}") as page:
        page.settle()
        page.page.locator("#export summary").click()
        page.page.get_by_role("button", name="Export", exact=True).click()
        line = page.page.locator("#export-jobs li").first
        line.get_by_role("link", name="out.tif").wait_for()
        assert line.get_attribute("data-status") == "finished"
        with page.page.expect_download() as told:
            line.get_by_role("link", name="out.tif").click()
        assert told.value.suggested_filename == "out.tif"
        asked = jobs.asked[0]
        assert asked["scene"] == "field" and asked["output"] == "class" and asked["model"].startswith("cover@")
        west, south, east, north = asked["bbox"]
        assert west < LON < east and south < LAT < north

        jobs.until = 2
        page.page.locator("#export-what").select_option("scene")
        page.page.locator("#export-output").select_option("probability")
        page.page.get_by_label("Polygons as well").check()
        page.page.get_by_role("button", name="Export", exact=True).click()
        line = page.page.locator("#export-jobs li[data-job=job2]")
        page.until("document.querySelector('[data-job=job2] progress')?.value === 0.5")
        assert "2/4" in line.text_content() and "2.0 Mpx/s" in line.text_content() and "2 s left" in line.text_content()
        line.get_by_role("button", name="Cancel").click()
        page.until("document.querySelector('[data-job=job2]').dataset.status === 'cancelled'")
        assert {"bbox", "aoi"}.isdisjoint(jobs.asked[1])
        assert jobs.asked[1]["vector"] is True and jobs.asked[1]["output"] == "probability"


def test_there_is_no_panel_where_exports_are_off(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("off")
    model = write_model(
        folder / "cover", conv_chain(layers=1, classes=3), classes=list("abc"), gsd=round(RES, 4), exactness="exact",
        window={"multiple": 1, "period": 1, "halo": 1},
    )  # fmt: skip
    scenes = {"field": {"path": str(write_scene(folder / "scene.tif", landscape(200, 200)))}}
    app = create_app(Settings(scenes=scenes, models={"cover": str(model)}))
    if any(getattr(route, "path", "") == "/exports" for route in app.routes):
        pytest.skip("this server offers exports by itself")
    with serving(app) as port, tab(browser, port, f"#{ZOOM}/{LAT}/{LON}") as page:
        page.settle()
        assert page.page.locator("#export").is_hidden()
