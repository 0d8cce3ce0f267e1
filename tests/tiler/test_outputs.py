"""Answers that are no classes, through HTTP: a regression and an embedding at every door, against a pass of our own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rio_tiler.colormap import cmap

from model_registry.artifacts import checksum_of
from model_registry.components import fit_components, project, to_json
from model_registry.testing import conv_chain, strided_unet, write_model
from tests.tiler.helpers import (
    MERCATOR,
    RES,
    ZOOM,
    Host,
    host,
    landscape,
    rgba,
    scene_pixels_of_tile,
    tiles_over,
    whole_scores,
    write_scene,
)
from tiler.app import create_app
from tiler.settings import Settings

HEIGHT, WIDTH, CHANNELS = 300, 400, 16
PIXELS = landscape(HEIGHT, WIDTH)
HOLE = (slice(100, 160), slice(200, 300))
VALUE = {"name": "canopy height", "unit": "m", "range": [10, 30], "scale": 5, "offset": 20, "clip": [8, None]}
TOLERANCE = 1e-5


def scaled() -> NDArray[np.float32]:
    pixels = PIXELS.astype(np.float32) / 255
    pixels[:, HOLE[0], HOLE[1]] = 0  # what stands in for missing pixels
    return pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    """A scene with a hole."""
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[HOLE] = False
    return write_scene(folder / "scene.tif", PIXELS, mask=mask)


@pytest.fixture(scope="module")
def expected(folder: Path, models: dict[str, Path]) -> dict[str, NDArray[np.float32]]:
    """Values [channels, rows, cols] of one pass over everything."""
    heights = whole_scores(models["height"] / "model.onnx", scaled(), pad=16, multiple=4)
    return {
        "height": np.maximum(heights * 5 + 20, 8),
        "embedding": whole_scores(models["embedding"] / "model.onnx", scaled(), pad=16),
    }


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, Path]:
    gsd = round(RES, 4)
    height = write_model(
        folder / "height", strided_unet(depth=2, classes=1), tasks=["regression"], gsd=gsd, output={"value": VALUE}
    )
    network = conv_chain(layers=3, classes=CHANNELS)
    plain = write_model(folder / "plain", network, tasks=["feature-extraction"], channels=CHANNELS, gsd=gsd)
    vectors = whole_scores(plain / "model.onnx", PIXELS.astype(np.float32) / 255, pad=16)
    data = to_json(fit_components([vectors]))
    block = {"href": "components.json", "checksum": checksum_of(data)}
    embedding = write_model(
        folder / "embedding", network, tasks=["embedding"], channels=CHANNELS, gsd=gsd, output={"components": block}
    )
    (embedding / "components.json").write_bytes(data)
    return {"height": height, "embedding": embedding, "plain": plain}


@pytest.fixture(scope="module")
def served(models: dict[str, Path]) -> Iterator[Host]:
    made = host(models)
    yield made
    made.extension.engine.close()


@pytest.fixture(scope="module")
def fresh(models: dict[str, Path], folder: Path) -> Iterator[Host]:
    """A host whose models have never been asked for anything that they can answer."""
    cover = write_model(folder / "cover", conv_chain(layers=2, classes=3), classes=list("abc"), gsd=round(RES, 4))
    made = host({**models, "cover": cover})
    yield made
    made.extension.engine.close()


@pytest.fixture(scope="module")
def tile() -> str:
    """The tile over the scene's hole, at whose centre is pixel (130, 250)."""
    found = MERCATOR._tile(1000 + 250 * RES, 5000 - 130 * RES, ZOOM)
    return f"{found.z}/{found.x}/{found.y}"


def path(model: str, tile: Any, end: str = ".png") -> str:
    place = tile if isinstance(tile, str) else f"{tile.z}/{tile.x}/{tile.y}"
    return f"{model}/tiles/WebMercatorQuad/{place}{end}"


