"""Costs of one run -> figures. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from benchmarks.export.compare import Difference
from benchmarks.export.cost import Cost
from benchmarks.figures import ratio

Costs = dict[str, dict[int, Cost]]  # by contender, then by the scene's side in pixels

# What is compared with what: figure -> (contender, reference).
CPU_RATIOS: Mapping[str, tuple[str, str]] = {
    "export_cpu_ratio": ("ours_fp32", "floor_fp32"),
    "export_cpu_ratio_bf16": ("ours_bf16", "floor_bf16"),
    "export_cpu_ratio_geodeep": ("ours_fp32", "geodeep"),
    "export_cpu_ratio_geodeep_bf16": ("ours_bf16", "geodeep"),
    "export_cpu_ratio_geodeep_plain": ("ours_fp32", "geodeep_plain"),
    "export_cpu_ratio_geodeep_unfiltered": ("ours_fp32", "geodeep_unfiltered"),
    "export_cpu_ratio_geoai": ("ours_fp32", "geoai"),
}


def figures_of(costs: Costs, others: Mapping[str, Difference], sizes: tuple[int, int]) -> dict[str, float]:
    """Figures of one run.

    Args:
        costs: of everybody who took part, for both sizes.
        others: what each result of the larger scene has otherwise.
        sizes: sides of the smaller and the larger scene, in pixels.
    """
    small, large = sizes
    found: dict[str, float] = {}
    for name, (one, other) in CPU_RATIOS.items():
        if one in costs and other in costs:
            found[name] = ratio(costs[one][large].cpu, costs[other][large].cpu)
            found[f"{name}_pixels_alone"] = ratio(_cpu_per_mpx(costs[one], sizes), _cpu_per_mpx(costs[other], sizes))
    if "ours_fp32" in costs and "geoai" in costs:
        found["export_rss_ratio_geoai"] = ratio(costs["ours_fp32"][large].rss, costs["geoai"][large].rss)
    if "ours_fp32" in costs and "dask" in costs:
        found["export_rate_ratio_dask"] = ratio(*(told_rate(costs[name][large].told) for name in ("dask", "ours_fp32")))
    if "ours_fp32" in others:
        found["export_differing"] = others["ours_fp32"].pixels + others["ours_fp32"].classed
    if "ours_bf16" in others:
        found["export_moved_percent_bf16"] = others["ours_bf16"].percent
    for name, spent in costs.items():
        if (rate := told_rate(spent[large].told)) and not math.isnan(rate):
            found[f"told_mpx_s_{name}"] = rate
        if name == "dask":
            continue  # it does everything twice
        found |= {
            f"cpu_s_{name}": spent[large].cpu,
            f"cpu_s_{name}_small": spent[small].cpu,
            f"cpu_s_per_mpx_{name}": _cpu_per_mpx(spent, sizes),
            f"wall_s_{name}": spent[large].wall,
            f"mpx_s_{name}": _rate(spent, sizes),
            f"rss_mib_{name}": spent[large].rss / 2**20,
            f"rss_mib_{name}_small": spent[small].rss / 2**20,
            f"differing_percent_{name}": others[name].percent,
            f"differing_percent_inside_{name}": others[name].percent_inside,
        }
    return found


def told_rate(text: str) -> float:
    """Megapixels per second of inferring, as an export with --json says them; NaN where it does not."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    rates = [line["mpx_per_second"] for line in lines if line.get("stage") == "inferring"]
    return float(rates[-1]) if rates else math.nan


def _cpu_per_mpx(costs: Mapping[int, Cost], sizes: tuple[int, int]) -> float:
    """CPU seconds that a further megapixel takes: what a command costs before its first pixel is in neither term."""
    small, large = sizes
    return (costs[large].cpu - costs[small].cpu) / ((large**2 - small**2) / 1e6)


def _rate(costs: Mapping[int, Cost], sizes: tuple[int, int]) -> float:
    """Further megapixels per second of time; NaN where the larger scene took no longer."""
    small, large = sizes
    seconds = costs[large].wall - costs[small].wall
    return (large**2 - small**2) / 1e6 / seconds if seconds > 0 else math.nan
