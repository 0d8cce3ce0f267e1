"""Published networks against labels that others have drawn: the endpoint's numbers are those of one offline pass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn import metrics
from starlette.testclient import TestClient

from benchmarks import accuracy
from model_registry.testing import write_model
from tests.tiler.helpers import best_and_lead, blended_scene, softmax, whole_scores
from tests.tiler.test_real import NAIP_BANDS, NAIP_CLASSES, NAIP_WINDOW, SENTINEL_2, WORLD_COVER
from tiler.app import create_app
from tiler.settings import Settings

pytestmark = [pytest.mark.real, pytest.mark.slow]

WORLD = "dynamicworld/dynamicworld_forward_dn.onnx"
NAIP = "azure_naip_landcover_model/naip4_landcover5_250epochs.onnx"


@pytest.fixture(scope="module")
def client(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("models")
    world = write_model(
        folder / "world",
        onnx.load(shared / WORLD),
        classes=[{"value": i, "name": n, "color_hint": c} for i, (n, c) in enumerate(WORLD_COVER)],
        bands=SENTINEL_2, gsd=None, dtypes=("uint16", "int16"), scaling=None,
        # The scene of sen1floods11_spain has pixels of 7.9 x 10 m on the ground.
        resolution={"value": 10, "unit": "m", "tolerance": 0.3},
    )  # fmt: skip
    naip = write_model(
        folder / "naip", onnx.load(shared / NAIP), classes=NAIP_CLASSES, bands=NAIP_BANDS, gsd=1.0, scaling=None,
        window=NAIP_WINDOW, exactness="bounded",
    )  # fmt: skip
    spain = shared / accuracy.SPAIN
    drawn = {"path": str(spain.with_name("Spain_7370579_LabelHand.tif")), "classes": {1: "water", 0: "*"}}
    scenes = {"spain": {"path": str(spain), "labels": {**drawn, "ignore": [-1]}}}
    for number, path in enumerate(patches(shared)):
        # Labels: 1 water, 2 tree, 3 low vegetation, 4 barren, 5 impervious, 6 road; nodata 0.
        means = {1: "water", 2: "tree", 3: "herbaceous", 4: "impervious", 5: "impervious", 6: "impervious"}
        labels = {"path": str(path.with_name(path.name.replace("_naip", "_lc"))), "classes": means}
        scenes[f"patch{number}"] = {"path": str(path), "bands": [1, 2, 3, 4], "labels": labels}
    settings = Settings(scenes=scenes, models={"world": str(world), "naip": str(naip)}, runtime="onnxruntime")
    with TestClient(create_app(settings)) as made:
        yield made


def patches(shared: Path) -> list[Path]:
    return sorted((shared / accuracy.PATCHES).glob("*_naip.tif"))[:3]


def test_water_over_spain(client: TestClient, shared: Path) -> None:
    answer = client.post("/spain/world/accuracy")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    labels = accuracy.read_labels(shared / accuracy.SPAIN.with_name("Spain_7370579_LabelHand.tif"))
    scores = whole_scores(
        shared / WORLD, accuracy.sentinel_bands(shared / accuracy.SPAIN).astype(np.float32), pad=64, multiple=2
    )
    offline, lead = best_and_lead(scores)
    known = labels >= 0
    # Pixels whose two best classes are as good as equal may fall to either side.
    unsure = int((lead <= 1e-5)[known].sum())
    assert unsure <= 5
    truth, predicted = labels[known] == 1, offline[known] == 0
    assert [entry["name"] for entry in found["classes"]] == ["water", "other"]
    expected = metrics.confusion_matrix(truth, predicted, labels=[True, False])
    assert np.abs(np.array(found["confusion_matrix"]) - expected).sum() <= 2 * unsure
    close = 1e-12 + 2 * unsure / truth.sum()
    assert found["overall_accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted), abs=close)
    assert found["classes"][0]["iou"] == pytest.approx(metrics.jaccard_score(truth, predicted), abs=close)
    assert found["overall_accuracy"] == pytest.approx(0.875, abs=0.002)
    assert found["classes"][0]["iou"] == pytest.approx(0.64, abs=0.005)
    assert found["pixels"]["ignored"] == (labels == -1).sum() and found["pixels"]["unknown"] == 0
    print(json.dumps({name: found[name] for name in ("overall_accuracy", "kappa", "mean_iou", "pixels", "hectares")}))


def test_land_cover_of_naip_patches(client: TestClient, shared: Path) -> None:
    """Several labels for one class, blended windows: the same numbers as one window offline."""
    for number, path in enumerate(patches(shared)):
        found = client.post(f"/patch{number}/naip/accuracy").json()
        with accuracy.rasterio.open(path) as dataset:
            pixels = dataset.read().astype(np.float32)
        shares = blended_scene(shared / NAIP, pixels, softmax, side=512, halo=64)
        labels = accuracy.PATCH_CLASSES[accuracy.read_labels(path.with_name(path.name.replace("_naip", "_lc")))]
        ordered = np.sort(shares, axis=0)
        unsure = int((ordered[-1] - ordered[-2] < 2e-3).sum())
        known = labels > 0
        expected = metrics.confusion_matrix(labels[known], shares.argmax(axis=0)[known], labels=range(5))
        # Probabilities are kept in float16: pixels whose two best lie that close may fall to either side.
        assert np.abs(np.array(found["confusion_matrix"]) - expected).sum() <= 2 * unsure
        assert found["pixels"]["judged"] == known.sum() and found["pixels"]["unlabelled"] == (~known).sum()
        # A metre on a side, in UTM: what it has more on the ground is the projection's.
        assert found["hectares"]["total"] == pytest.approx(256 * 256 / 1e4, rel=2e-3)


def test_areas_of_a_whole_scene_are_all_of_it(client: TestClient) -> None:
    whole = client.post("/spain/world/areas").json()
    assert whole["pixels"] + whole["no_prediction"]["pixels"] == 512 * 512
    assert sum(entry["percent"] for entry in whole["classes"]) == pytest.approx(100, abs=1e-3)
