"""Shared by tests of the page."""

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
