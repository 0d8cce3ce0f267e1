"""Figures -> a table, and one line of JSON. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """What has to be reached: at least `least`, or at most `most`."""

    least: float | None = None
    most: float | None = None

    def met(self, value: float) -> bool:
        """Whether a value reaches it; NaN never does."""
        if math.isnan(value):
            return False
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"


# In the order of the table; README.md beside this file says what each means.
TARGETS: Mapping[str, Target] = {
    "serving_efficiency": Target(least=0.90),
    "serving_efficiency_small": Target(least=0.75),
    "redundancy_6": Target(most=2.0),
    "redundancy": Target(most=1.6),
    "chips_ratio": Target(most=0.65),
    "pan_waste": Target(most=0.05),
    "last_viewport_ratio": Target(most=1.3),
    "warm_ratio": Target(least=10),
    "naive_ratio": Target(least=5),
    "identical_inferences": Target(least=1, most=1),
    "rss_growth_percent": Target(most=5),
    "health_p99_ms": Target(most=50),
    # Of `benchmarks.export`.
    "export_cpu_ratio": Target(most=1.10),
    "export_cpu_ratio_geodeep": Target(most=0.9),
    "export_cpu_ratio_geodeep_bf16": Target(most=0.5),
    "export_cpu_ratio_geoai": Target(most=0.5),
    "export_rss_ratio_geoai": Target(most=0.4),
    "export_rate_ratio_dask": Target(least=0.85),
    "export_differing": Target(most=0),
    "export_moved_percent_bf16": Target(most=0.5),
}


def table(figures: Mapping[str, float], spread: Mapping[str, tuple[float, float]] | None = None) -> str:
    """Lines of text: the figures that have a target first, then all others.

    Args:
        figures: medians by name.
        spread: least and greatest of the runs, by name.
    """
    names = [name for name in TARGETS if name in figures] + [name for name in figures if name not in TARGETS]
    width = max((len(name) for name in names), default=0)
    lines = []
    for name in names:
        value = figures[name]
        target = TARGETS.get(name)
        told = "" if target is None else f"{target!s:>8}  {'reached' if target.met(value) else 'MISSED'}"
        between = ""
        if spread and name in spread and spread[name][0] != spread[name][1]:
            between = f"{_number(spread[name][0])} .. {_number(spread[name][1])}"
        lines.append(f"{name:<{width}}  {_number(value):>9}  {between:<20}  {told}".rstrip())
    return "\n".join(lines)


def last_line(figures: Mapping[str, float], **more: Any) -> str:
    """One line of strict JSON: the figures, then whatever else; what is not a number is null."""
    numbers = {name: _plain(value) for name, value in figures.items()}
    return json.dumps({**numbers, **more}, allow_nan=False)


def _plain(value: float) -> float | int | None:
    if math.isnan(value) or math.isinf(value):
        return None
    return int(value) if value == int(value) else float(f"{value:.5g}")


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
