"""Importing the package, and reading a manifest, loads no runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model_registry import testing

ROOT = Path(__file__).resolve().parents[2]
HEAVY = "{'torch', 'onnxruntime', 'onnx', 'safetensors', 'openvino'}"


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_package_and_manifest_import_no_runtime(tmp_path: Path):
    testing.write_model(tmp_path / "m", testing.value_classes([0, 9]), classes=["a", "b"], bands=["x"])
    code = f"""
import sys, model_registry
from model_registry import open_model, load_runner, Probe, LoadedModel, choose
assert open_model({str(tmp_path / "m")!r}).bands == ("x",)
print(sorted({HEAVY} & set(sys.modules)))
"""
    assert _run(code) == "[]"


def test_onnx_models_run_without_torch(tmp_path: Path):
    testing.write_model(tmp_path / "m", testing.value_classes([0, 9]), classes=["a", "b"], bands=["x"], scaling=None)
    code = f"""
import os, sys
os.environ["XDG_CACHE_HOME"] = {str(tmp_path)!r}
sys.modules["torch"] = None
from model_registry import load
print(load({str(tmp_path / "m")!r}).model.exactness)
"""
    assert _run(code) == "exact"


def test_unknown_public_name_is_an_attribute_error():
    import model_registry

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = model_registry.nonsense
    assert all(getattr(model_registry, name) is not None for name in model_registry.__all__)
