"""The probe against networks whose period and halo are known from how they are built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from model_registry import probe, probe_cache, testing
from model_registry.errors import ContractError
from model_registry.manifest import open_model
from model_registry.probe import Probe, measure, measure_or_recall
from model_registry.runtimes import load_runner


def probed(folder: Path, net: onnx.ModelProto, classes: int = 5, **kwargs) -> Probe:
    names = [str(i) for i in range(classes)]
    model = open_model(testing.write_model(folder, net, classes=names, **kwargs))
    return measure(model, load_runner(model))


@pytest.mark.parametrize(
    ("net", "period", "halo"),
    [
        (testing.conv_chain(layers=0), 1, 0),
        (testing.conv_chain(kernel=3, layers=1), 1, 1),
        (testing.conv_chain(kernel=5, dilation=3, layers=3), 1, 18),
        (testing.conv_chain(dilation=16, layers=5), 1, 80),
        (testing.conv_chain(dilation=40, layers=5), 1, 200),
        (testing.strided_unet(1), 2, 6),
        (testing.strided_unet(2), 4, 12),
        (testing.strided_unet(3), 8, 24),
    ],
    ids=["1x1", "3x3", "halo 18", "halo 80", "halo 200", "stride 2", "stride 4", "stride 8"],
)
def test_exact_networks(tmp_path: Path, net, period, halo):
    found = probed(tmp_path / "m", net)
    assert (found.exactness, found.period, found.multiple, found.halo) == ("exact", period, period, halo), found.notes


@pytest.mark.parametrize("net", [testing.global_mean(), testing.instance_norm()], ids=["mean", "instance norm"])
def test_statistics_over_the_window_are_never_exact(tmp_path: Path, net):
    found = probed(tmp_path / "m", net, classes=4)
    assert found.exactness == "unsafe" and found.halo == 128
    assert "statistics over the window" in found.notes[0] and "surroundings move" in found.notes[-1]


def test_more_context_than_the_limit_is_not_exact(tmp_path: Path):
    found = probed(tmp_path / "m", testing.conv_chain(dilation=120, layers=6))
    assert found.exactness != "exact"


def squeezed(strength: float) -> onnx.ModelProto:
    """A convolution whose output is multiplied by 1 + strength * mean: squeeze and excite, weak or strong."""
    g = testing._Graph(4)
    x = g.conv("x", 3, 8)
    gate = g.add("Mul", g.add("GlobalAveragePool", x), g.weight(strength))
    return g.finish(g.conv(g.add("Add", x, gate), 8, 5), 3, 5)


def test_a_weak_dependence_is_bounded_and_a_strong_one_unsafe(tmp_path: Path):
    assert probed(tmp_path / "weak", squeezed(1e-4)).exactness == "bounded"
    assert probed(tmp_path / "strong", squeezed(2.0)).exactness == "unsafe"


def test_upsampling_that_depends_on_the_size(tmp_path: Path):
    """align_corners: the sampling points depend on the window's size and place."""
    g = testing._Graph(2)
    low = g.add("MaxPool", g.conv("x", 3, 8), kernel_shape=[2, 2], strides=[2, 2])
    up = g.add("Resize", low, "", g.weight([1, 1, 2, 2]), mode="linear", coordinate_transformation_mode="align_corners")
    assert probed(tmp_path / "m", g.finish(g.conv(up, 8, 5), 3, 5)).exactness != "exact"


def test_an_answer_that_depends_on_the_windows_size_only(tmp_path: Path):
    g = testing._Graph(2)
    shape = g.add("Cast", g.add("Shape", "x", start=2), to=onnx.TensorProto.FLOAT)
    area = g.add("ReduceProd", shape, keepdims=0)
    first = g.weight(np.array([1e-4, 0, 0, 0, 0]).reshape(1, 5, 1, 1))
    scores = g.add("Add", g.conv("x", 3, 5), g.add("Mul", first, area))
    found = probed(tmp_path / "m", g.finish(scores, 3, 5))
    assert found.exactness != "exact" and "window's size" in found.notes[0]