def under(scene: Path, tile: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Rows, columns of the scene under a tile's pixels, and where it has data there."""
    z, x, y = map(int, tile.split("/"))
    rows, cols, inside = scene_pixels_of_tile(scene, type(tiles_over(scene)[0])(x, y, z), 256)
    hole = (rows >= 100) & (rows < 160) & (cols >= 200) & (cols < 300)
    return rows, cols, inside & ~hole


def lonlat(row: int, col: int) -> str:
    lon, lat = MERCATOR.lnglat(1000 + (col + 0.5) * RES, 5000 - (row + 0.5) * RES)
    return f"{lon:.9f},{lat:.9f}"


# No seams


@pytest.mark.parametrize("model", ["height", "embedding"])
def test_tiles_equal_one_pass_over_the_whole_scene(
    served: Host, scene: Path, expected: dict[str, NDArray[np.float32]], model: str
) -> None:
    wanted = expected[model]
    assert wanted.std() > 0.5
    seen = np.zeros(wanted.shape[1:], bool)
    for item in tiles_over(scene):
        *values, mask = served.npy(path(model, item, ".npy"), scene)
        rows, cols, valid = under(scene, f"{item.z}/{item.x}/{item.y}")
        np.testing.assert_array_equal(mask == 255, valid)
        got = np.stack(values)[:, valid]
        assert np.abs(got - wanted[:, rows[valid], cols[valid]]).max() < TOLERANCE * np.abs(wanted).max()
        seen[rows[valid], cols[valid]] = True
    assert seen.sum() == HEIGHT * WIDTH - 60 * 100


def test_the_measured_halo_is_the_networks_own(served: Host) -> None:
    for name, halo in (("height", 12), ("embedding", 3)):
        model = served.extension.catalog.model(name).model
        assert (model.exactness, model.window.halo) == ("exact", halo)


# Pictures


def test_a_value_is_painted_by_the_ramp_over_the_models_range(
    served: Host, scene: Path, tile: str, expected: dict[str, NDArray[np.float32]]
) -> None:
    answer = served.get(path("height", tile), scene)
    assert answer.headers["content-type"] == "image/png" and answer.content[25] == 3, "an indexed PNG"
    picture = rgba(answer.content)
    rows, cols, valid = under(scene, tile)
    assert (picture[..., 3][~valid] == 0).all() and (picture[..., 3][valid] == 255).all()
    share = np.clip((expected["height"][0, rows[valid], cols[valid]] - 10) / 20, 0, 1)
    ramp = np.asarray([color for _, color in sorted(cmap.get("viridis").items())])
    differs = np.abs(picture[valid].astype(int) - ramp[np.round(share * 254).astype(int)]).max(axis=1)
    assert (differs > 0).mean() < 1e-3 and differs.max() <= 8, "but for a step where rounding decides"
    assert len(np.unique(picture[valid], axis=0)) > 100


def test_the_users_ramp_and_range_win(served: Host, scene: Path, tile: str) -> None:
    plain = rgba(served.get(path("height", tile), scene).content)
    other = rgba(served.get(path("height", tile), scene, colormap_name="magma").content)
    wide = rgba(served.get(path("height", tile), scene, rescale="0,1000").content)
    rows, cols, valid = under(scene, tile)
    assert (plain[valid] != other[valid]).any(axis=1).mean() > 0.9
    assert len(np.unique(wide[valid], axis=0)) < 15
    values = served.npy(path("height", tile, ".npy"), scene)[0]
    intervals = "[[[0, 20], [255, 0, 0, 255]], [[20, 1000], [0, 0, 255, 255]]]"
    two = rgba(served.get(path("height", tile), scene, colormap=intervals).content)
    np.testing.assert_array_equal(two[valid][:, 0] == 255, values[valid] < 20)
    webp = rgba(served.get(path("height", tile, ".webp"), scene).content)
    np.testing.assert_array_equal(webp[valid], plain[valid])


def test_an_embedding_is_shown_by_its_three_components(
    served: Host, scene: Path, tile: str, models: dict[str, Path], expected: dict[str, NDArray[np.float32]]
) -> None:
    picture = rgba(served.get(path("embedding", tile), scene).content)
    rows, cols, valid = under(scene, tile)
    assert (picture[..., 3][~valid] == 0).all() and (picture[..., 3][valid] == 255).all()
    shown = served.extension.catalog.model("embedding").model.values.components
    low, high = (np.asarray(ends)[:, None, None] for ends in (shown.low, shown.high))
    share = (project(expected["embedding"][None], shown)[0] - low) / (high - low)
    wanted = np.round(np.clip(share, 0, 1) * 255)[:, rows[valid], cols[valid]].T
    assert np.abs(picture[valid][:, :3] - wanted).max() <= 1
    assert (picture[valid][:, :3] != wanted).mean() < 0.2, "float16 components, rounded to 256 steps"
    assert picture[valid][:, :3].std(axis=0).min() > 20, "all three colours tell something"
    webp = rgba(served.get(path("embedding", tile, ".webp"), scene).content)
    np.testing.assert_array_equal(webp[valid], picture[valid])
    softer = rgba(served.get(path("embedding", tile), scene, rescale="-100,100").content)
    assert softer[valid][:, :3].std() < 10


def test_an_embedding_without_components_shows_its_first_channels(
    served: Host, scene: Path, tile: str, expected: dict[str, NDArray[np.float32]]
) -> None:
    picture = rgba(served.get(path("plain", tile), scene).content)
    rows, cols, valid = under(scene, tile)
    share = (expected["embedding"][:3, rows[valid], cols[valid]] + 1) / 2
    assert np.abs(picture[valid][:, :3] - np.round(np.clip(share, 0, 1) * 255).T).max() <= 1
    legend = served.get("plain/legend.json").json()
    assert "first three" in legend["embedding"]["shown"]


@pytest.mark.slow
def test_colours_do_not_depend_on_what_else_was_asked_for(models: dict[str, Path], scene: Path, tile: str) -> None:
    """A cell that was kept for its channels paints as one that was inferred for its colours."""
    first, second = host(models), host(models)
    colours = first.get(path("embedding", tile), scene).content
    second.get(path("embedding", tile, ".tif"), scene)
    forwards = second.extension.engine.forwards
    assert second.get(path("embedding", tile), scene).content == colours
    assert second.extension.engine.forwards == forwards, "kept with the channels"
    for made in (first, second):
        made.extension.engine.close()


# Numbers


@pytest.mark.parametrize(("model", "bands"), [("height", 1), ("embedding", CHANNELS)])
def test_a_tif_holds_the_values(
    served: Host, scene: Path, tile: str, expected: dict[str, NDArray[np.float32]], model: str, bands: int
) -> None:
    rows, cols, valid = under(scene, tile)
    with rasterio.MemoryFile(served.get(path(model, tile, ".tif"), scene).content) as memory, memory.open() as dataset:
        assert dataset.dtypes == ("float32",) * bands and np.isnan(dataset.nodata) and dataset.crs.to_epsg() == 3857
        values, mask = dataset.read(), dataset.dataset_mask()
        names = dataset.descriptions
    np.testing.assert_array_equal(mask == 255, valid)
    wanted = expected[model][:, rows[valid], cols[valid]]
    assert np.abs(values[:, valid] - wanted).max() < TOLERANCE * np.abs(wanted).max()
    assert names[0] == ("canopy height (m)" if model == "height" else "embedding 1") and len(names) == bands


@pytest.mark.parametrize(("model", "bands"), [("height", 1), ("embedding", CHANNELS)])
def test_the_point_says_what_the_tif_says(served: Host, scene: Path, tile: str, model: str, bands: int) -> None:
    rows, cols, valid = under(scene, tile)
    values = served.npy(path(model, tile, ".npy"), scene)
    for y, x in np.argwhere(valid)[[0, 5000, -1]]:
        told = served.get(f"{model}/point/{lonlat(rows[y, x], cols[y, x])}", scene).json()
        np.testing.assert_allclose(told["values"], values[:-1, y, x], rtol=1e-6)
        assert len(told["values"]) == bands
        assert told["band_descriptions"][0] == ("canopy height (m)" if bands == 1 else "embedding 1")
    nothing = served.get(f"{model}/point/{lonlat(130, 250)}", scene).json()
    assert nothing["values"] == [None] * bands


def test_statistics_are_those_of_the_values(
    served: Host, scene: Path, expected: dict[str, NDArray[np.float32]]
) -> None:
    whole = served.get("height/statistics", scene, max_size=0).json()["b1"]
    wanted = expected["height"][0].astype(np.float64)
    kept = np.ones(wanted.shape, bool)
    kept[HOLE] = False
    for name in ("min", "max", "mean", "std"):
        assert whole[name] == pytest.approx(float(getattr(wanted[kept], name)()), rel=1e-5)
    assert whole["valid_pixels"] == kept.sum() and sum(whole["histogram"][0]) == kept.sum()
    assert whole["description"] == "canopy height (m)"
    left, top, right, bottom = 30, 40, 90, 80
    ring = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    # A hair inside of the pixels' edges, so that no neighbour is touched.
    inner = [(x + (0.01 if x == left else -0.01), y + (0.01 if y == top else -0.01)) for x, y in ring]
    corners = [MERCATOR.lnglat(1000 + x * RES, 5000 - y * RES) for x, y in inner]
    polygon = {"type": "Polygon", "coordinates": [[list(corner) for corner in corners]]}
    answer = served.client.post(
        "/cog/inference/height/statistics",
        params={"url": str(scene), "dst_crs": "EPSG:3857"},
        json={"type": "Feature", "properties": {}, "geometry": polygon},
    )
    part = answer.json()["properties"]["statistics"]["b1"]
    inside = wanted[top:bottom, left:right]
    assert part["valid_pixels"] == inside.size
    assert part["mean"] == pytest.approx(float(inside.mean()), rel=1e-5)
    assert part["max"] == pytest.approx(float(inside.max()), rel=1e-5)


def test_statistics_of_an_embedding_are_of_its_channels(served: Host, scene: Path) -> None:
    assert len(served.get("embedding/statistics", scene, max_size=64).json()) == CHANNELS
    assert len(served.get("embedding/statistics", scene, max_size=64, output="rgb").json()) == 3


# Zoomed out, and between the pixels


def test_zoomed_out_a_pixel_is_the_mean_of_the_values_under_it(
    served: Host, scene: Path, expected: dict[str, NDArray[np.float32]]
) -> None:
    item = tiles_over(scene, ZOOM - 2)[0]
    for model in ("height", "embedding"):
        *values, mask = served.npy(path(model, item, ".npy"), scene)
        rows, cols, inside = scene_pixels_of_tile(scene, item, 256 * 4)
        hole = (rows >= 100) & (rows < 160) & (cols >= 200) & (cols < 300)
        valid = inside & ~hole
        fine = expected[model][:, np.where(valid, rows, 0), np.where(valid, cols, 0)].astype(np.float64) * valid
        blocks = (slice(None), 256, 4, 256, 4)
        count = valid.reshape(blocks[1:]).sum(axis=(1, 3))
        mean = fine.reshape(-1, *blocks[1:]).sum(axis=(2, 4)) / np.maximum(count, 1)
        shown = count >= 8
        np.testing.assert_array_equal(mask == 255, shown)
        assert shown.sum() > 3000
        np.testing.assert_allclose(np.stack(values)[:, shown], mean[:, shown], atol=1e-4)


def test_bilinear_mixes_neighbours_and_leaves_out_what_has_no_data(served: Host, scene: Path, tile: str) -> None:
    z, x, y = map(int, tile.split("/"))
    closer = f"{z + 2}/{4 * x + 1}/{4 * y + 1}"
    near = served.npy(path("height", closer, ".npy"), scene)
    mixed = served.npy(path("height", closer, ".npy"), scene, resampling="bilinear")
    np.testing.assert_array_equal(near[1], mixed[1])
    valid = near[1] == 255
    assert 0.05 < valid.mean() < 0.99, "the hole's edge is in it"
    assert len(np.unique(mixed[0][valid])) > 5 * len(np.unique(near[0][valid]))
    assert near[0][valid].min() - 1e-3 <= mixed[0][valid].min() and mixed[0][valid].max() <= near[0][valid].max() + 5
    assert np.abs(near[0] - mixed[0])[valid].mean() > 0.05


# Documents


def test_the_legend_of_a_regression_is_a_ramp_with_a_unit(served: Host, scene: Path, tile: str) -> None:
    legend = served.get("height/legend.json").json()
    value = legend["value"]
    assert (legend["kind"], value["name"], value["unit"], value["range"]) == (
        "regression",
        "canopy height",
        "m",
        [10, 30],
    )
    assert [stop["value"] for stop in value["stops"]] == [10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30]
    assert value["stops"][0]["color"] == "#440154"
    # What the legend calls the lowest colour is what the lowest values are painted with.
    values, mask = served.npy(path("height", tile, ".npy"), scene)
    picture = rgba(served.get(path("height", tile), scene).content)
    lowest = (mask == 255) & (values <= 10)
    assert lowest.any()
    assert {"#{:02x}{:02x}{:02x}".format(*color) for color in picture[lowest][:, :3]} == {"#440154"}


def test_the_legend_of_an_embedding_says_what_its_colours_are(served: Host) -> None:
    legend = served.get("embedding/legend.json").json()
    assert legend["kind"] == "embedding" and legend["embedding"]["channels"] == CHANNELS
    parts = legend["embedding"]["components"]
    assert [part["color"] for part in parts] == ["red", "green", "blue"]
    assert parts[0]["explained"] > parts[1]["explained"] > parts[2]["explained"] > 0


def test_info_and_models_tell_the_kind(served: Host, scene: Path) -> None:
    info = served.get("height/info", scene).json()
    assert (info["dtype"], info["count"], info["kind"], info["classes"]) == ("float32", 1, "regression", [])
    assert info["band_descriptions"] == [["b1", "canopy height (m)"]] and info["minmax"] == [[10, 30]]
    info = served.get("embedding/info", scene).json()
    assert (info["count"], info["kind"], len(info["band_descriptions"])) == (CHANNELS, "embedding", CHANNELS)
    listed = {item["id"]: item for item in served.client.get("/cog/inference").json()}
    assert listed["height"]["outputs"] == ["value"] and listed["embedding"]["outputs"] == ["rgb", "value"]


def test_titilers_other_doors_answer(served: Host, scene: Path) -> None:
    for model in ("height", "embedding"):
        assert served.get(f"{model}/WebMercatorQuad/tilejson.json", scene).json()["tiles"]
        assert rgba(served.get(f"{model}/preview.png", scene, max_size=100).content).shape == (75, 100, 4)
        west, south, _, north = served.get(f"{model}/info.geojson", scene).json()["bbox"]
        box = f"{west},{south},{west + (north - south) / 2},{north}"
        with rasterio.MemoryFile(served.get(f"{model}/bbox/{box}.tif", scene).content) as memory:
            with memory.open() as dataset:
                assert dataset.count == (1 if model == "height" else CHANNELS)


@pytest.mark.parametrize(
    ("model", "end", "query", "words"),
    [
        ("height", ".png", {"output": "probability"}, ["output=probability", "output=value"]),
        ("height", ".png", {"output": "class"}, ["output=class", "output=value"]),
        ("height", ".png", {"output": "rgb"}, ["output=rgb", "output=value"]),
        ("height", ".png", {"class": "tree"}, ["class=", "rescale="]),
        ("height", ".png", {"threshold": 0.5}, ["threshold=", "rescale="]),
        ("height", ".png", {"rescale": "5"}, ["rescale='5'", "rescale=0,40"]),
        ("height", ".png", {"rescale": ["0,1", "0,2"]}, ["2 times", "1 bands"]),
        ("height", ".jpg", {}, ["jpg", "tif"]),
        ("embedding", ".png", {"output": "value"}, ["16 channels", "output=rgb"]),
        ("embedding", ".png", {"output": "confidence"}, ["output=rgb or value"]),
        ("embedding", ".png", {"colormap_name": "viridis"}, ["colormap=", "rescale="]),
        ("cover", ".png", {"output": "value"}, ["output=class or probability or confidence"]),
        ("cover", ".png", {"rescale": "0,1"}, ["rescale=", "output=probability"]),
    ],
)
def test_a_wrong_combination_is_refused_before_inference(
    fresh: Host, scene: Path, tile: str, model: str, end: str, query: Any, words: list[str]
) -> None:
    answer = fresh.get(path(model, tile, end), scene, **query)
    assert answer.status_code == 400, answer.text
    assert all(word in answer.json()["detail"] for word in words), answer.json()
    assert fresh.extension.engine.forwards == 0


@pytest.mark.parametrize("rescale", ["1e-320,2e-320", "-1e308,1e308", "1e308,-1e308", "30,10", "0,1e-300"])
def test_any_range_that_is_one_is_painted(served: Host, scene: Path, tile: str, rescale: str) -> None:
    for model in ("height", "embedding"):
        answer = served.get(path(model, tile), scene, rescale=rescale)
        assert answer.status_code == 200 and rgba(answer.content)[..., 3].any()
    rising = rgba(served.get(path("height", tile), scene).content)
    if rescale == "30,10":
        falling = rgba(served.get(path("height", tile), scene, rescale=rescale).content)
        assert (rising != falling).any()


@pytest.mark.parametrize("rescale", ["nan,1", "0,inf", "1e400,0", "3,3", "a,b", "", ",", "1,2,3", "[[0,1]]"])
def test_what_is_no_range_is_refused(served: Host, scene: Path, tile: str, rescale: str) -> None:
    for door in (path("height", tile), "height/preview.png"):
        answer = served.get(door, scene, rescale=rescale)
        assert answer.status_code == 400 and "rescale=" in answer.json()["detail"], answer.text


def test_more_channels_than_one_request_may_have_are_refused(models: dict[str, Path], scene: Path) -> None:
    from tiler.predict import Limits

    small = host(models, limits=Limits(max_request_pixels=100_000))
    assert small.get("height/preview.tif", scene, max_size=0).status_code == 200
    assert small.get("embedding/preview.png", scene, max_size=0).status_code == 200
    refused = small.get("embedding/preview.tif", scene, max_size=0)
    assert refused.status_code == 400 and "16 channels" in refused.json()["detail"]
    small.extension.engine.close()


@pytest.mark.slow
def test_a_ramp_that_there_is_not_is_named(folder: Path, scene: Path, tile: str) -> None:
    value = {"value": {**VALUE, "ramp": "virdis"}}
    odd = write_model(
        folder / "odd", conv_chain(layers=1, classes=1), tasks=["regression"], gsd=round(RES, 4), output=value
    )
    made = host({"odd": odd})
    answer = made.get(path("odd", tile), scene)
    assert answer.status_code == 422 and "virdis" in answer.json()["detail"] and "viridis" in answer.json()["detail"]
    made.extension.engine.close()


# The standalone application


def test_the_application_tells_kind_value_and_components(models: dict[str, Path], scene: Path, tile: str) -> None:
    from starlette.testclient import TestClient

    settings = Settings(
        scenes={"field": {"path": str(scene)}},  # type: ignore[dict-item]
        models={name: str(path) for name, path in models.items()},
    )
    with TestClient(create_app(settings)) as client:
        told = client.get("/field/height/tilejson.json").json()
        assert (told["kind"], told["outputs"], told["classes"]) == ("regression", ["value"], [])
        assert told["value"]["unit"] == "m" and len(told["value"]["stops"]) == 11
        assert client.get("/field/height/legend.json").json()["value"] == told["value"]
        told = client.get("/field/embedding/tilejson.json").json()
        assert told["embedding"]["channels"] == CHANNELS and "value" not in told
        template = told["tiles"][0]
        z, x, y = tile.split("/")
        address = template.replace("{z}", z).replace("{x}", x).replace("{y}", y)
        first = client.get(address)
        assert first.status_code == 200 and first.headers["cache-control"].endswith("immutable")
        assert client.get(address, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
        values = np.load(io.BytesIO(client.get(address.replace(".png", ".npy")).content))
        assert values.shape == (CHANNELS + 1, 256, 256)
        assert client.get("/field/plain/legend.json").json()["embedding"]["components"][0]["range"] == [-1, 1]
        assert "canopy height" not in client.get("/field/embedding/1.0.0/WMTSCapabilities.xml").text


def test_other_components_are_another_revision(models: dict[str, Path], folder: Path, scene: Path) -> None:
    """Else tiles of one address, which clients keep for ever, would differ in colour."""
    from model_registry import open_model

    assert open_model(models["embedding"]).digest != open_model(models["plain"]).digest
    text = (models["height"] / "model.yaml").read_text()
    recoloured = folder / "recoloured"
    recoloured.mkdir()
    (recoloured / "model.onnx").write_bytes((models["height"] / "model.onnx").read_bytes())
    (recoloured / "model.yaml").write_text(text.replace("name: canopy height", "name: trees\n      ramp: magma"))
    assert open_model(recoloured).values.ramp == "magma"
    assert open_model(recoloured).digest == open_model(models["height"]).digest
    (recoloured / "model.yaml").write_text(text.replace("offset: 20", "offset: 21"))
    assert open_model(recoloured).digest != open_model(models["height"]).digest
