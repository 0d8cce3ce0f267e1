"""When the next window is formed: no threads, no clock."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiler.pace import BURST, MOST_AHEAD, READ_LEAD, UNSURE, WAKE_UP, Pace


@dataclass
class Chip:
    """A device as far as the pace looks at it."""

    batch: int = 1
    rate: float = 1e6
    elapsed: float = 0.0


def busy(windows: int, pixels: int, *, read: float = 0.01, read_ahead: int | None = None) -> Pace:
    pace = Pace(read_ahead)
    pace.formed, pace.pixels, pace.read_seconds = windows, pixels, read
    return pace


def test_an_idle_device_is_given_a_window_at_once() -> None:
    pace = Pace()
    pace.begins(5.0)
    assert pace.delay(5.0, []) == pace.delay(5.0, [Chip()]) == 0.0


def test_the_next_window_is_formed_so_late_that_it_is_just_read_in_time() -> None:
    pace = busy(1, 500_000, read=0.02)
    # 0.5 s in all, give or take, 0.1 s of it over.
    delay = pace.delay(0.0, [Chip(elapsed=0.1)])
    assert delay == pytest.approx(0.5 * (1 - UNSURE) - 0.1 - READ_LEAD * 0.02 - WAKE_UP)


def test_what_came_before_whoever_waits_is_waited_for_and_no_longer_than_a_moment() -> None:
    pace = Pace()
    number = pace.came()
    pace.begins(10.0)
    later = pace.came()
    assert pace.delay(10.0, []) == pytest.approx(BURST)
    assert pace.delay(10.0 + BURST / 2, []) == pytest.approx(BURST / 2)
    assert (pace.delay(10.0 + 2 * BURST, []) or 0) <= 0
    pace.went(number)
    assert pace.delay(10.0, []) == 0.0
    pace.went(later)


@pytest.mark.parametrize(("read", "ahead"), [(0.001, 2), (0.1, 2), (0.5, 3), (60.0, MOST_AHEAD)])
def test_the_slower_reading_is_the_more_is_read_ahead(read: float, ahead: int) -> None:
    """Windows of 0.5 s on the device."""
    assert busy(2, 1_000_000, read=read).ahead(1e6) == ahead


def test_what_an_operator_says_is_what_is_read_ahead() -> None:
    assert busy(2, 1_000_000, read=60.0, read_ahead=3).ahead(1e6) == 3
    assert busy(1, 500_000, read_ahead=0).delay(0.0, [Chip()]) is None


def test_devices_that_take_several_get_several() -> None:
    assert busy(3, 1000).delay(0.0, [Chip(), Chip(), Chip()]) == 0.0
    assert busy(8, 1000).delay(0.0, [Chip(batch=8)]) == 0.0
    assert busy(8 + MOST_AHEAD, 1000).delay(0.0, [Chip(batch=8)]) is None


@given(
    st.integers(0, 20),
    st.integers(1, 1 << 20),
    st.floats(0, 2),
    st.lists(st.builds(Chip, st.integers(1, 8), st.floats(0, 1e8), st.floats(0, 3)), max_size=3),
)
def test_never_more_is_formed_than_devices_take_and_may_be_read_ahead(
    windows: int, pixels: int, read: float, devices: list[Chip]
) -> None:
    slots = sum(chip.batch for chip in devices) or 1
    if busy(windows, windows * pixels, read=read).delay(0.0, devices) is not None:
        assert windows < slots + MOST_AHEAD
