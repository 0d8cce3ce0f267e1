"""Shared by tests of the server and its page."""

from __future__ import annotations

from collections.abc import Iterator
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
