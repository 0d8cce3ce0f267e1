"""Arithmetic on measurements. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0..1) of the values do not exceed, by nearest rank; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Iterable[float]) -> float:
    """The median; NaN of nothing."""
    kept = list(values)
    return statistics.median(kept) if kept else math.nan


def ratio(value: float, reference: float) -> float:
    """`value` / `reference`; NaN when there is nothing to divide by."""
    return value / reference if reference else math.nan


def waste(inferred: int, used: Collection[Item]) -> float:
    """Share of the inferred cells, each counted once, that no completed answer used."""
    return max(0.0, (inferred - len(used)) / inferred) if inferred else math.nan


def growth(samples: Sequence[tuple[float, float]], warm_up: float) -> float:
    """Growth of a quantity after a warm-up, in percent: the last tenth of the samples against the first tenth after it.

    Args:
        samples: (seconds, value), in order.
        warm_up: seconds that do not count.
    """
    kept = [value for seconds, value in samples if seconds >= warm_up]
    if len(kept) < 2:
        return math.nan
    part = max(1, len(kept) // 10)
    before, after = median(kept[:part]), median(kept[-part:])
    return 100 * ratio(after - before, before)
