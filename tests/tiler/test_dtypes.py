"""dtype, scaling and bands: the network is fed what it was trained on, or the scene is refused with the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import (
    MERCATOR,
    RES,
    ZOOM,
    Host,
    best_and_lead,
    host,
    landscape,
    whole_scores,
    write_scene,
)

TILE = MERCATOR.tile(0.02, 0.02, ZOOM)
LEFT, _, _, TOP = MERCATOR.xy_bounds(TILE)
ALIGNED = Affine(RES, 0, LEFT, 0, -RES, TOP)
PATH = f"tiles/WebMercatorQuad/{ZOOM}/{TILE.x}/{TILE.y}.npy"
CLASSES = ["a", "b", "c", "d"]
HIGHEST = 0.004 * 255


def steps() -> NDArray[np.int64]:
    """Three bands of reflectance, counted in steps of 0.004."""
    return landscape(256, 256).astype(np.int64)


# The same reflectance in four ways: array, scale, offset. Each is exact.
STORED: dict[str, tuple[NDArray[Any], float, float]] = {
    "uint8": (steps().astype(np.uint8), 0.004, 0.0),
    "uint16": ((steps() * 40).astype(np.uint16), 0.0001, 0.0),
    "uint16 with offset": ((steps() * 40 + 1000).astype(np.uint16), 0.0001, -0.1),
    "int16 with offset": ((steps() * 40 - 5000).astype(np.int16), 0.0001, 0.5),
    "float32": ((steps() * 0.004).astype(np.float32), 1.0, 0.0),
    "float64": (steps() * 0.004, 1.0, 0.0),
    "float32 in percent": ((steps() * 0.4).astype(np.float32), 0.01, 0.0),
}


def stored(path: Path, kind: str, **options: Any) -> Path:
    pixels, scale, offset = STORED[kind]
    scaled = {} if (scale, offset) == (1.0, 0.0) else {"scales": [scale] * 3, "offsets": [offset] * 3}
    return write_scene(path, pixels, transform=ALIGNED, **scaled, **options)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    network = conv_chain(layers=3)
    reflectance = [{"type": "min-max", "minimum": 0, "maximum": HIGHEST}]
    thousands = [{"type": "scale", "value": HIGHEST * 10_000}]
    common: dict[str, Any] = {"classes": CLASSES + ["e"], "gsd": RES}
    return {
        "physical": write_model(
            folder / "physical", network, values="physical", dtypes=["float32"], scaling=reflectance, **common
        ),
        "derived": write_model(folder / "derived", network, values=None, scaling=reflectance, **common),
        "coarse": write_model(
            folder / "coarse", network, values="physical", dtypes=["float32"], scaling=reflectance,
            classes=common["classes"], gsd=2 * RES, nodata={"fill": 0.3},
        ),
        "bytes": write_model(folder / "bytes", network, **common),
        "words": write_model(folder / "words", network, dtypes=["uint16"], scaling=thousands, **common),
        "numbers": write_model(folder / "numbers", network, dtypes=["uint16", "int16"], scaling=thousands, **common),
    }  # fmt: skip


@pytest.fixture(scope="module")
def served(models: dict[str, Path]) -> Host:
    return host(models)


def expected_of(models: dict[str, Path], scaled: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Classes of one independent pass over what the network must see, and where they are sure."""
    best, lead = best_and_lead(whole_scores(models["bytes"] / "model.onnx", scaled.astype(np.float32), pad=4))
    return best, lead > 1e-5


