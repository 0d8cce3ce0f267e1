"""The invented landscape, the files made of it, and the network trained on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from tiler.demo import scene
from tiler.demo.canvas import Label
from tiler.demo.card import CLASSES, checksum
from tiler.demo.landscape import NO_LABEL, Landscape, generate

MODEL = Path(scene.__file__).parent / "model"
SEED = 5
HELD_OUT_SEED = 2031


@pytest.fixture(scope="module")
def small() -> Landscape:
    return generate(SEED, 512)


@pytest.fixture(scope="module")
def medium() -> Landscape:
    return generate(SEED, 1024)


def test_shapes_and_types(small: Landscape) -> None:
    assert (small.rgb.shape, small.rgb.dtype) == ((3, 512, 512), np.uint8)
    assert (small.labels.shape, small.labels.dtype) == ((512, 512), np.uint8)
    assert (small.valid.shape, small.valid.dtype) == ((512, 512), np.bool_)


def test_one_seed_gives_one_landscape(small: Landscape) -> None:
    again, other = generate(SEED, 512), generate(SEED + 1, 512)
    assert np.array_equal(small.rgb, again.rgb)
    assert np.array_equal(small.labels, again.labels)
    assert np.array_equal(small.valid, again.valid)
    assert not np.array_equal(small.rgb, other.rgb)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [SEED, HELD_OUT_SEED])
def test_every_class_is_present(seed: int) -> None:
    labels = generate(seed, 1024).labels
    shares = {label.name: float((labels == label).mean()) for label in Label}
    assert min(shares.values()) > 0.001, shares


def test_seen_pixels_are_never_nodata(small: Landscape) -> None:
    assert small.rgb[:, small.valid].min() >= 1
    assert small.rgb[:, ~small.valid].max() == 0
    assert np.array_equal(small.labels == NO_LABEL, ~small.valid)


@pytest.mark.slow
@pytest.mark.parametrize("size", [512, 1024])
def test_outline_is_ragged(size: int) -> None:
    valid = generate(SEED, size).valid
    assert 0.03 <= 1 - valid.mean() <= 0.08
    first_column = np.where(valid.any(axis=1), valid.argmax(axis=1), size)
    assert len(np.unique(first_column)) > 5


def test_shadows_fall_away_from_the_sun(medium: Landscape) -> None:
    # Trees and roofs are lit from one side: open land next to woods is darker on one side than on the other.
    brightness = medium.rgb.astype(float).mean(axis=0)
    forest = medium.labels == Label.FOREST
    land = (medium.labels == Label.OTHER) | (medium.labels == Label.FIELD)
    north = land & np.roll(forest, -8, axis=0)  # woods to the south, and the sun behind them
    south = land & np.roll(forest, 8, axis=0)
    assert brightness[south].mean() > brightness[north].mean() + 10


def test_too_small_a_landscape_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 256"):
        generate(SEED, 100)


def test_scene_is_a_valid_cog(tmp_path: Path, medium: Landscape) -> None:
    path = scene.write_scene(tmp_path / "scene.tif", SEED, 1024)
    assert cog_validate(path, strict=True)[:2] == (True, [])
    with rasterio.open(path) as dataset:
        assert np.array_equal(dataset.read(), medium.rgb)
        assert dataset.descriptions == ("red", "green", "blue")
        assert dataset.colorinterp == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        assert (dataset.crs.to_epsg(), dataset.res, dataset.nodata) == (32632, (0.5, 0.5), 0)
        assert dataset.block_shapes[0] == (512, 512)
        assert dataset.overviews(1)
        assert np.array_equal(dataset.dataset_mask() > 0, medium.valid)
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


def test_labels_are_a_valid_cog(tmp_path: Path, medium: Landscape) -> None:
    path = scene.write_labels(tmp_path / "labels.tif", SEED, 1024)
    assert cog_validate(path, strict=True)[:2] == (True, [])
    with rasterio.open(path) as dataset:
        assert np.array_equal(dataset.read(1), medium.labels)
        assert dataset.nodata == NO_LABEL
        red, green, blue, alpha = dataset.colormap(1)[int(Label.WATER)]
        assert f"{red:02X}{green:02X}{blue:02X}" == CLASSES[Label.WATER][1]
        assert alpha == 255


def test_failed_write_leaves_nothing(tmp_path: Path, small: Landscape, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(scene.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        scene.write_picture(tmp_path / "scene.tif", small)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_those_of_the_card() -> None:
    card = yaml.safe_load((MODEL / "model.yaml").read_text())
    (artifact,) = card["serving"]["artifacts"]
    weights = MODEL / artifact["href"]
    assert artifact["checksum"] == checksum(weights)
    assert artifact["size"] == weights.stat().st_size <= 3_000_000
    classes = card["properties"]["output"][0]["classification:classes"]
    assert [entry["value"] for entry in classes] == [int(label) for label in Label]


def test_card_states_the_halo_that_is_measured() -> None:
    torch = pytest.importorskip("torch")
    from model_registry.architectures import build
    from tiler.demo.probe import measure_halo, reach

    card = yaml.safe_load((MODEL / "model.yaml").read_text())
    torch.manual_seed(0)
    # Random weights, and not the trained ones: what the structure can see, whatever it was taught to look at.
    model = build(card["properties"]["architecture"], card["properties"]["hyperparameters"]).eval()
    window = card["serving"]["window"]
    assert measure_halo(model, window["period"]) == window["halo"]
    assert not reach(model, window["period"], window["halo"] - window["period"])


def test_unknown_architecture_is_refused() -> None:
    from model_registry.architectures import build

    with pytest.raises(ValueError, match="known: .*unet"):
        build("resnet", {})


@pytest.mark.parametrize("wrong", [{"depht": 3}, {"depth": 0}, {"classes": "6"}])
def test_wrong_hyperparameters_are_refused(wrong: dict[str, object]) -> None:
    pytest.importorskip("torch")
    from model_registry.architectures import build

    with pytest.raises(ValueError):
        build("unet", wrong)


@pytest.mark.slow
def test_weights_map_a_landscape_never_seen() -> None:
    pytest.importorskip("torch")
    load_file = pytest.importorskip("safetensors.torch").load_file
    from model_registry.architectures import build
    from tiler.demo.train import EVALUATION_SEED, TRAINING_SEEDS, judge, predict

    assert HELD_OUT_SEED not in (*TRAINING_SEEDS, EVALUATION_SEED, scene.DEMO_SEED)
    card = yaml.safe_load((MODEL / "model.yaml").read_text())
    model = build(card["properties"]["architecture"], card["properties"]["hyperparameters"])
    model.load_state_dict(load_file(MODEL / "model.safetensors"))
    landscape = generate(HELD_OUT_SEED, 1024)
    quality = judge(predict(model.eval(), landscape), landscape)
    assert quality.mean_iou >= 0.85, quality
