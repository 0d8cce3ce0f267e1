from __future__ import annotations

import threading
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from model_registry import live, testing
from model_registry.artifacts import checksum_of
from model_registry.candidates import installed
from model_registry.errors import ArtifactError, ContractError, UnsupportedModel
from model_registry.manifest import Model, open_model
from model_registry.runtimes import load_runner

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
from model_registry import architectures  # noqa: E402

HYPERPARAMETERS = {"in_channels": 3, "classes": 4, "base": 4, "depth": 2}
SCALING = [{"type": "z-score", "mean": m, "stddev": 40} for m in (90, 100, 110)]


@cache
def network():
    torch.manual_seed(1)
    net = architectures.build("unet", HYPERPARAMETERS)
    net.train()
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(4, 3, 64, 64))  # batch norms with statistics of their own
        net.eval()
        last = [module for module in net.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        last.bias -= net(torch.randn(4, 3, 64, 64)).mean(dim=(0, 2, 3))  # no class may always win
    return net


def write(folder: Path, data: bytes | None = None, **properties) -> Path:
    """A model folder whose artifact is safetensors instead of ONNX."""
    testing.write_model(folder, testing.conv_chain(layers=1, classes=4), classes=list("abcd"), scaling=SCALING)
    (folder / "model.onnx").unlink()
    data = safetensors_torch.save(network().state_dict()) if data is None else data
    (folder / "w.safetensors").write_bytes(data)
    document = yaml.safe_load((folder / "model.yaml").read_text())
    document["serving"]["artifacts"] = [
        {"href": "w.safetensors", "format": "safetensors", "checksum": checksum_of(data), "size": len(data)}
    ]
    document["properties"].update({"architecture": "unet", "hyperparameters": HYPERPARAMETERS} | properties)
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return open_model(write(tmp_path / "m"))


def test_agrees_with_the_network_called_by_hand(model: Model):
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 48), dtype=np.uint8)
    scaled = (x - np.float32([90, 100, 110])[:, None, None]) / np.float32(40)
    with torch.no_grad():
        expected = network()(torch.from_numpy(scaled)).numpy()
    run = load_runner(model, threads=1)
    got = run(x, probabilities=True)
    share = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got.probabilities, share, atol=1e-5)
    assert np.mean(got.classes == expected.argmax(axis=1)) > 0.999 and len(np.unique(got.classes)) > 1
    np.testing.assert_array_equal(run(x).classes, got.classes)
    np.testing.assert_allclose(run.logits(scaled), expected, atol=1e-4)
    assert (run.runtime, run.precision) == ("torch", "fp32")


def test_unscale_and_sixteen_bits(model: Model):
    run = load_runner(model, threads=1)
    x = np.random.default_rng(0).integers(0, 60000, (1, 3, 32, 32)).astype(np.uint16)
    scale, offset = np.full(3, 0.004), np.array([1.0, 2.0, 3.0])
    physical = x.astype(np.float32) * np.float32(scale)[:, None, None] + np.float32(offset)[:, None, None]
    got = run(x, unscale=(scale, offset))
    assert np.mean(got.classes == run(physical).classes) > 0.999
    assert np.mean(got.classes != run(x).classes) > 0.01


def test_it_says_that_it_cannot_be_stopped(model: Model):
    assert load_runner(model).stop() is False


def test_no_gradients_in_any_thread(model: Model):
    """Inference mode belongs to a thread: a runner made here must set it where it is called."""
    run = load_runner(model, threads=1)
    modes: list[bool] = []
    forward = run._network.forward  # type: ignore[attr-defined]

    def watched(x):
        modes.append(torch.is_inference_mode_enabled())
        return forward(x)

    run._network.forward = watched  # type: ignore[attr-defined]
    thread = threading.Thread(target=run.logits, args=(np.zeros((1, 3, 8, 8), dtype=np.float32),))
    thread.start()
    thread.join()
    assert modes == [True] and not torch.is_inference_mode_enabled()