def refusal(answer: Any, status: int = 422) -> str:
    """The detail of an answer that refuses."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    detail = answer.json()["detail"]
    assert isinstance(detail, str)
    return detail


# Scale and offset -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["physical", "derived"])
@pytest.mark.parametrize("kind", STORED)
def test_the_same_reflectance_gives_the_same_mask(
    served: Host, models: dict[str, Path], tmp_path: Path, kind: str, model: str
) -> None:
    values, mask = served.npy(f"{model}/{PATH}", stored(tmp_path / "s.tif", kind))
    expected, sure = expected_of(models, steps() / 255)
    assert (mask == 255).all()
    assert sure.mean() > 0.999 and len(np.unique(expected)) == 5
    assert (values == expected)[sure].all()


def test_another_scale_would_give_another_mask(served: Host, models: dict[str, Path], tmp_path: Path) -> None:
    """The check above can fail."""
    pixels, _, _ = STORED["uint16"]
    scene = write_scene(tmp_path / "s.tif", pixels, transform=ALIGNED, scales=[0.00009] * 3)
    values, _ = served.npy(f"physical/{PATH}", scene)
    expected, _ = expected_of(models, steps() / 255)
    assert (values != expected).mean() > 0.02


def test_each_band_has_its_own_scale_and_offset(served: Host, models: dict[str, Path], tmp_path: Path) -> None:
    pixels = np.stack([steps()[0] * 40, steps()[1] * 20 + 300, steps()[2] * 80 + 7]).astype(np.uint16)
    scene = write_scene(
        tmp_path / "s.tif", pixels, transform=ALIGNED, scales=[0.0001, 0.0002, 0.00005], offsets=[0, -0.06, -0.00035]
    )
    values, _ = served.npy(f"physical/{PATH}", scene)
    expected, sure = expected_of(models, steps() / 255)
    assert (values == expected)[sure].all()
    # Chosen in another order, each keeps its own.
    swapped, _ = served.npy(f"physical/{PATH}", scene, bidx=[3, 2, 1])
    expected, sure = expected_of(models, steps()[::-1] / 255)
    assert (swapped == expected)[sure].all()


def test_scale_and_offset_hold_on_a_resampled_grid_too(served: Host, models: dict[str, Path], tmp_path: Path) -> None:
    means = steps().reshape(3, 128, 2, 128, 2).mean(axis=(2, 4)) / 255
    expected, sure = expected_of(models, means)
    for kind in ("uint8", "uint16", "int16 with offset", "float32"):
        values, _ = served.npy(f"coarse/{PATH}", stored(tmp_path / f"{kind}.tif", kind))
        assert (values[::2, ::2] == expected)[sure].all(), kind


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16 with offset", "float32"])
def test_nodata_is_compared_before_scaling_and_filled_after(
    served: Host, models: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """The hole holds a stored value; the manifest's fill is a reflectance."""
    pixels, scale, offset = STORED[kind]
    nodata = {"uint8": 0, "uint16": 0, "int16 with offset": -9999, "float32": -1.0}[kind]
    hole = np.zeros((256, 256), bool)
    hole[64:128, 32:160] = True
    scaled = {} if scale == 1.0 else {"scales": [scale] * 3, "offsets": [offset] * 3}
    scene = write_scene(
        tmp_path / "s.tif",
        np.where(hole, pixels.dtype.type(nodata), pixels),
        transform=ALIGNED,
        nodata=nodata,
        **scaled,
    )
    values, mask = served.npy(f"coarse/{PATH}", scene)
    small = hole[::2, ::2]
    means = steps().reshape(3, 128, 2, 128, 2).mean(axis=(2, 4)) / 255
    expected, sure = expected_of(models, np.where(small, 0.3 / HIGHEST, means))
    assert np.array_equal(mask == 0, hole)
    assert (values[::2, ::2] == expected)[sure & ~small].all()


