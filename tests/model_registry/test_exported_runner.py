"""Networks from .pt2 and TorchScript go the way of all torch modules, once their digest is trusted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from model_registry import live, pt2_file, testing, trust
from model_registry.artifacts import checksum_of
from model_registry.candidates import candidates, installed
from model_registry.errors import ArtifactError, ContractError, UnsupportedModel
from model_registry.manifest import Model, open_model
from model_registry.runtimes import load_runner

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
from tests.model_registry import torch_files  # noqa: E402

# Each test starts whole models or children; the fast suite has their parts.
pytestmark = pytest.mark.slow

MEANS = (90, 100, 110)
SCALING = [{"type": "z-score", "mean": m, "stddev": 40} for m in MEANS]


def make(folder: Path, data: bytes, kind: str, trusted: bool = True, **serving) -> Model:
    """A model folder whose artifact is `data`."""
    net = testing.conv_chain(layers=1, classes=4)
    testing.write_model(folder, net, **{"classes": list("abcd"), "scaling": SCALING} | serving)
    (folder / "model.onnx").unlink()
    (folder / "net.bin").write_bytes(data)
    document = yaml.safe_load((folder / "model.yaml").read_text())
    entry = {"href": "net.bin", "format": kind, "checksum": checksum_of(data), "size": len(data)}
    document["serving"]["artifacts"] = [entry]
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    if trusted:
        trust.trust(checksum_of(data))
    return open_model(folder)


@pytest.fixture(params=["pt2", "torchscript"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    data = torch_files.pt2() if request.param == "pt2" else torch_files.torchscript()
    return make(tmp_path / "m", data, request.param)


def expected(x: np.ndarray) -> np.ndarray:
    scaled = (x - np.float32(MEANS)[:, None, None]) / np.float32(40)
    with torch.no_grad():
        return torch_files.network()(torch.from_numpy(scaled)).numpy()


@pytest.mark.parametrize("shape", [(1, 3, 64, 48), (3, 3, 32, 32)])
def test_agrees_with_the_network_itself(model: Model, shape: tuple[int, ...]):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    run = load_runner(model, threads=1)
    got, wanted = run(x, probabilities=True), expected(x)
    share = np.exp(wanted) / np.exp(wanted).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got.probabilities, share, atol=1e-5)
    assert len(np.unique(got.classes)) > 1
    assert (run.runtime, run.precision, run.device) == ("torch", "fp32", "cpu")


def test_reduced_precision_is_near(model: Model):
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8)
    got = load_runner(model, threads=1, precision="bf16")(x, probabilities=True).probabilities
    wanted = load_runner(model, threads=1)(x, probabilities=True).probabilities
    assert 0 < np.abs(got - wanted).max() < 0.1


def test_openvino_gives_the_same(model: Model):
    if not installed("openvino"):
        pytest.skip("openvino is not installed")
    assert "openvino" in {c.runtime for c in candidates(model)}
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 96), dtype=np.uint8)
    got = load_runner(model, threads=1, runtime="openvino")(x, probabilities=True)
    np.testing.assert_allclose(
        got.probabilities, load_runner(model, threads=1)(x, probabilities=True).probabilities, atol=1e-5
    )


def test_the_probe_measures_them(model: Model):
    loaded = live.load(model, threads=1)
    assert (loaded.model.exactness, loaded.model.window.multiple, loaded.model.window.period) == ("exact", 4, 4)
    loaded.close()


@pytest.mark.parametrize("kind", ["pt2", "torchscript"])
def test_untrusted_is_refused_and_one_more_byte_is_another_file(tmp_path: Path, kind: str):
    data = torch_files.pt2() if kind == "pt2" else torch_files.torchscript()
    model = make(tmp_path / "m", data, kind, trusted=False)
    with pytest.raises(UnsupportedModel, match="is not trusted"):
        load_runner(model)
    trust.trust(checksum_of(data))
    load_runner(model).close()
    # A valid zip archive may have bytes before it: same entries, another digest.
    other = make(tmp_path / "n", b"\0" + data, kind, trusted=False)
    with pytest.raises(UnsupportedModel, match="is not trusted"):
        load_runner(other)
    trust.distrust(checksum_of(data))
    with pytest.raises(UnsupportedModel, match="is not trusted"):
        load_runner(model)


def test_what_the_file_demands_is_known_before_it_is_loaded(tmp_path: Path):
    summary = pt2_file.summarise(torch_files.pt2(largest=64))
    assert summary.input_dims[1:] == (3, *summary.input_dims[2:]) and summary.output_dims[1] == 4
    assert [str(d).partition("*")[0] for d in summary.input_dims[2:]] == ["4", "4"]
    assert (summary.input_dtype, summary.largest, summary.metadata, summary.transforms) == ("float32", 256, None, False)
    run = load_runner(make(tmp_path / "m", torch_files.pt2(), "pt2"), threads=1)
    assert (run.demands.fixed, run.demands.multiple, run.demands.batch) == (None, 4, None)
    with pytest.raises(ContractError, match="size multiple"):
        run.logits(np.zeros((1, 3, 30, 32), dtype=np.float32))


def test_a_fixed_batch_is_filled_up(tmp_path: Path):
    run = load_runner(make(tmp_path / "m", torch_files.pt2(batch=2), "pt2"), threads=1)
    assert run.demands.batch == 2
    x = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    classes = run(x).classes
    np.testing.assert_array_equal(classes, expected(x).argmax(axis=1))


def test_honest_files_raise_no_suspicion():
    assert pt2_file.suspicions(torch_files.pt2()) == []
    assert pt2_file.suspicions(torch_files.pt2(largest=64)) == []


def test_other_bands_than_the_manifests_are_named(tmp_path: Path):
    model = make(tmp_path / "m", torch_files.pt2(), "pt2", bands=["a", "b"], scaling=SCALING[:1])
    with pytest.raises(ContractError, match="the manifest has 2 bands"):
        load_runner(model)


@pytest.mark.parametrize("kind", ["pt2", "torchscript"])
@pytest.mark.parametrize("data", [b"", b"PK", b"PK\3\4" + b"\0" * 100])
def test_what_is_no_such_file_is_refused_even_when_trusted(tmp_path: Path, kind: str, data: bytes):
    with pytest.raises(ArtifactError):
        load_runner(make(tmp_path / "m", data, kind))


def test_an_answer_that_is_no_map_is_refused(tmp_path: Path):
    import io
    import warnings

    class Two(torch.nn.Module):
        def forward(self, x):
            return x, x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = io.BytesIO()
        torch.jit.save(torch.jit.trace(Two(), torch.zeros(1, 3, 8, 8)), file)
    run = load_runner(make(tmp_path / "m", file.getvalue(), "torchscript"), threads=1)
    with pytest.raises(ContractError, match="answers a tuple of 2"):
        run.logits(np.zeros((1, 3, 8, 8), dtype=np.float32))
