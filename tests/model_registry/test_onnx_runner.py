from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_registry import scaling, testing
from model_registry.errors import ArtifactError, ContractError, UnsupportedModel
from model_registry.manifest import open_model
from model_registry.runtimes import Demands, Runner, load_runner


def runner(folder: Path, net: onnx.ModelProto, **kwargs) -> Runner:
    kwargs.setdefault("classes", ["a", "b", "c", "d", "e"])
    return load_runner(open_model(testing.write_model(folder, net, **kwargs)), threads=1)


def pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(3).integers(0, 250, shape).astype(dtype)


def test_the_answer_is_the_nearest_value_at_the_same_pixel(tmp_path: Path):
    run = runner(tmp_path / "m", testing.value_classes([0, 100, 200, 250, 300]), bands=["x"], scaling=None)
    x = np.array([[0, 49, 51], [149, 151, 255]], dtype=np.uint8)[None, None]
    got = run(x, probabilities=True)
    assert got.classes.tolist() == [[[0, 0, 1], [1, 2, 3]]]
    assert got.probabilities.shape == (1, 5, 2, 3) and got.probabilities.dtype == np.float32
    assert (run.runtime, run.device, run.precision) == ("onnxruntime", "cpu", "fp32")


def test_labels_hand_the_input_on(tmp_path: Path):
    listed = [f"{i}" for i in range(256)]
    run = runner(
        tmp_path / "m", testing.passthrough(), classes=listed, bands=["x"], scaling=None, output={"emits": "labels"}
    )
    x = pixels(2, 1, 9, 7)
    np.testing.assert_array_equal(run(x).classes, x[:, 0])
    with pytest.raises(UnsupportedModel):
        run(x, probabilities=True)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_scaling_is_applied_in_float32_from_any_dtype(tmp_path: Path, dtype: str):
    entries = [{"type": "z-score", "mean": m, "stddev": s} for m, s in ((90, 30), (100, 40), (110, 50))]
    run = runner(tmp_path / "m", testing.conv_chain(layers=1), scaling=entries)
    x = pixels(1, 3, 20, 20, dtype=dtype)
    scaled = (x.astype("float32") - np.float32([90, 100, 110])[:, None, None]) / np.float32([30, 40, 50])[:, None, None]
    expected = run.logits(scaled).argmax(axis=1)
    np.testing.assert_array_equal(run(x).classes, expected)
    assert len(np.unique(expected)) == 5


def test_unscale_comes_before_the_scaling(tmp_path: Path):
    run = runner(tmp_path / "m", testing.conv_chain(layers=1), values="physical", dtypes=["float32"], scaling=None)
    x = pixels(1, 3, 20, 20, dtype="uint16")
    scale, offset = np.array([0.01, 0.02, 0.03]), np.array([-0.1, 0.0, 0.1])
    physical = x.astype(np.float32) * np.float32(scale)[:, None, None] + np.float32(offset)[:, None, None]
    np.testing.assert_array_equal(run(x, unscale=(scale, offset)).classes, run(physical).classes)
    assert np.mean(run(x, unscale=(scale, offset)).classes != run(x).classes) > 0.1


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_static_batch_is_filled_up(tmp_path: Path, count: int):
    free = runner(tmp_path / "free", testing.conv_chain(layers=2))
    fixed = runner(tmp_path / "fixed", testing.conv_chain(layers=2, size=(32, 48), batch=2))
    assert fixed.demands == Demands(fixed=(32, 48), multiple=None, batch=2)
    x = pixels(count, 3, 32, 48).astype(np.float32)
    a, b = free.logits(x), fixed.logits(x)
    assert a.shape == b.shape == (count, 5, 32, 48)
    np.testing.assert_array_equal(a.argmax(axis=1), b.argmax(axis=1))


@pytest.mark.parametrize(
    ("dims", "demands"),
    [
        (["batch", 3, "16*h", "16*w"], Demands(multiple=16)),
        (["batch", 3, "h*8", "12*w"], Demands(multiple=24)),
        (["n", 3, "height", "width"], Demands()),
        ([1, 3, 512, 256], Demands(fixed=(512, 256), batch=1)),
        (["n", 3, "h + 1", "w"], Demands()),
    ],
)
def test_demands_are_read_from_the_input(tmp_path: Path, dims, demands):
    net = testing.conv_chain(layers=1)
    net.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, dims))
    del net.graph.output[0].type.tensor_type.shape.dim[:]
    net.graph.output[0].type.tensor_type.ClearField("shape")
    assert runner(tmp_path / "m", net).demands == demands


