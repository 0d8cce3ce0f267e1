from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from model_registry import live, testing
from model_registry.errors import ContractError
from model_registry.manifest import open_model

FIVE = ["a", "b", "c", "d", "e"]


def test_every_auto_is_resolved(tmp_path: Path):
    folder = testing.write_model(tmp_path / "m", testing.strided_unet(2), classes=FIVE)
    before = open_model(folder)
    assert (before.window.halo, before.exactness) == (None, None)
    loaded = live.load(folder)
    window = loaded.model.window
    assert (window.multiple, window.period, window.halo, loaded.model.exactness) == (4, 4, 12, "exact")
    assert loaded.model.digest == before.digest and loaded.probe.halo == 12
    loaded.close()


def test_all_stated_is_taken_without_measuring(tmp_path: Path, private_cache: Path):
    window = {"multiple": 8, "period": 8, "halo": 3}
    folder = testing.write_model(
        tmp_path / "m", testing.strided_unet(2), classes=FIVE, window=window, exactness="bounded"
    )
    loaded = live.load(folder)
    assert (loaded.model.window.halo, loaded.model.exactness) == (8, "bounded"), "the halo is rounded to the period"
    assert "not measured" in loaded.probe.notes[0] and not list(private_cache.glob("*/probe"))


def test_a_stricter_manifest_stands(tmp_path: Path):
    window = {"multiple": 32, "halo": 50}
    loaded = live.load(testing.write_model(tmp_path / "m", testing.strided_unet(2), classes=FIVE, window=window))
    got = loaded.model.window
    assert (got.multiple, got.period, got.halo, loaded.model.exactness) == (32, 32, 64, "exact")


def test_a_laxer_halo_is_kept_but_not_called_exact(tmp_path: Path):
    net = testing.conv_chain(layers=8)
    loaded = live.load(testing.write_model(tmp_path / "m", net, classes=FIVE, window={"halo": 4}))
    assert (loaded.model.window.halo, loaded.model.exactness, loaded.probe.halo) == (4, "bounded", 8)
    with pytest.raises(ContractError, match="window.halo is 4, an exact answer needs 8"):
        live.load(testing.write_model(tmp_path / "n", net, classes=FIVE, window={"halo": 4}, exactness="exact"))


def test_exact_by_declaration_only_is_refused(tmp_path: Path):
    folder = testing.write_model(tmp_path / "m", testing.global_mean(), classes=FIVE[:4], exactness="exact")
    with pytest.raises(ContractError, match="declared exact, measured is unsafe"):
        live.load(folder)


def test_wrong_number_of_classes_names_both_shapes(tmp_path: Path):
    folder = testing.write_model(tmp_path / "m", testing.conv_chain(classes=5), classes=FIVE[:3])
    with pytest.raises(ContractError, match="5 channels of 128 x 128.*3 classes at 128 x 128"):
        live.load(folder)


def test_smaller_output_is_refused_at_load(tmp_path: Path):
    g = testing._Graph()
    half = g.add("MaxPool", g.conv("x", 3, 5), kernel_shape=[2, 2], strides=[2, 2])
    folder = testing.write_model(tmp_path / "m", g.finish(half, 3, 5), classes=FIVE)
    with pytest.raises(ContractError, match="5 channels of 64 x 64 for an input of 128 x 128"):
        live.load(folder)


def test_answers_that_are_not_finite_are_refused(tmp_path: Path):
    g = testing._Graph()
    folder = testing.write_model(
        tmp_path / "m", g.finish(g.add("Log", g.conv("x", 3, 5)), 3, 5), classes=FIVE, scaling=None
    )
    with pytest.raises(ContractError, match="% of the network's answers .* not finite"):
        live.load(folder)


def test_logits_declared_as_probabilities(tmp_path: Path):
    folder = testing.write_model(tmp_path / "m", testing.conv_chain(), classes=FIVE, output={"emits": "probabilities"})
    with pytest.raises(ContractError, match="no probabilities"):
        live.load(folder)


def test_softmax_of_one_channel_is_refused_and_sigmoid_works(tmp_path: Path):
    net = testing.conv_chain(classes=1)
    folder = testing.write_model(tmp_path / "m", net, classes=["no", "yes"], output={"activation": "softmax"})
    with pytest.raises(ContractError, match="softmax is 1 everywhere"):
        live.load(folder)
    folder = testing.write_model(tmp_path / "n", net, classes=[{"value": 4, "name": "yes"}])
    loaded = live.load(folder)
    got = loaded.runner(np.random.default_rng(0).integers(0, 256, (1, 3, 40, 40), dtype=np.uint8), probabilities=True)
    assert loaded.model.activation == "sigmoid" and got.probabilities.shape == (1, 2, 40, 40)
    np.testing.assert_array_equal(got.classes, got.probabilities[:, 1] >= 0.5)
    assert [c.value for c in loaded.model.classes] == [0, 4]


def test_multiple_from_the_artifact(tmp_path: Path):
    net = testing.strided_unet(2)
    net.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "4*h"
    net.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "4*w"
    assert live.load(testing.write_model(tmp_path / "m", net, classes=FIVE)).model.window.multiple == 4
    with pytest.raises(ContractError, match="window.multiple is 6, the network demands multiples of 4"):
        live.load(testing.write_model(tmp_path / "n", net, classes=FIVE, window={"multiple": 6}))


def test_fixed_size_in_manifest_and_artifact_must_agree(tmp_path: Path):
    net = testing.conv_chain(size=(128, 128), batch=1)
    folder = testing.write_model(tmp_path / "m", net, classes=FIVE)
    assert live.load(folder).model.window.fixed == (128, 128)
    text = (folder / "model.yaml").read_text()
    document = yaml.safe_load(text)
    document["properties"]["input"][0]["input"]["shape"] = [-1, 3, 256, 256]
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ContractError, match="windows of 256 x 256, the network accepts 128 x 128"):
        live.load(folder)


def test_a_failed_load_frees_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    closed = []
    from model_registry.runtimes.onnx import OnnxRunner

    monkeypatch.setattr(OnnxRunner, "close", lambda self: closed.append(self))
    with pytest.raises(ContractError):
        live.load(testing.write_model(tmp_path / "m", testing.conv_chain(classes=5), classes=FIVE[:3]))
    assert len(closed) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "make", [testing.conv_chain, lambda seed: testing.conv_chain(dilation=16, layers=5, seed=seed),
             lambda seed: testing.strided_unet(2, seed=seed)], ids=["halo 4", "halo 80", "stride 4"],
)  # fmt: skip
def test_the_networks_for_tests_show_seams(tmp_path: Path, make, seed: int):
    """On a smooth image, windows without halo must differ from one pass visibly, and all classes must occur."""
    net = make(seed=seed)
    onnx.checker.check_model(net, full_check=True)
    loaded = live.load(testing.write_model(tmp_path / "m", net, classes=FIVE))
    rough = np.random.default_rng(seed).random((1, 3, 32, 32))
    image = (255 * np.kron(rough, np.ones((8, 8)))).astype(np.uint8)
    whole = loaded.runner(image).classes
    cells = np.zeros_like(whole)
    for row in range(0, 256, 64):
        for column in range(0, 256, 64):
            at = np.s_[..., row : row + 64, column : column + 64]
            cells[at] = loaded.runner(np.ascontiguousarray(image[at])).classes
    assert np.mean(cells != whole) > 0.002
    assert len(np.unique(whole)) >= 4
