"""Shared by tests of the server and its page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiler.pages import browsing


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium; tests that need it skip by name where there is none."""
    with browsing() as made:
        yield made


@pytest.fixture(scope="session", autouse=True)
def _hardly_warmed() -> Iterator[None]:
    """Models are warmed up with one window: hundreds of small servers have no time for more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiler.engine.WARM_SECONDS", 0.0)
        yield


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the surroundings that a command would take for settings; what it registers is the test's own."""
    for name in list(os.environ):
        if name.startswith("TILER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
