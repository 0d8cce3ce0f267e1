"""What other programs get wrong without a word, tried against us: the answer is right, or refused with a remedy.

Where an error is tried elsewhere in this suite, the table says where; the others are tried here. Issues are those of
the repositories named; "run" stands for what was seen when the released program ran on a known raster and network.

| the error | of | tried in |
|---|---|---|
| uint16 raster, uint8 model: one class everywhere | GeoDeep 0.9.13, geoai 0.40.1 (run) | test_dtypes, test_refusals |
| integer reflectance without scale into a model of reflectance | ftw-baselines 1.4.3 (/3000) | test_dtypes |
| pixels without data get a class; the nodata tag is copied, so 0 is nodata | GeoDeep, geoai (run) | test_nodata, here |
| nodata goes into means and statistics | Clay-foundation/model#317, terratorch#414 | test_nodata, test_place |
| 0.3 m raster, 0.5 m model: not resampled, the ratio is made an int; 2 m raster: not upsampled | GeoDeep (run) | here |
| zooming changes the scale that the model sees | Earth Engine's default, Geo Engine, fAIr#335 | test_scale |
| class numbers are averaged where windows overlap | geoai ONNXGeoModel (run: 65.8 % wrong) | here, test_seams |
| a median filter over every mask | GeoDeep (run: 0.98 % of the pixels) | here |
| an outer frame stays empty | ftw-baselines 1.4.3 (run: 2.7 %), deepness#122, #123 | here, test_seams |
| the last window is moved inwards: 1 px off; pixels that no window covers | rslearn#486, #471 | here, test_windows |
| rasters that are not square, or smaller than a window | geoai#696, pearl#49 | here |
| black beyond the scene's edge | robosat#48 | test_nodata |
| seams: no overlap, or too little | robosat.pink#59, raster-vision#1055, torchgeo#30 | test_seams, test_networks |
| output smaller than the input: a crash in the middle | deepness#112, raster-vision#1876 | here |
| channels last, taken for channels first | Geo Engine takes only channels last | here, test_onnx_runner |
| several outputs: the first one is taken | Geo Engine | test_onnx_runner |
| the scale is guessed from the pixels (max > 1.5: / 255; mean > 1: / 10000) | geoai, terratorch | here |
| zeros, or -9999, count as nodata though nobody said so | microsoft/landcover, terratorch | here |
| a threshold in percent where a share is meant | Deepness' overlap is in percent, its threshold is not | here |
| documented keys that the code does not read (tiles_size, tile_size) | Deepness | here |
| red and blue change places; alpha is taken for infrared | all that go by position | here, test_bands, test_real |
| colour numbers of a palette are taken for brightness | all that read band 1 | here |
| signed bytes wrap around | casts to uint8 | here |
| /255 without being told | TreeCrownDelineation#17 | test_cli_intake: `add` refuses without --scaling |
| NaN becomes a class | OpenVINO's own behaviour | test_openvino_runner, test_postprocess |
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rasterio.enums import ColorInterp
from typer.testing import CliRunner

from model_registry.errors import ContractError, ManifestError
from model_registry.live import load
from model_registry.manifest import open_model
from model_registry.testing import conv_chain, value_classes, with_metadata, write_model
from tests.tiler.helpers import (
    MERCATOR,
    RES,
    ZOOM,
    best_and_lead,
    classifier,
    host,
    landscape,
    scene_pixels_of_tile,
    square_tiles,
    tiles_over,
    whole_scores,
    write_scene,
)
from tiler.cli import GDAL_DEFAULTS
from tiler.cli import app as cli

# Each test starts whole models or children; the fast suite has their parts.
pytestmark = pytest.mark.slow

UTM = "EPSG:32632"
LEFT, TOP = 500_000.0, 5_400_000.0
EXACT: dict[str, Any] = {"window": {"multiple": 1, "period": 1, "halo": 1}, "exactness": "exact"}
ONE_TILE = MERCATOR.tile(0.02, 0.02, ZOOM)
CORNER = MERCATOR.xy_bounds(ONE_TILE)
ALIGNED = Affine(RES, 0, CORNER.left, 0, -RES, CORNER.top)
PATH = f"tiles/WebMercatorQuad/{ZOOM}/{ONE_TILE.x}/{ONE_TILE.y}"


def network(folder: Path, **options: Any) -> Path:
    """One layer over three bands, four classes, at the resolution of tiles of ZOOM."""
    given = {"classes": list("abcd"), "gsd": round(RES, 4), **EXACT, **options}
    return write_model(folder, conv_chain(layers=1, classes=4), **given)


def mosaic(model: Path, scene: Path, **params: Any) -> NDArray[np.int64]:
    """Class of each pixel of a scene by the tiles of ZOOM, -1 where they show none."""
    served = host({"m": model})
    with rasterio.open(scene) as dataset:
        classes = np.full(dataset.shape, -1)
    for tile in tiles_over(scene):
        values, mask = served.npy(f"m/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.npy", scene, **params)
        rows, cols, inside = scene_pixels_of_tile(scene, tile, 256)
        shown = inside & (mask == 255)
        classes[rows[shown], cols[shown]] = values[shown]
    return classes


def refused(model: Path, scene: Path, *words: str, **params: Any) -> None:
    """422 with all of the words, before anything is inferred."""
    answer = host({"m": model}).get("m/info", scene, **params)
    assert answer.status_code == 422, answer.text
    for word in words:
        assert word in answer.json()["detail"], answer.json()["detail"]


def add(file: Path, registry: Path, *options: str) -> str:
    """What `tiler models add` says when it refuses."""
    given = ["--classes", "a,b,c,d", "--bands", "1,2,3", "--gsd", "0.5", "--scaling", "scale=255", *options]
    result = CliRunner().invoke(
        cli, ["models", "add", str(file), "--registry", str(registry), *given], env=GDAL_DEFAULTS
    )
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    assert not list(registry.rglob("model.yaml"))
    return str(result.stderr).strip()


# Scale ----------------------------------------------------------------------------------------------------------------


def weights(size: int, ratio: float) -> NDArray[np.float64]:
    """[new, old]: bilinear interpolation where new pixels are smaller (ratio < 1), area means where they are larger."""
    new = np.arange(round(size / ratio))[:, None]
    old = np.arange(size)[None, :]
    if ratio < 1:
        return np.clip(1 - np.abs(np.clip((new + 0.5) * ratio - 0.5, 0, size - 1) - old), 0, None)
    overlap = np.clip(np.minimum((new + 1) * ratio, old + 1) - np.maximum(new * ratio, old), 0, None)
    return overlap / overlap.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("have", "height", "width"), [(0.3, 200, 250), (2.0, 60, 84)])
def test_another_ground_resolution_is_resampled_by_the_exact_ratio(
    tmp_path: Path, have: float, height: int, width: int
) -> None:
    """GeoDeep 0.9.13: `int(0.5 / 0.3)` is 1, so that 0.3 m pixels go in as if they were 0.5 m; 2 m are not enlarged."""
    want = 0.5
    pixels = landscape(height, width, block=6)
    scene = write_scene(tmp_path / "s.tif", pixels, crs=UTM, transform=Affine(have, 0, LEFT, 0, -have, TOP))
    model = network(tmp_path / "m", gsd=want)
    ratio = want / have
    rows, cols = weights(height, ratio), weights(width, ratio)
    seen = (rows @ pixels.astype(np.float64) @ cols.T).astype(np.float32)
    expected, lead = best_and_lead(whole_scores(model / "model.onnx", seen / np.float32(255), pad=4))
    # One tile that has exactly the model's pixels.
    tms = square_tiles(UTM, LEFT, TOP, 256 * want)
    served = host({"m": model}, factory={"supported_tms": registered(tms)})
    values, mask = served.npy("m/tiles/Square/0/0/0.npy", scene)
    shown = np.s_[: min(256, expected.shape[0]), : min(256, expected.shape[1])]
    sure = lead[shown] > 1e-4
    assert sure.mean() > 0.99 and (mask[shown] == 255).all() and len(np.unique(expected[shown])) == 4
    assert (values[shown] == expected[shown])[sure].all()
    # And what those programs do would show: the scene's own pixels, put in as they are.
    other, _ = best_and_lead(whole_scores(model / "model.onnx", pixels.astype(np.float32) / 255, pad=4))
    at = np.s_[: min(256, height, expected.shape[0]), : min(256, width, expected.shape[1])]
    assert (other[at] != expected[at]).mean() > 0.05


def registered(tms: Any) -> Any:
    """A collection with one more tile matrix set."""
    import morecantile

    return morecantile.tms.register({"Square": tms}, overwrite=True)


# Overlaps and edges ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"resampling": "bilinear"}])
@pytest.mark.parametrize("below", [0, 1, 3])
def test_class_numbers_are_never_averaged(tmp_path: Path, params: dict[str, Any], below: int) -> None:
    """geoai 0.40.1 averages class numbers over overlaps: of 0 and 2 it makes 1. At no zoom, with no resampling."""
    blocks = np.random.default_rng(1).integers(0, 2, (64, 64)).repeat(4, axis=0).repeat(4, axis=1)
    scene = write_scene(tmp_path / "s.tif", np.where(blocks, 200, 10).astype(np.uint8)[None], transform=ALIGNED)
    served = host({"m": classifier(tmp_path / "m", [10, 105, 200], gsd=round(RES, 4))})
    scale = 2**below
    tile = f"m/tiles/WebMercatorQuad/{ZOOM - below}/{ONE_TILE.x // scale}/{ONE_TILE.y // scale}.npy"
    values, mask = served.npy(tile, scene, **params)
    assert set(np.unique(values[mask == 255])) == {0, 2}


def test_single_pixels_are_not_filtered_away(tmp_path: Path) -> None:
    """GeoDeep 0.9.13 puts a 5 x 5 median over every mask: of single pixels nothing is left."""
    pixels = np.full((1, 256, 256), 10, np.uint8)
    pixels[0, 3::7, 5::9] = 200
    scene = write_scene(tmp_path / "s.tif", pixels, transform=ALIGNED)
    got = mosaic(classifier(tmp_path / "m", [10, 200], gsd=round(RES, 4)), scene)
    assert np.array_equal(got, (pixels[0] == 200).astype(int))


def test_a_sieve_that_the_file_asks_for_is_not_applied(tmp_path: Path) -> None:
    """GeoDeep removes patches below `seg_small_segment` from its mask. Here the mask is what the network says."""
    keys = {"model_type": "Segmentor", "class_names": {"0": "a", "1": "b", "2": "c"}, "resolution": 100 * round(RES, 4)}
    net, pixels = conv_chain(layers=1, classes=3), np.random.default_rng(7).integers(1, 255, (3, 256, 256))
    scene = write_scene(tmp_path / "s.tif", pixels.astype(np.uint8), transform=ALIGNED)
    told = {name: json.dumps(value) for name, value in {**keys, "seg_small_segment": 11}.items()}
    (tmp_path / "m.onnx").write_bytes(with_metadata(net, **told).SerializeToString())
    expected, lead = best_and_lead(whole_scores(tmp_path / "m.onnx", pixels.astype(np.float32) / 255, pad=4))
    assert (mosaic(tmp_path / "m.onnx", scene) == expected)[lead > 1e-4].all()
    alone = (expected[1:-1, 1:-1] != expected[:-2, 1:-1]) & (expected[1:-1, 1:-1] != expected[2:, 1:-1])
    assert alone.sum() > 1000


@pytest.mark.parametrize(("height", "width"), [(257, 511), (129, 1000), (1, 300), (300, 1), (3, 3), (700, 65)])
def test_every_pixel_is_shown_once_and_in_its_place(tmp_path: Path, height: int, width: int) -> None:
    """ftw-baselines 1.4.3 leaves a frame empty, rslearn#486 moves the last window by 1 px, rslearn#471 forgets pixels,
    geoai#696 wants squares. The class is the pixel's own number, so every shift shows.
    """
    classes = np.random.default_rng(height).integers(0, 16, (height, width))
    pixels = (classes * 16).astype(np.uint8)[None]
    scene = write_scene(tmp_path / "s.tif", pixels, transform=Affine(RES, 0, 123.4 * RES, 0, -RES, 987.3 * RES))
    model = classifier(tmp_path / "m", [16.0 * number for number in range(16)], gsd=round(RES, 4))
    assert np.array_equal(mosaic(model, scene), classes)


@pytest.mark.parametrize(("height", "width"), [(11, 150), (40, 9), (5, 6)])
def test_a_scene_smaller_than_the_halo_is_answered_to_its_edges(tmp_path: Path, height: int, width: int) -> None:
    """pearl#49 ("the 256 assumption"), deepness#122 and #123: small and narrow scenes lose pixels or crash."""
    pixels = landscape(height, width, block=3)
    scene = write_scene(tmp_path / "s.tif", pixels)
    window = {"multiple": 1, "period": 1, "halo": 16}
    model = write_model(
        tmp_path / "m", conv_chain(layers=2, dilation=8), classes=list("abcde"), gsd=round(RES, 4), window=window,
        exactness="exact",
    )  # fmt: skip
    # Reflection again and again: numpy pads by more than the image in the same way.
    expected, lead = best_and_lead(
        whole_scores(model / "model.onnx", pixels.astype(np.float32) / 255, pad=16, mode="reflect")
    )
    got = mosaic(model, scene)
    assert (got >= 0).all()
    assert (got == expected)[lead > 1e-4].all()


