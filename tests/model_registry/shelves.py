"""Registries for tests: tiny models, published as anybody would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_registry import testing
from model_registry.store import Store
from model_registry.versions import Version


def write(folder: Path, values: tuple[float, ...] = (0, 9), **more: Any) -> Path:
    """Write a model that needs no probe into `folder`."""
    classes = more.pop("classes", [f"class {i}" for i in range(len(values))])
    window = {"multiple": 1, "period": 1, "halo": 0}
    more = {"title": "Land cover", "bands": ["x"], "scaling": None, "window": window, "exactness": "exact", **more}
    return testing.write_model(folder, testing.value_classes(values), classes=classes, **more)


def put(store: Store, name: str = "cover", values: tuple[float, ...] = (0, 9), **more: Any) -> Version:
    """Publish a model under `name`."""
    with store.publish(name) as draft:
        write(draft.folder, values, **more)
    assert draft.version is not None
    return draft.version