def test_wrong_number_of_bands_names_both(tmp_path: Path):
    with pytest.raises(ContractError, match=r"'n', 3, 'h', 'w'\], the manifest has 4 bands"):
        runner(tmp_path / "m", testing.conv_chain(layers=1), bands=["a", "b", "c", "d"])


def test_channels_last_networks_are_recognised(tmp_path: Path):
    axes = ["n", 64, 64, 3]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", info[:1], info[1:])
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ContractError, match=r"looks like \[batch, row, column, band\]"):
        runner(tmp_path / "m", net)


def test_several_outputs_are_not_guessed_among(tmp_path: Path):
    net = testing.conv_chain(layers=1)
    net.graph.output.append(helper.make_tensor_value_info("v0", TensorProto.FLOAT, None))
    with pytest.raises(UnsupportedModel, match="2 outputs"):
        runner(tmp_path / "m", net)


def test_external_data_is_refused(tmp_path: Path):
    folder = testing.write_model(tmp_path / "m", testing.conv_chain(layers=1), classes=["a", "b", "c", "d", "e"])
    net = onnx.load(folder / "model.onnx")
    onnx.save(net, tmp_path / "e.onnx", save_as_external_data=True, size_threshold=0)
    data = (tmp_path / "e.onnx").read_bytes()
    with pytest.raises(UnsupportedModel, match="external data"):
        runner(tmp_path / "x", onnx.load(tmp_path / "e.onnx", load_external_data=False))
    assert len(data) < (folder / "model.onnx").stat().st_size


def test_custom_operators_are_off(tmp_path: Path):
    net = testing.conv_chain(layers=1)
    net.graph.node[0].domain = "someones.own"
    net.opset_import.append(helper.make_opsetid("someones.own", 1))
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load"):
        runner(tmp_path / "m", net)


def test_integer_inputs_only_without_scaling(tmp_path: Path):
    axes = ["n", 1, "h", "w"]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["f", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, axes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, "h", "w"])],
        [numpy_helper.from_array(np.array([1, -1], dtype=np.float32).reshape(2, 1, 1, 1), "w")],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    run = runner(tmp_path / "m", net, classes=["a", "b"], bands=["x"], scaling=None)
    assert run(np.full((1, 1, 2, 2), 200, dtype=np.uint8)).classes.tolist() == [[[0, 0], [0, 0]]]
    with pytest.raises(UnsupportedModel, match="uint8"):
        runner(tmp_path / "s", net, classes=["a", "b"], bands=["x"])


def test_devices(tmp_path: Path):
    model = open_model(testing.write_model(tmp_path / "m", testing.conv_chain(layers=1), classes=list("abcde")))
    with pytest.raises(UnsupportedModel, match="'tpu'"):
        load_runner(model, device="tpu")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(UnsupportedModel, match="no CUDA"):
            load_runner(model, device="cuda:0")
    with pytest.raises(UnsupportedModel, match="2 artifacts"):
        load_runner(replace(model, artifacts=model.artifacts * 2))


def test_a_failing_size_is_a_contract_error_with_the_shape(tmp_path: Path):
    run = runner(tmp_path / "m", testing.strided_unet(2))
    with pytest.raises(ContractError, match=r"\[1, 3, 30, 32\]"):
        run.logits(np.zeros((1, 3, 30, 32), dtype=np.float32))


def test_apply_agrees_with_the_runner_on_fill(tmp_path: Path):
    """A pixel filled with "mean" reaches the network as 0."""
    entries = [{"type": "z-score", "mean": 90, "stddev": 30}]
    model = open_model(
        testing.write_model(
            tmp_path / "m", testing.conv_chain(), classes=list("abcde"), scaling=entries, nodata={"fill": "mean"}
        )
    )
    fill = scaling.fill_values(model.nodata, model.scaling, 3)
    run = load_runner(model)
    filled = np.broadcast_to(fill[None, :, None, None], (1, 3, 16, 16))
    zero = run.logits(np.zeros((1, 3, 16, 16), dtype=np.float32))
    np.testing.assert_array_equal(run(filled).classes, zero.argmax(axis=1))
