"""OpenVINO on ONNX files: the reference's answers, its own traps."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from model_registry import testing
from model_registry.candidates import installed
from model_registry.errors import ArtifactError, ContractError, UnsupportedModel
from model_registry.manifest import Model, open_model
from model_registry.runtimes import Demands, Runner, load_runner

# Not importorskip, which would import it with its usage statistics.
pytestmark = pytest.mark.skipif(not installed("openvino"), reason="openvino is not installed")
FIVE = list("abcde")
ROOT = Path(__file__).resolve().parents[2]


def pair(folder: Path, net: onnx.ModelProto, **kwargs) -> tuple[Runner, Runner]:
    model = open_model(testing.write_model(folder, net, **{"classes": FIVE} | kwargs))
    return load_runner(model, threads=1), load_runner(model, threads=1, runtime="openvino")


def pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(3).integers(0, 250, shape).astype(dtype)


@pytest.mark.parametrize(
    ("net", "scaling"),
    [
        (testing.conv_chain(), [{"type": "scale", "value": 255}]),
        (testing.strided_unet(2), [{"type": "z-score", "mean": m, "stddev": 50} for m in (90, 100, 110)]),
        (testing.global_mean(classes=5), [{"type": "scale", "value": 255}]),
        (testing.instance_norm(classes=5), [{"type": "scale", "value": 255}]),
    ],
    ids=["chain", "unet", "mean", "instance norm"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_equals_the_reference_at_any_size(tmp_path: Path, net, scaling, dtype: str):
    reference, run = pair(tmp_path / "m", net, scaling=scaling)
    assert (run.runtime, run.device, run.precision) == ("openvino", "cpu", "fp32")
    for batch, height, width in ((1, 64, 64), (2, 32, 96), (1, 128, 20)):
        x = pixels(batch, 3, height, width, dtype=dtype)
        wanted, got = reference(x, probabilities=True), run(x, probabilities=True)
        np.testing.assert_allclose(got.probabilities, wanted.probabilities, atol=1e-5)
        two = np.sort(wanted.probabilities, axis=1)
        assert not ((got.classes != wanted.classes) & (two[:, -1] - two[:, -2] > 1e-4)).any()
        np.testing.assert_array_equal(run(x).classes, got.classes)
        assert got.classes.dtype == np.uint8 and got.classes.shape == (batch, height, width)


def test_ties_go_to_the_lowest_class(tmp_path: Path):
    reference, run = pair(
        tmp_path / "m", testing.value_classes([0, 10, 10, 0]), classes=list("abcd"), bands=["x"], scaling=None
    )
    x = np.array([[0, 10], [5, 200]], dtype=np.uint8)[None, None]
    assert run(x).classes.tolist() == reference(x).classes.tolist() == [[[0, 1], [0, 1]]]


def test_answers_do_not_change_when_the_next_window_is_run(tmp_path: Path):
    _, run = pair(tmp_path / "m", testing.conv_chain(), output={"activation": "none"})
    a, b = (np.full((1, 3, 32, 32), v, dtype=np.uint8) for v in (9, 200))
    first, scores = run(a, probabilities=True), run.logits(a / np.float32(255))
    kept = first.probabilities.copy()
    run(b, probabilities=True)
    run.logits(b / np.float32(255))
    np.testing.assert_array_equal(first.probabilities, kept)
    np.testing.assert_array_equal(scores, kept)


def test_unscale_threshold_and_labels(tmp_path: Path):
    reference, run = pair(
        tmp_path / "m", testing.conv_chain(layers=1), values="physical", dtypes=["float32"], scaling=None,
        output={"activation": "softmax", "threshold": 0.6},
    )  # fmt: skip
    x, unscale = pixels(1, 3, 40, 40, dtype="uint16"), (np.full(3, 0.004), np.zeros(3))
    np.testing.assert_array_equal(run(x, unscale).classes, reference(x, unscale).classes)
    assert (run(x, unscale).classes == 0).mean() > 0.2
    _, run = pair(
        tmp_path / "n", testing.passthrough(), classes=[str(i) for i in range(256)], bands=["x"], scaling=None,
        output={"emits": "labels"},
    )  # fmt: skip
    np.testing.assert_array_equal(run(pixels(1, 1, 9, 7)).classes, pixels(1, 1, 9, 7)[:, 0])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_static_batch_is_filled_up(tmp_path: Path, count: int):
    reference, run = pair(tmp_path / "m", testing.conv_chain(layers=2, size=(32, 48), batch=2))
    assert run.demands == Demands(fixed=(32, 48), multiple=None, batch=2)
    x = pixels(count, 3, 32, 48).astype(np.float32) / np.float32(255)
    np.testing.assert_allclose(run.logits(x), reference.logits(x), atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failing_size_is_a_contract_error_and_spoils_nothing(tmp_path: Path, threads: int):
    """With one thread OpenVINO itself raises nothing and leaves its last answer in place."""
    model = open_model(testing.write_model(tmp_path / "m", testing.strided_unet(2), classes=FIVE))
    run = load_runner(model, threads=threads, runtime="openvino")
    x = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    before = run.logits(x)
    for height, width in ((30, 32), (32, 30), (29, 29)):
        with pytest.raises(ContractError, match=rf"\[1, 3, {height}, {width}\]"):
            run.logits(np.zeros((1, 3, height, width), dtype=np.float32))
        np.testing.assert_array_equal(run.logits(x), before)


def test_nan_in_a_window_is_refused_not_mapped(tmp_path: Path):
    reference, run = pair(tmp_path / "m", testing.conv_chain(), scaling=None, values="physical", dtypes=["float32"])
    x = pixels(1, 3, 32, 32, dtype="float32")
    x[0, 0, 5, 5] = np.nan
    for runner in (reference, run):
        with pytest.raises(ContractError, match="not finite"):
            runner(x)


def test_precision_is_what_was_asked(tmp_path: Path):
    model = open_model(testing.write_model(tmp_path / "m", testing.strided_unet(2), classes=FIVE))
    fp32, bf16 = (load_runner(model, threads=1, runtime="openvino", precision=p) for p in ("fp32", "bf16"))
    assert (fp32.precision, bf16.precision) == ("fp32", "bf16")
    x = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    reference = load_runner(model, threads=1).logits(x)
    np.testing.assert_allclose(fp32.logits(x), reference, atol=1e-5)
    assert np.abs(bf16.logits(x) - reference).max() < 0.3
    with pytest.raises(UnsupportedModel, match="does not run fp16"):
        load_runner(model, runtime="openvino", precision="fp16")
    with pytest.raises(UnsupportedModel, match="runs fp32 only"):
        load_runner(model, precision="bf16")


def refused(model: Model, error: type[Exception], match: str, **kwargs) -> None:
    with pytest.raises(error, match=match):
        load_runner(model, runtime="openvino", **kwargs)


def test_what_cannot_be_loaded(tmp_path: Path):
    net = testing.conv_chain(layers=1)
    model = open_model(testing.write_model(tmp_path / "m", net, classes=FIVE))
    refused(model, UnsupportedModel, "serves the CPU", device="cuda")
    refused(replace(model, artifacts=model.artifacts * 2), UnsupportedModel, "2 artifacts")
    with pytest.raises(UnsupportedModel, match="torch does not run onnx files"):
        load_runner(model, runtime="torch")
    external = onnx.ModelProto()
    external.CopyFrom(net)
    external.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    refused(open_model(testing.write_model(tmp_path / "e", external, classes=FIVE)), UnsupportedModel, "external data")
    custom = onnx.ModelProto()
    custom.CopyFrom(net)
    custom.graph.node[0].domain = "someones.own"
    custom.opset_import.append(onnx.helper.make_opsetid("someones.own", 1))
    refused(open_model(testing.write_model(tmp_path / "c", custom, classes=FIVE)), ArtifactError, "OpenVINO cannot")
    wide = open_model(testing.write_model(tmp_path / "w", net, classes=FIVE, bands=list("wxyz")))
    refused(wide, ContractError, "the manifest has 4 bands")


def test_no_usage_statistics(tmp_path: Path):
    """Importing OpenVINO as it comes writes an identifier into the home folder and reports to a web service."""
    code = """
import sys
from model_registry.runtimes.openvino import import_openvino
assert import_openvino().Core() and import_openvino() is sys.modules["openvino"]
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""
    env = {"HOME": str(tmp_path), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True)
    assert not list(tmp_path.iterdir())
