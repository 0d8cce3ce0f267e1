"""When the next window is formed, as a function of what was measured lately. Decisions only: no threads, no clock.

A window is formed as late as possible, so that whatever is asked for until then is merged into it, and so early that it
has been read when a device comes free. A device never waits for a window that could have been formed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

# A window is formed this many reads, and a thread's wake-up, before the device comes free.
READ_LEAD = 1.5
WAKE_UP = 0.003

# What a window takes is known to about this share: the next one is formed so much earlier.
UNSURE = 0.1

# Windows formed beyond those on the devices, at most, when it is not said how many.
MOST_AHEAD = 8

# An idle engine waits so many seconds at most for requests that had come before the first that waits, but whose cells
# are not worked out yet: the tiles of one burst are then one window.
BURST = 0.1


class Runs(Protocol):
    """What has to be known of a device: windows it takes at once, pixels per second lately, seconds of the present."""

    @property
    def batch(self) -> int:
        """Windows that go through a model together at most."""
        ...

    @property
    def rate(self) -> float:
        """Pixels per second lately; 0 while unknown."""
        ...

    @property
    def elapsed(self) -> float:
        """Seconds that what is on it has been running; 0 when nothing is."""
        ...


class Pace:
    """What is formed and on its way. Not thread-safe: the engine's lock guards it.

    Attributes:
        formed, pixels: windows formed and not yet answered, and their pixels.
        read_seconds: what reading a window took lately.
        read_ahead: windows formed beyond those on the devices; None: as many as the measured times ask for.
    """

    def __init__(self, read_ahead: int | None = None) -> None:
        """Make a pace; `read_ahead` is the attribute."""
        self.formed = 0
        self.pixels = 0
        self.read_seconds = 0.01
        self.read_ahead = read_ahead
        self._coming: dict[int, None] = {}
        self._numbers = itertools.count()
        self._first = (0, 0.0)

    def came(self) -> int:
        """A request has come whose cells are not worked out yet; returns its number, for `went`."""
        number = next(self._numbers)
        self._coming[number] = None
        return number

    def went(self, number: int) -> None:
        """That request asks for its cells now, or has gone."""
        del self._coming[number]

    def begins(self, now: float) -> None:
        """Something waits, and nothing did before."""
        self._first = (next(self._numbers), now)

    def took(self, seconds: float) -> None:
        """A window has been read."""
        self.read_seconds += 0.2 * (seconds - self.read_seconds)

    def ahead(self, rate: float) -> int:
        """Windows that may be formed beyond those on the devices, which do so many pixels per second."""
        if self.read_ahead is not None:
            return self.read_ahead
        if rate <= 0 or not self.formed:
            return 1
        forward = self.pixels / self.formed / rate
        return min(MOST_AHEAD, 1 + math.ceil(READ_LEAD * self.read_seconds / forward))

    def delay(self, now: float, devices: Sequence[Runs]) -> float | None:
        """Seconds until the next window should be formed; None: not before one that is formed is done.

        Args:
            now: seconds, of the same clock as in `begins`.
            devices: those that live.
        """
        if self.formed == 0:
            number, moment = self._first
            # Numbers rise: the first that is on its way is the oldest. What came after whoever waits is not waited for.
            burst = next(iter(self._coming), number) < number
            return BURST - (now - moment) if burst else 0.0
        rate = max((device.rate for device in devices), default=0.0)
        slots = sum(device.batch for device in devices) or 1
        if self.formed >= slots + self.ahead(rate):
            return None
        if slots > 1:
            # Windows for several at once are read as soon as a reader is free.
            return 0.0
        if rate <= 0:
            return 0.0 if self.formed < 2 else None
        elapsed = max(device.elapsed for device in devices)
        return (1 - UNSURE) * self.pixels / rate - elapsed - READ_LEAD * self.read_seconds - WAKE_UP
