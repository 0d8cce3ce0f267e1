"""What `tiler models check` says of an ensemble of other models: each of them is measured, and here put together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from model_registry import check
from model_registry.manifest import Model

_ORDER = ("exact", "bounded", "unsafe")


def merged(model: Model, reports: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return one report, of the form of `check.check`, from those of an ensemble's members.

    Args:
        model: the ensemble.
        reports: by reference (`name:3`), all measured on one machine.

    Returns:
        its own exactness (the worst), halo (in pixels of the finest member) and findings; `members` has the reports.
    """
    first = next(iter(reports.values()))
    classes = [report["exactness"] for report in reports.values()]
    known = None not in classes
    finest = model.members[0].gsd
    halos = [math.ceil((reports[one.model]["halo"] or 0) * one.gsd / finest) for one in model.members]
    machine = first["machine"]
    told = [
        f"{ref}: {report['exactness'] or 'not measured'}, halo {report['halo']} px of its own"
        for ref, report in reports.items()
    ]
    return {
        **dict.fromkeys(("fixed", "error", "contract", "golden", "windows", "served")),
        "version": check.VERSION,
        "model": f"{model.name}:{model.version}",
        "title": model.title,
        "digest": model.digest,
        "machine": machine,
        "key": check.key(model.digest, machine["device"], machine["threads"]),
        "exactness": max(classes, key=_ORDER.index) if known else None,
        "halo": max(halos) if known else None,
        "period": 1 if known else None,
        "multiple": 1 if known else None,
        "errors": [],
        "notes": told,
        "drift": [],
        "speed": [],
        "members": dict(reports),
        "findings": [
            {**finding, "subject": f"{ref}: {finding['subject']}"}
            for ref, report in reports.items()
            for finding in report["findings"]
        ],
        "seconds": round(sum(report["seconds"] for report in reports.values()), 2),
        "cpu_seconds": round(sum(report["cpu_seconds"] for report in reports.values()), 2),
    }
