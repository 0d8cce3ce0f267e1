"""Shared by the tests of model_registry: real models; a cache and a list of trust that are nobody's own."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("TILER_TRUST", str(folder / "trust.json"))
    return folder


@pytest.fixture(scope="session")
def real() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the folder of real models, shared/data beside the repository, is absent")
    return SHARED