def test_an_answer_that_depends_on_the_rest_of_the_batch_is_unsafe(tmp_path: Path):
    """As a batch norm left in training mode does."""
    g = testing._Graph(2)
    x = g.conv("x", 3, 5)
    scores = g.add("Sub", x, g.add("Mul", g.add("ReduceMean", x, axes=[0]), g.weight(0.5)))
    found = probed(tmp_path / "m", g.finish(scores, 3, 5))
    assert found.exactness == "unsafe" and "other windows of a batch" in found.notes[0]


def test_fixed_size_networks(tmp_path: Path):
    found = probed(tmp_path / "m", testing.conv_chain(kernel=5, layers=3, size=(128, 96), batch=1))
    assert (found.exactness, found.period, found.halo) == ("exact", 1, 6)
    found = probed(tmp_path / "n", testing.strided_unet(2, size=(128, 128)))
    assert (found.exactness, found.period, found.halo) == ("exact", 4, 12)


@pytest.mark.parametrize(
    ("net", "most", "period", "halo"),
    [
        (testing.conv_chain(kernel=3, layers=1), 100, 1, 1),
        (testing.conv_chain(kernel=5, dilation=3, layers=3), 150, 1, 18),
        (testing.strided_unet(3), 200, 8, 24),
        (testing.strided_unet(3), 203, 8, 24),
        (testing.conv_chain(dilation=16, layers=5), 1024, 1, 80),
    ],
)
def test_no_window_is_larger_than_the_model_allows(tmp_path: Path, net, most: int, period: int, halo: int):
    names = [str(i) for i in range(5)]
    model = open_model(testing.write_model(tmp_path / "m", net, classes=names, window={"max": most}))
    runner = load_runner(model)
    shapes: list[tuple[int, ...]] = []
    logits = runner.logits
    runner.logits = lambda x: (shapes.append(x.shape), logits(x))[1]  # type: ignore[method-assign]
    found = measure(model, runner)
    assert (found.exactness, found.period, found.multiple, found.halo) == ("exact", period, period, halo), found.notes
    assert max(side for shape in shapes for side in shape[2:]) <= most


def test_a_network_that_fails_in_larger_windows_is_measured_within_what_it_states(tmp_path: Path):
    net = testing.learned_positions(128)
    found = probed(tmp_path / "m", net, classes=4, window={"max": 128})
    assert found.exactness == "unsafe" and found.halo == 32 and {seam.window for seam in found.errors} == {64, 128}
    assert "learned positions" in found.notes[0]
    with pytest.raises(ContractError, match=r"serving\.window\.max"):
        probed(tmp_path / "unsaid", net, classes=4)


def test_sixteen_bit_input_keeps_deep_layers_alive(tmp_path: Path):
    found = probed(tmp_path / "m", testing.conv_chain(layers=3), scaling=None, dtypes=["uint16"])
    assert (found.exactness, found.halo) == ("exact", 3)


def test_labels_can_be_probed(tmp_path: Path):
    net = testing.conv_chain(layers=2)
    net.graph.node[-1].CopyFrom(onnx.helper.make_node("ArgMax", [net.graph.node[-1].input[0]], ["i"], axis=1))
    net.graph.node.append(onnx.helper.make_node("Cast", ["i"], ["scores"], to=onnx.TensorProto.FLOAT))
    net.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    found = probed(tmp_path / "m", net, output={"emits": "labels"})
    assert (found.exactness, found.period) == ("exact", 1) and found.halo == 2


def test_a_constant_network_is_not_called_exact(tmp_path: Path):
    g = testing._Graph()
    zero = g.add("Mul", g.conv("x", 3, 5), g.weight(0))
    found = probed(tmp_path / "m", g.finish(zero, 3, 5))
    assert found.exactness == "bounded" and any("constant" in note for note in found.notes)


