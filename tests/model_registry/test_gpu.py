"""On a CUDA device: the same classes as on the CPU, raw integers in, class numbers out, low precision within bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from model_registry import live
from model_registry.candidates import candidates
from model_registry.manifest import open_model
from model_registry.runtimes import load_runner

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")
DEMO = Path(__file__).resolve().parents[2] / "tiler" / "demo" / "model"


@pytest.fixture(autouse=True)
def needs_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no GPU")


@pytest.fixture
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (1, 3, 32, 32)), np.ones((8, 8))).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_classes_of_cpu_and_gpu_agree(image: np.ndarray, dtype: str):
    model = open_model(DEMO)
    wanted = load_runner(model)(image.astype(dtype), probabilities=True)
    two = np.sort(wanted.probabilities, axis=1)
    for candidate in candidates(model, "cuda"):
        run = load_runner(model, "cuda", None, *candidate)
        got = run(image.astype(dtype))
        moved = got.classes != wanted.classes
        assert got.classes.dtype == np.uint8 and got.probabilities is None
        if candidate.precision == "fp32":
            assert not (moved & (two[:, -1] - two[:, -2] > 1e-4)).any()
        else:
            assert moved.mean() < 0.02, candidate
        np.testing.assert_array_equal(run(image.astype(dtype), probabilities=True).classes, got.classes)


def test_auto_chooses_and_says_why(image: np.ndarray):
    loaded = live.load(DEMO, "cuda", policy="auto", samples=list(image))
    print(loaded.choice)
    assert loaded.choice.runtime == "torch" and loaded.choice.reasons
    assert all(trial.pixels_per_second > 0 for trial in loaded.choice.trials)


def test_vectors_of_cpu_and_gpu_agree(image: np.ndarray, tmp_path: Path):
    """The demo's network, its scores read as numbers: finished and projected on the device."""
    document = yaml.safe_load((DEMO / "model.yaml").read_text())
    weights = DEMO / document["serving"]["artifacts"][0]["href"]
    (tmp_path / weights.name).write_bytes(weights.read_bytes())
    classes = len(document["properties"]["output"][0]["classification:classes"])
    document["properties"]["output"] = [{"tasks": ["embedding"], "result": {"shape": [-1, classes, -1, -1]}}]
    document["serving"]["output"] = {"activation": "sigmoid", "value": {"scale": 10, "clip": [1, None]}}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(document))
    model = open_model(tmp_path)
    wanted = load_runner(model)(image, probabilities=True)
    run = load_runner(model, "cuda")
    got, colours = run(image, probabilities=True), run(image)
    np.testing.assert_allclose(got.values, wanted.values, atol=1e-3)
    np.testing.assert_allclose(got.components, wanted.components, atol=1e-3)
    assert colours.values is None and colours.classes is None
    np.testing.assert_array_equal(colours.components, got.components)
