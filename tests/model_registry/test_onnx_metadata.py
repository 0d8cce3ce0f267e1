"""Bare .onnx files that carry the metadata keys of Deepness or GeoDeep."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from model_registry import live, scaling, testing
from model_registry.errors import ArtifactError, ManifestError, UnsupportedModel
from model_registry.manifest import open_model

DEEPNESS = {
    "model_type": "Segmentor",
    "class_names": {"0": "background", "1": "road", "2": "roof"},
    "resolution": 21,
    "tiles_size": 256,
    "tiles_overlap": 20,
    "seg_thresh": 0.3,
    "seg_small_segment": 7,
    "standardization_mean": [0.5, 0.4, 0.3],
    "standardization_std": [0.2, 0.2, 0.1],
}
GEODEEP = {
    "model_type": "Segmentor",
    "class_names": {"0": "other", "1": "tree", "2": "roof"},
    "resolution": 50.0,
    "tiles_overlap": 5,
    "det_type": "YOLO_v5_or_v7_default",
}


def write(path: Path, keys: dict, net: onnx.ModelProto | None = None) -> Path:
    net = net or testing.conv_chain(layers=1, classes=3)
    path.write_bytes(testing.with_metadata(net, **{k: json.dumps(v) for k, v in keys.items()}).SerializeToString())
    return path


def test_deepness(tmp_path: Path):
    model = open_model(write(tmp_path / "roads v2.onnx", DEEPNESS))
    assert (model.name, model.title, model.version) == ("roads-v2", "roads v2", "1")
    assert [(c.value, c.name) for c in model.classes] == [(0, "background"), (1, "road"), (2, "roof")]
    assert model.resolution is not None and model.resolution.value == pytest.approx(0.21)
    assert (model.window.preferred, model.window.halo, model.threshold) == (256, None, 0.3)
    assert (model.input_values, model.input_dtypes, model.bands) == ("dn", ("uint8",), ("1", "2", "3"))
    pixel = np.array([255, 51, 0], dtype=np.float32).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(scaling.apply(model.scaling, pixel)[0, :, 0, 0], [2.5, -1, -3], rtol=1e-6)


def test_geodeep_with_a_fixed_input(tmp_path: Path):
    path = write(tmp_path / "g.onnx", GEODEEP, testing.conv_chain(layers=1, classes=3, size=(96, 96), batch=1))
    model = open_model(path)
    assert model.window.fixed == (96, 96) and model.window.preferred == 96
    assert model.resolution is not None and model.resolution.value == 0.5
    assert model.threshold is None and (model.emits, model.activation) == ("logits", "softmax")
    loaded = live.load(path)
    assert loaded.model.window.halo == 1 and loaded.model.digest == model.digest
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), dtype=np.uint8)
    assert loaded.runner(pixels).classes.shape == (3, 96, 96)


def test_a_graph_that_ends_in_softmax_emits_probabilities(tmp_path: Path):
    net = testing.conv_chain(layers=1, classes=3)
    net.graph.node[-1].op_type = "Softmax"
    net.graph.node[-1].attribute.append(onnx.helper.make_attribute("axis", 1))
    model = open_model(write(tmp_path / "p.onnx", GEODEEP, net))
    assert (model.emits, model.activation) == ("probabilities", "none")


@pytest.mark.parametrize("key", ["model_type", "class_names", "resolution"])
def test_missing_key_is_named(tmp_path: Path, key: str):
    with pytest.raises(ManifestError, match=f"lacks the key '{key}'"):
        open_model(write(tmp_path / "m.onnx", {k: v for k, v in DEEPNESS.items() if k != key}))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"model_type": "Detector"}, UnsupportedModel, "Detector"),
        ({"class_names": {"0": "a", "2": "b"}}, ManifestError, "class_names"),
        ({"class_names": ["a", "b"]}, ManifestError, "class_names"),
        ({"resolution": "10"}, ManifestError, "'resolution' is '10'"),
        ({"resolution": 0}, ManifestError, "0.0 m"),
        ({"tiles_size": 0.5}, ManifestError, "tiles_size"),
        ({"tiles_overlap": 100}, ManifestError, "tiles_overlap"),
        ({"seg_thresh": 50}, ManifestError, "seg_thresh"),
        ({"seg_treshold": 0.5}, ManifestError, "unknown key 'seg_treshold'"),
        ({"standardization_mean": [1]}, ManifestError, "1 numbers for 3 bands"),
        ({"standardization_std": [0.1, 0, 1]}, ManifestError, "standardization_std"),
    ],
)
def test_refusals(tmp_path: Path, change, kind, message):
    with pytest.raises(kind, match=message):
        open_model(write(tmp_path / "m.onnx", DEEPNESS | change))


def test_half_a_standardization(tmp_path: Path):
    keys = {k: v for k, v in DEEPNESS.items() if k != "standardization_std"}
    with pytest.raises(ManifestError, match="standardization_std"):
        open_model(write(tmp_path / "m.onnx", keys))


def test_values_must_be_json(tmp_path: Path):
    net = testing.with_metadata(testing.conv_chain(layers=1), model_type="Segmentor", class_names="{}", resolution="1")
    (tmp_path / "m.onnx").write_bytes(net.SerializeToString())
    with pytest.raises(ManifestError, match="'model_type' is not JSON"):
        open_model(tmp_path / "m.onnx")


def test_a_real_network_without_keys_is_refused(real: Path, tmp_path: Path):
    source = real / "dynamicworld" / "dynamicworld_forward_dn.onnx"
    (tmp_path / "dw.onnx").write_bytes(source.read_bytes())
    with pytest.raises(ManifestError, match="model_type"):
        open_model(tmp_path / "dw.onnx")


def test_not_onnx(tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(b"PK\x03\x04 a zip file")
    with pytest.raises(ArtifactError, match="not an ONNX model"):
        open_model(tmp_path / "m.onnx")