def test_probe_of_a_unet(model: Model):
    loaded = live.load(model, threads=1)
    assert loaded.model.exactness == "exact"
    assert (loaded.model.window.period, loaded.model.window.multiple) == (4, 4)
    assert 8 <= loaded.model.window.halo <= 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(sorted(w)[0]), "lacks '"),
        (lambda w: w.update(extra=torch.zeros(1)), "has 'extra'"),
    ],
)
def test_missing_and_unknown_weights_are_named(tmp_path: Path, change, message):
    weights = dict(network().state_dict())
    change(weights)
    with pytest.raises(ContractError, match=message):
        load_runner(open_model(write(tmp_path / "m", safetensors_torch.save(weights))))


def test_wrong_shape_names_the_weight_and_both_shapes(tmp_path: Path):
    weights = dict(network().state_dict())
    key = next(k for k, v in weights.items() if v.ndim == 4)
    weights[key] = weights[key][:, :1].contiguous()
    with pytest.raises(ContractError, match=rf"weight '{key}' has the shape \[\d+, 1, 3, 3\].* wants \[\d+, 3, 3, 3\]"):
        load_runner(open_model(write(tmp_path / "m", safetensors_torch.save(weights))))


def test_broken_file(tmp_path: Path):
    with pytest.raises(ArtifactError, match="not valid safetensors"):
        load_runner(open_model(write(tmp_path / "m", b"\x80\x02 a pickle")))


@pytest.mark.parametrize(
    "properties", [{"architecture": "os.system"}, {"hyperparameters": HYPERPARAMETERS | {"wings": 2}}]
)
def test_architectures_outside_the_list(tmp_path: Path, properties):
    with pytest.raises(UnsupportedModel, match="cannot be built"):
        load_runner(open_model(write(tmp_path / "m", **properties)))


def test_absent_gpu(model: Model):
    if not torch.cuda.is_available():
        with pytest.raises(UnsupportedModel, match="finds no GPU"):
            load_runner(model, device="cuda")
    with pytest.raises(UnsupportedModel, match="unknown device"):
        load_runner(replace(model), device="mps")


def test_absent_torch_says_what_to_install(model: Model, monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnsupportedModel, match=r"pip install titiler-inference\[torch\]"):
        load_runner(model, threads=1)


def test_bf16_is_set_where_it_is_called_and_moves_little(model: Model):
    """Autocast belongs to a thread too; and a caller's own must not reach an fp32 runner."""
    fp32, bf16 = (load_runner(model, threads=1, precision=p) for p in ("fp32", "bf16"))
    x = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    expected = fp32.logits(x)
    got: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: got.append(bf16.logits(x)))
    thread.start()
    thread.join()
    assert got[0].dtype == np.float32 and 0 < np.abs(got[0] - expected).max() < 0.1
    assert not torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(fp32.logits(x), expected)
    assert (bf16.runtime, bf16.precision) == ("torch", "bf16")
    with pytest.raises(UnsupportedModel, match="fp16"):
        load_runner(model, precision="fp16")


def test_memory_that_does_not_suffice_is_not_the_models_fault(model: Model, monkeypatch: pytest.MonkeyPatch):
    run = load_runner(model, threads=1)

    def full(_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(run, "_network", full)
    with pytest.raises(MemoryError, match=r"\[1, 3, 8, 8\]"):
        run.logits(np.zeros((1, 3, 8, 8), dtype=np.float32))


@pytest.mark.parametrize("size", [None, (64, 32)])
def test_openvino_takes_the_same_weights(tmp_path: Path, size):
    if not installed("openvino"):
        pytest.skip("openvino is not installed")
    folder = write(tmp_path / "m")
    if size:
        document = yaml.safe_load((folder / "model.yaml").read_text())
        document["properties"]["input"][0]["input"]["shape"] = [-1, 3, *size]
        (folder / "model.yaml").write_text(yaml.safe_dump(document))
    model = open_model(folder)
    reference, run = load_runner(model, threads=1), load_runner(model, threads=1, runtime="openvino")
    assert run.demands.fixed == size
    for shape in [(2, 3, *size)] if size else [(1, 3, 64, 64), (2, 3, 32, 80)]:
        x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        wanted, got = reference(x, probabilities=True), run(x, probabilities=True)
        np.testing.assert_allclose(got.probabilities, wanted.probabilities, atol=1e-5)
        assert np.mean(got.classes != wanted.classes) < 1e-3
    with pytest.raises(ContractError):
        run.logits(np.zeros((1, 3, 30, 30), dtype=np.float32))