def test_no_size_at_all_is_a_contract_error(tmp_path: Path):
    g = testing._Graph()
    smaller = g.add("MaxPool", g.conv("x", 3, 5), kernel_shape=[3, 3])
    with pytest.raises(ContractError, match="none of the window sizes"):
        probed(tmp_path / "m", g.finish(smaller, 3, 5))


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({"multiple": 4, "period": 4, "halo": 12}, ("exact", 12)),
        ({"multiple": 4, "period": 8, "halo": 20}, ("exact", 24)),
        ({"period": 4}, ("exact", 12)),
    ],
)
def test_stated_numbers_are_checked_not_searched(tmp_path: Path, window, expected):
    found = probed(tmp_path / "m", testing.strided_unet(2), window=window)
    assert (found.exactness, found.halo) == expected


def test_stated_period_that_does_not_hold(tmp_path: Path):
    found = probed(tmp_path / "m", testing.strided_unet(2), window={"period": 2})
    assert found.exactness != "exact" and "stated period of 2 px" in found.notes[0]


def test_stated_halo_that_is_too_small(tmp_path: Path):
    found = probed(tmp_path / "m", testing.conv_chain(layers=8), window={"halo": 4})
    assert (found.exactness, found.halo) == ("exact", 8) and "4 px is too small" in found.notes[0]


def test_results_are_kept_and_found_again(tmp_path: Path, private_cache: Path):
    model = open_model(testing.write_model(tmp_path / "m", testing.conv_chain(), classes=list("abcde")))
    runner = load_runner(model)
    first = measure_or_recall(model, runner)
    calls = []
    runner.logits = lambda x: calls.append(x)  # type: ignore[method-assign]
    assert measure_or_recall(model, runner) == first and not calls
    (kept,) = (private_cache / "titiler-inference" / "probe").iterdir()
    assert kept.name == probe_cache.key(model.digest, "onnxruntime", "cpu", probe.VERSION) + ".json"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"multiple": 0, "period": 1, "halo": 0, "exactness": "exact"}'])
def test_a_spoilt_cache_is_measured_again(tmp_path: Path, private_cache: Path, text: str):
    model = open_model(testing.write_model(tmp_path / "m", testing.conv_chain(), classes=list("abcde")))
    runner = load_runner(model)
    first = measure_or_recall(model, runner)
    (kept,) = (private_cache / "titiler-inference" / "probe").iterdir()
    kept.write_text(text)
    assert measure_or_recall(model, runner) == first and kept.read_text() != text


def test_an_unwritable_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    model = open_model(testing.write_model(tmp_path / "m", testing.conv_chain(), classes=list("abcde")))
    assert measure_or_recall(model, load_runner(model)).halo == 4


def test_a_search_without_time_keeps_a_proven_halo(tmp_path: Path):
    model = open_model(testing.write_model(tmp_path / "m", testing.conv_chain(layers=9), classes=list("abcde")))
    found = measure(model, load_runner(model), budget_s=0)
    assert found.exactness == "exact" and found.halo > 9 and "out of time" in found.notes[0]


def test_the_measured_halo_is_enough_and_one_period_less_is_not(tmp_path: Path):
    """Independent of the probe's own experiments: windows of one large image against one pass over it."""
    model = open_model(testing.write_model(tmp_path / "m", testing.strided_unet(2), classes=list("abcde")))
    runner = load_runner(model)
    found = measure(model, runner)
    image = np.random.default_rng(5).random((1, 3, 160, 192), dtype=np.float32)
    whole = runner.logits(image)

    def core(halo: int) -> np.ndarray:
        window = np.ascontiguousarray(image[..., 64 - halo : 96 + halo, 80 - halo : 112 + halo])
        return runner.logits(window)[..., halo : halo + 32, halo : halo + 32]

    wanted = whole[..., 64:96, 80:112]
    np.testing.assert_allclose(core(found.halo), wanted, atol=1e-5)
    assert np.abs(core(found.halo - found.period) - wanted).max() > 1e-3