# Shapes ---------------------------------------------------------------------------------------------------------------


def shaped(answer: str, size: Sequence[Any] = ("n", 3, "h", "w")) -> onnx.ModelProto:
    """Three bands in, four classes out: `valid` loses a frame of 2 px, `half` answers at half the size."""
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3, 5, 5)).astype(np.float32), name="w")
    pads, strides = ([0] * 4, [1, 1]) if answer == "valid" else ([2] * 4, [2, 2])
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=pads, strides=strides)
    info = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, size),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph([node], "g", info[:1], info[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("answer", ["valid", "half"])
def test_an_output_smaller_than_the_input_is_refused_when_it_is_added_and_loaded(tmp_path: Path, answer: str) -> None:
    """deepness#112 crashes in the middle of the raster; raster-vision#1876 writes a raster of another size."""
    (tmp_path / "net.onnx").write_bytes(shaped(answer).SerializeToString())
    line = add(tmp_path / "net.onnx", tmp_path / "registry")
    assert "for an input of 128 x 128" in line and "export a network that answers at its input's size" in line
    folder = write_model(tmp_path / "m", shaped(answer), classes=list("abcd"))
    with pytest.raises(ContractError) as told:
        load(folder)
    assert "at its input's size" in told.value.remedy


@pytest.mark.parametrize("size", [("n", "h", "w", 3), (1, 64, 64, 3)])
def test_channels_last_are_refused_when_it_is_added(tmp_path: Path, size: tuple[Any, ...]) -> None:
    """Geo Engine takes [batch, row, column, band] only; whoever brings such a file here is told what to do."""
    node = helper.make_node("Identity", ["x"], ["y"])
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "net.onnx").write_bytes(net.SerializeToString())
    line = add(tmp_path / "net.onnx", tmp_path / "registry")
    assert "[batch, row, column, band]" in line, line


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("high", [1, 2, 255])
def test_the_scale_does_not_depend_on_the_pixels(tmp_path: Path, high: int) -> None:
    """geoai divides by 255 where the maximum is above 1.5, terratorch by 10000 where the mean is above 1: a dark window
    gets another scale than its neighbour.
    """
    pixels = np.random.default_rng(2).integers(0, high + 1, (3, 256, 256)).astype(np.uint8)
    pixels[:, :, 200:] = landscape(256, 56)
    scene = write_scene(tmp_path / "s.tif", pixels, transform=ALIGNED)
    model = network(tmp_path / "m")
    expected, lead = best_and_lead(whole_scores(model / "model.onnx", pixels.astype(np.float32) / 255, pad=4))
    got = mosaic(model, scene)
    assert (got == expected)[lead > 1e-4].all() and len(np.unique(expected[:, 200:])) > 2


@pytest.mark.parametrize("dtypes", [["uint8"], ["uint16", "int16"]])
def test_fractions_from_0_to_1_are_refused_by_a_model_of_digital_numbers(tmp_path: Path, dtypes: list[str]) -> None:
    """The same guess the other way round: 0.4 is not 0.4 of 255 until somebody says so."""
    pixels = landscape(64, 64).astype(np.float32) / 255
    scene = write_scene(tmp_path / "s.tif", pixels)
    refused(network(tmp_path / "m", dtypes=dtypes), scene, "the scene is float32", dtypes[0], "serving.input.dtypes")


@pytest.mark.parametrize("value", [0, -9999])
def test_numbers_that_nobody_declared_as_nodata_are_data(tmp_path: Path, value: int) -> None:
    """microsoft/landcover takes zeros for nodata, terratorch has -9999 in its code."""
    pixels = np.full((1, 256, 256), 100, np.int16)
    pixels[:, 40:90, 60:200] = value
    scene = write_scene(tmp_path / "s.tif", pixels, transform=ALIGNED)
    model = classifier(tmp_path / "m", [value, 100], dtypes=["int16"], gsd=round(RES, 4))
    assert np.array_equal(mosaic(model, scene), (pixels[0] == 100).astype(int))


def test_a_threshold_in_percent_is_refused(tmp_path: Path) -> None:
    """Deepness' overlap is in percent and its threshold is not: 50 would hide everything, and 0.5 of 100 nothing."""
    (tmp_path / "net.onnx").write_bytes(conv_chain(layers=1, classes=4).SerializeToString())
    result = CliRunner().invoke(cli, ["models", "add", str(tmp_path / "net.onnx"), "--threshold", "50"])
    assert result.exit_code == 2 and "less than or equal to 1" in result.output
    scene = write_scene(tmp_path / "s.tif", landscape(64, 64))
    answer = host({"m": network(tmp_path / "m")}).get(f"m/{PATH}.png", scene, threshold=50)
    assert answer.status_code == 422 and "threshold" in answer.text


@pytest.mark.parametrize("key", ["tiles_size", "tile_size"])
def test_both_spellings_of_a_key_count(tmp_path: Path, key: str) -> None:
    """Deepness documents `tiles_size` and reads `tile_size`. A key that nobody knows is refused, not passed over."""
    keys = {"model_type": "Segmentor", "class_names": {str(n): c for n, c in enumerate("abcd")}, "resolution": 50}
    for more, wanted in (({key: 192}, 192), ({"tiles_sizes": 192}, None)):
        told = {name: json.dumps(value) for name, value in {**keys, **more}.items()}
        (tmp_path / "net.onnx").write_bytes(with_metadata(conv_chain(classes=4), **told).SerializeToString())
        if wanted:
            assert open_model(tmp_path / "net.onnx").window.preferred == wanted
        else:
            with pytest.raises(ManifestError, match="unknown key 'tiles_sizes'"):
                open_model(tmp_path / "net.onnx")


# Bands ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("red", "green", "blue"), ("Blue", "Green", "Red"), ()])
def test_a_network_trained_on_blue_green_red_gets_them(tmp_path: Path, names: tuple[str, ...]) -> None:
    """OpenCV reads BGR, rasterio RGB: by position a forest is a lake. By name, or else by colour."""
    rgb = landscape(256, 256)
    order = ["red", "green", "blue"]
    stored = rgb if not names else rgb[[order.index(name.lower()) for name in names]]
    scene = write_scene(tmp_path / "s.tif", stored, transform=ALIGNED, descriptions=names, photometric="rgb")
    model = network(tmp_path / "m", bands=["blue", "green", "red"])
    onnx_file = model / "model.onnx"
    expected, lead = best_and_lead(whole_scores(onnx_file, rgb[::-1].astype(np.float32) / 255, pad=4))
    swapped, _ = best_and_lead(whole_scores(onnx_file, rgb.astype(np.float32) / 255, pad=4))
    got = mosaic(model, scene)
    assert (got == expected)[lead > 1e-4].all()
    assert (swapped != expected).mean() > 0.1


def test_numbers_of_a_palette_are_not_brightness(tmp_path: Path) -> None:
    """Band 1 of a palette raster is read like any other by all peers: neighbouring numbers may be black and white."""
    pixels = np.random.default_rng(0).integers(0, 4, (1, 64, 64), dtype=np.uint8)
    scene = write_scene(tmp_path / "s.tif", pixels, transform=ALIGNED, photometric="palette")
    with rasterio.open(scene, "r+") as dataset:
        dataset.write_colormap(1, {0: (0, 0, 0), 1: (255, 255, 255), 2: (200, 0, 0), 3: (0, 0, 90)})
        assert dataset.colorinterp == (ColorInterp.palette,)
    model = classifier(tmp_path / "m", [0, 1, 2, 3], gsd=round(RES, 4))
    refused(model, scene, "palette", "-expand rgb", "bidx=1")
    # Who names the band means the numbers.
    assert np.array_equal(mosaic(model, scene, bidx=1), pixels[0])


def test_alpha_is_not_a_fourth_band_and_hides_what_it_covers(tmp_path: Path) -> None:
    """By position alpha would be infrared; ignored, its holes would get a class."""
    alpha = np.full((1, 256, 256), 255, np.uint8)
    alpha[:, 100:140] = 0
    rgb = landscape(256, 256)
    scene = write_scene(
        tmp_path / "s.tif", np.concatenate([rgb, alpha]), transform=ALIGNED, photometric="rgb", alpha="yes"
    )
    infrared = write_model(
        tmp_path / "four", conv_chain(layers=1, classes=4, bands=4), classes=list("abcd"),
        bands=["red", "green", "blue", "nir"], gsd=round(RES, 4), **EXACT,
    )  # fmt: skip
    refused(infrared, scene, "alpha", "nir")
    got = mosaic(network(tmp_path / "three"), scene)
    assert np.array_equal(got < 0, alpha[0] == 0)


def test_signed_bytes_do_not_wrap_around(tmp_path: Path) -> None:
    """-1 read as uint8 is 255. A model of bytes refuses them; one of signed bytes gets their own numbers."""
    pixels = np.random.default_rng(0).choice(np.array([-100, -1, 100], np.int8), (1, 256, 256))
    scene = write_scene(tmp_path / "s.tif", pixels, transform=ALIGNED)
    refused(classifier(tmp_path / "u", [0, 255], gsd=round(RES, 4)), scene, "int8", "uint8")
    model = classifier(tmp_path / "s", [-100, -1, 100], dtypes=["int8"], gsd=round(RES, 4))
    assert np.array_equal(mosaic(model, scene), np.searchsorted([-100, -1, 100], pixels[0]))


def test_a_tif_tile_says_what_is_nodata_and_it_is_no_class(tmp_path: Path) -> None:
    """GeoDeep and geoai copy the input's nodata of 0 to the mask, where 0 is a class: it vanishes in every GIS."""
    pixels = np.full((1, 256, 256), 10, np.uint8)
    pixels[0, :50] = 0
    scene = write_scene(tmp_path / "s.tif", pixels, transform=ALIGNED, nodata=0)
    answer = host({"m": classifier(tmp_path / "m", [10, 200], gsd=round(RES, 4))}).get(f"m/{PATH}.tif", scene)
    with rasterio.open(io.BytesIO(answer.content)) as tile:
        assert tile.nodata not in (0, 1)
        assert np.array_equal(tile.dataset_mask() > 0, pixels[0] == 10)
        assert (tile.read(1)[50:] == 0).all()


def test_values_between_the_classes_of_a_value_network_are_not_invented() -> None:
    """The network that the tests above rest on: each value has its own class, and what lies between the nearest one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        value_classes([10, 105, 200]).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (scores,) = session.run(None, {"x": np.array([10, 57, 58, 105, 200], np.float32).reshape(1, 1, 1, 5)})
    assert scores[0].argmax(axis=0).tolist() == [[0, 0, 1, 1, 2]]
