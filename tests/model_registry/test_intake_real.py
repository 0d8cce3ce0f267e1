"""Networks that others trained, added as a user would: what is served agrees with the same file run on its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_registry import golden
from model_registry.intake import Answers, prepare, questions
from model_registry.manifest import open_model
from model_registry.runtimes import load_runner

pytestmark = pytest.mark.real
DYNAMIC_WORLD = tuple(
    {"name": name} for name in "water trees grass flooded crops shrub built bare snow".split()
)  # fmt: skip
S2 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
NAIP = tuple({"name": name} for name in ("none", "water", "tree", "herbaceous", "barren"))
MODELS = {
    "dynamicworld/dynamicworld_forward_dn.onnx": Answers(
        classes=DYNAMIC_WORLD, bands=S2, gsd=10.0, scaling=(), dtypes=("uint16", "int16")
    ),
    "dynamicworld/dynamicworld_forward_norm.onnx": Answers(
        classes=DYNAMIC_WORLD, bands=S2, gsd=10.0, scaling=(), dtypes=("float32",), values="physical"
    ),
    **{
        f"azure_naip_landcover_model/naip4_landcover5_{epochs}.onnx": Answers(
            classes=NAIP, bands=("red", "green", "blue", "nir"), gsd=1.0, scaling=(), dtypes=("uint8",)
        )
        for epochs in ("1epoch", "250epochs")
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_it_is_added_and_agrees_with_the_file(name: str, real: Path, tmp_path: Path):
    import onnxruntime

    asked = [item["field"] for item in questions(real / name, Answers())]
    assert asked == ["bands", "classes", "scaling", "gsd"]
    prepare(real / name, tmp_path / "m", MODELS[name])
    model = open_model(tmp_path / "m")
    runner = load_runner(model)
    result = golden.run(model, runner)
    assert result is not None and result.passed
    pixels = np.load(tmp_path / "m" / "test" / "input.npy")
    session = onnxruntime.InferenceSession(real / name)
    alone = session.run(None, {session.get_inputs()[0].name: pixels.astype(np.float32)})[0]
    np.testing.assert_array_equal(runner(pixels).classes, alone.argmax(axis=1))
    assert len(np.unique(alone.argmax(axis=1))) > 1