@pytest.mark.parametrize("model", ["physical", "derived"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_integers_without_scale_are_refused_by_a_model_of_physical_values(
    served: Host, tmp_path: Path, dtype: Any, model: str
) -> None:
    scene = write_scene(tmp_path / "s.tif", steps().astype(dtype), transform=ALIGNED)
    for path in (f"{model}/{PATH}", f"{model}/info", f"{model}/WebMercatorQuad/tilejson.json"):
        detail = refusal(served.get(path, scene))
        assert np.dtype(dtype).name in detail
        assert "without scale and offset" in detail
        assert "-scale" in detail


def test_one_band_without_scale_is_enough_to_refuse(served: Host, tmp_path: Path) -> None:
    pixels, scale, _ = STORED["uint16"]
    scene = write_scene(tmp_path / "s.tif", pixels, transform=ALIGNED, scales=[scale, 1.0, scale])
    assert "band 2 is uint16" in refusal(served.get(f"physical/{PATH}", scene))


# Digital numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "dtype"), [("bytes", "uint8"), ("words", "uint16"), ("numbers", "int16")])
def test_digital_numbers_go_in_as_they_are(
    served: Host, models: dict[str, Path], tmp_path: Path, model: str, dtype: str
) -> None:
    """A scale that the scene declares is none of a `dn` model's business."""
    pixels = steps() if dtype == "uint8" else steps() * 40
    scene = write_scene(tmp_path / "s.tif", pixels.astype(dtype), transform=ALIGNED, scales=[0.5] * 3)
    values, _ = served.npy(f"{model}/{PATH}", scene)
    expected, sure = expected_of(models, steps() / 255)
    assert (values == expected)[sure].all()


@pytest.mark.parametrize(
    ("model", "dtype", "wanted"),
    [
        ("bytes", "uint16", "uint8"),
        ("bytes", "int16", "uint8"),
        ("bytes", "float32", "uint8"),
        ("words", "uint8", "uint16"),
        ("words", "int16", "uint16"),
        ("words", "float32", "uint16"),
        ("numbers", "uint8", "uint16, int16"),
    ],
)
def test_another_dtype_is_refused_by_a_model_of_digital_numbers(
    served: Host, tmp_path: Path, model: str, dtype: str, wanted: str
) -> None:
    scene = write_scene(tmp_path / "s.tif", steps().astype(dtype), transform=ALIGNED)
    detail = refusal(served.get(f"{model}/{PATH}", scene))
    assert f"the scene is {dtype}" in detail and f"for {wanted} digital numbers" in detail
    assert "Convert the scene" in detail and "serving.input.dtypes" in detail


def test_complex_numbers_are_refused(served: Host, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "s.tif", steps().astype(np.complex64), transform=ALIGNED)
    for model in ("bytes", "physical"):
        assert "complex64" in refusal(served.get(f"{model}/{PATH}", scene))


# Bands ----------------------------------------------------------------------------------------------------------------


def named(path: Path, names: Sequence[str], order: Sequence[int], **options: Any) -> Path:
    """A scene whose bands are the landscape's (0 red, 1 green, 2 blue; 3 and more are noise) in that order."""
    more = landscape(256, 256, bands=8, seed=5)
    pixels = np.stack([steps()[band].astype(np.uint8) if band < 3 else more[band] for band in order])
    return write_scene(path, pixels, transform=ALIGNED, descriptions=names, **options)


def shows_the_right_bands(served: Host, models: dict[str, Path], scene: Path, **query: Any) -> bool:
    values, _ = served.npy(f"bytes/{PATH}", scene, **query)
    expected, sure = expected_of(models, steps() / 255)
    return bool((values == expected)[sure].all())


@pytest.mark.parametrize(
    ("names", "order"),
    [
        # GDAL calls these three red, green, blue by their place; their names say otherwise.
        (("blue", "green", "red"), (2, 1, 0)),
        (("Blue", "GREEN", "red "), (2, 1, 0)),
        (("nir", "blue", "green", "red"), (3, 2, 1, 0)),
        (("green", "swir", "red", "nir", "blue"), (1, 4, 0, 3, 2)),
    ],
)
def test_bands_are_found_by_name_whatever_their_order(
    served: Host, models: dict[str, Path], tmp_path: Path, names: tuple[str, ...], order: tuple[int, ...]
) -> None:
    # Of four bytes a pixel, GDAL would take the fourth for alpha.
    profile = {"photometric": "minisblack"} if len(names) == 4 else {}
    scene = named(tmp_path / "s.tif", names, order, **profile)
    assert shows_the_right_bands(served, models, scene)


def test_bands_are_found_by_colour_where_they_have_no_names(
    served: Host, models: dict[str, Path], tmp_path: Path
) -> None:
    scene = named(tmp_path / "s.tif", (), (3, 2, 0, 1), photometric="minisblack")
    with rasterio.open(scene, "r+") as dataset:
        dataset.colorinterp = (ColorInterp.undefined, ColorInterp.blue, ColorInterp.red, ColorInterp.green)
    assert shows_the_right_bands(served, models, scene)


def test_as_many_bands_as_wanted_without_names_go_by_their_place(
    served: Host, models: dict[str, Path], tmp_path: Path
) -> None:
    assert shows_the_right_bands(served, models, named(tmp_path / "s.tif", (), (0, 1, 2), photometric="minisblack"))


def test_an_alpha_band_does_not_count(served: Host, models: dict[str, Path], tmp_path: Path) -> None:
    pixels = np.concatenate([steps().astype(np.uint8), np.full((1, 256, 256), 255, np.uint8)])
    scene = write_scene(tmp_path / "s.tif", pixels, transform=ALIGNED, photometric="rgb", alpha="unspecified")
    assert shows_the_right_bands(served, models, scene)


@pytest.mark.parametrize(("query", "order"), [([3, 2, 1], (2, 1, 0)), ([5, 1, 3], (1, 4, 2, 3, 0))])
def test_bidx_chooses_bands_in_the_models_order(
    served: Host, models: dict[str, Path], tmp_path: Path, query: list[int], order: tuple[int, ...]
) -> None:
    scene = named(tmp_path / "s.tif", (), order, photometric="minisblack")
    assert shows_the_right_bands(served, models, scene, bidx=query)


def test_bidx_wins_over_names(served: Host, models: dict[str, Path], tmp_path: Path) -> None:
    scene = named(tmp_path / "s.tif", ("blue", "green", "red"), (0, 1, 2))
    assert not shows_the_right_bands(served, models, scene)
    assert shows_the_right_bands(served, models, scene, bidx=[1, 2, 3])


@pytest.mark.parametrize("order", [(0,), (0, 1)])
def test_too_few_bands_are_refused(served: Host, tmp_path: Path, order: tuple[int, ...]) -> None:
    detail = refusal(served.get(f"bytes/{PATH}", named(tmp_path / "s.tif", (), order)))
    assert "the model wants 3 bands (red, green, blue)" in detail and f"the scene has {len(order)}" in detail
    assert "bidx" in detail


def test_more_bands_than_wanted_without_names_are_refused(served: Host, tmp_path: Path) -> None:
    scene = named(tmp_path / "s.tif", (), (0, 1, 2, 3, 4), photometric="minisblack")
    detail = refusal(served.get(f"bytes/{PATH}", scene))
    assert "the model wants 3 bands" in detail and "the scene has 5" in detail and "bidx" in detail


def test_names_that_contradict_the_model_are_refused(served: Host, tmp_path: Path) -> None:
    """A false-colour scene has as many bands as wanted, and GDAL calls them red, green, blue."""
    detail = refusal(served.get(f"bytes/{PATH}", named(tmp_path / "s.tif", ("nir", "red", "green"), (3, 0, 1))))
    assert "1: nir, 2: red, 3: green" in detail


@pytest.mark.parametrize("query", [[1], [1, 2], [1, 2, 3, 1], [1, 2, 9], [0, 1, 2], [-1, 1, 2]])
def test_a_wrong_bidx_is_refused(served: Host, tmp_path: Path, query: list[int]) -> None:
    scene = named(tmp_path / "s.tif", ("red", "green", "blue"), (0, 1, 2))
    detail = refusal(served.get(f"bytes/{PATH}", scene, bidx=query))
    assert f"bands {', '.join(map(str, query))} were given" in detail
    assert "wants 3 (red, green, blue)" in detail and "Give one band" in detail


def test_every_reason_is_told_at_once(tmp_path: Path, served: Host) -> None:
    """Bands do not fit, and neither does the resolution: whoever mends one must not find the other after."""
    far = Affine(RES * 9, 0, LEFT, 0, -RES * 9, TOP)
    scene = write_scene(tmp_path / "s.tif", steps()[:2].astype(np.uint8), transform=far)
    detail = refusal(served.get("bytes/info", scene))
    assert "the model wants 3 bands" in detail and "factor of 9" in detail


def test_bands_whose_names_say_something_else_are_refused(tmp_path: Path) -> None:
    """Three bands of infrared are no picture in red, green and blue, whatever GDAL calls their colours."""
    model = write_model(tmp_path / "m", conv_chain(layers=1), classes=list("abcde"), gsd=round(RES, 4))
    scene = write_scene(
        tmp_path / "s.tif", landscape(64, 64), photometric="RGB", descriptions=["NIR", "SWIR1", "SWIR2"]
    )
    answer = host({"m": model}).get("m/info", scene)
    assert answer.status_code == 422
    assert "SWIR1" in answer.json()["detail"] and "bidx" in answer.json()["detail"]
    assert host({"m": model}).get("m/info", scene, bidx=[1, 2, 3]).status_code == 200


@pytest.mark.parametrize("names", [["1", "2", "3"], ["Band 1", "Band 2", "Band 3"], ["b1", "b2", "b3"], []])
def test_bands_whose_names_only_count_go_by_position(tmp_path: Path, names: list[str]) -> None:
    model = write_model(tmp_path / "m", conv_chain(layers=1), classes=list("abcde"), gsd=round(RES, 4))
    scene = write_scene(tmp_path / "s.tif", landscape(64, 64), descriptions=names)
    assert host({"m": model}).get("m/info", scene).status_code == 200
