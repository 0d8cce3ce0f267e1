"""How a running export is told of: a bar for people, lines of JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tiler.cli.common import console, errors

if TYPE_CHECKING:
    from pathlib import Path

    from tiler.export.drive import Progress as Where
    from tiler.export.drive import Result
    from tiler.export.session import Facts

# What comes after the blocks: of the COG, and of polygons.
STAGES = {
    "checking": "Checking parts",
    "inferring": "Inferring",
    "writing": "Writing the COG",
    "merge": "Merging small areas",
    "survey": "Looking for areas",
    "trace": "Tracing polygons",
    "write": "Writing polygons",
}


class Reporter(Protocol):
    """Who tells of an export."""

    def __enter__(self) -> Reporter: ...

    def __exit__(self, *_: object) -> None: ...

    def plan(self, facts: Facts, seconds: float | None = None) -> None:
        """What it is, and how long it will take if that was measured."""
        ...

    def tell(self, where: Where) -> None:
        """How far it is."""
        ...

    def step(self, stage: str, done: int, total: int) -> None:
        """How far the polygons are."""
        ...

    def stopped(self) -> None:
        """It was stopped on purpose."""
        ...

    def end(self, result: Result, polygons: tuple[Path, int] | None) -> None:
        """What it has made."""
        ...


class Lines:
    """Progress for programs: one JSON object a line."""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def plan(self, facts: Facts, seconds: float | None = None) -> None:
        """What it is, and how long it will take if that was measured."""
        self._say({"event": "begin", **_plan(facts, seconds)})

    def tell(self, where: Where) -> None:
        """How far it is."""
        self._say(
            {
                "event": "progress",
                "stage": where.stage,
                "blocks": where.blocks,
                "done": where.done,
                "kept": where.kept,
                "pixels": where.pixels,
                "pixels_done": where.pixels_done,
                "mpx_per_second": round(where.rate / 1e6, 3),
                "km2_per_second": round(where.km2_per_second, 4),
                "seconds_left": None if where.seconds_left is None else round(where.seconds_left, 1),
                "cache_hits": where.cache_hits,
            }
        )

    def step(self, stage: str, done: int, total: int) -> None:
        """How far the polygons are."""
        self._say({"event": "progress", "stage": stage, "done": done, "total": total})

    def stopped(self) -> None:
        """It was stopped on purpose."""
        self._say({"event": "stopped"})

    def end(self, result: Result, polygons: tuple[Path, int] | None) -> None:
        """What it has made."""
        self._say(
            {
                "event": "finished",
                "files": {name: str(path) for name, path in result.files.items()},
                "counts": result.counts,
                "made": result.made,
                "kept": result.kept,
                "already": result.already,
                "polygons": None if polygons is None else {"file": str(polygons[0]), "count": polygons[1]},
            }
        )

    def _say(self, body: dict[str, Any]) -> None:
        typer.echo(json.dumps(body))


class Bar:
    """Progress for people."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} blocks"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=errors,
            transient=True,
        )
        self._task = self._bar.add_task("Opening", total=1, rate="")

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def plan(self, facts: Facts, seconds: float | None = None) -> None:
        """What it is, and how long it will take if that was measured."""
        # The answer to --dry-run; otherwise only said beside the result.
        place = errors if seconds is None else console
        for key, value in _plan(facts, seconds).items():
            if value is not None:
                place.print(f"{key.replace('_', ' ')}: {value}", highlight=False, markup=False, soft_wrap=True)

    def tell(self, where: Where) -> None:
        """How far it is."""
        rate = f"{where.rate / 1e6:.2f} Mpx/s, {where.km2_per_second:.3g} km2/s" if where.rate else ""
        if where.cache_hits:
            rate += f", {where.cache_hits} cache hits"
        if where.kept:
            rate += f", {where.kept} kept"
        self._bar.update(
            self._task, description=STAGES[where.stage], total=where.blocks, completed=where.done, rate=rate
        )

    def step(self, stage: str, done: int, total: int) -> None:
        """How far the polygons are."""
        self._bar.update(self._task, description=STAGES.get(stage, stage), total=total or 1, completed=done, rate="")

    def stopped(self) -> None:
        """It was stopped on purpose."""
        errors.print("Stopped. What is done stays: the same command goes on.", highlight=False)

    def end(self, result: Result, polygons: tuple[Path, int] | None) -> None:
        """What it has made."""
        for path in result.files.values():
            note = "is there already" if result.already else f"{result.made} blocks made, {result.kept} kept"
            console.print(f"{path}: {note}", highlight=False, markup=False, soft_wrap=True)
        if polygons is not None:
            console.print(f"{polygons[0]}: {polygons[1]} polygons", highlight=False, markup=False, soft_wrap=True)


def _plan(facts: Facts, seconds: float | None) -> dict[str, Any]:
    region, grid = facts.frame.region, facts.frame.grid
    return {
        "blocks": len(facts.blocks),
        "size": f"{region.width} x {region.height} px of {grid.gsd:g} m",
        "pixels": facts.pixels,
        "inferred_pixels": facts.windows or None,
        "runtime": f"{facts.runtime} {facts.precision}".strip(),
        "memory_mb": round(facts.memory / 1e6),
        "disk_mb": round((facts.scratch + facts.size) / 1e6),
        "seconds": None if seconds is None else float(f"{seconds:.3g}"),
        "revision": ", ".join(facts.revisions),
        "job": facts.job,
    }
