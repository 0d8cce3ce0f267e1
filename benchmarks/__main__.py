"""The command. See README.md beside this file."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import machine, report
from benchmarks.processes import ROOT
from benchmarks.suite import QUICK, Extent, Suite, medians


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table, and, if asked for, one last line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short run, under 50 s on 2 cores")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--runs", type=int, help="interleaved runs (5)")
    parser.add_argument("--soak", type=float, help="seconds of the soak (120; 3600 for an hour; 0 leaves it out)")
    parser.add_argument("--only-soak", action="store_true", help="nothing but the soak")
    parser.add_argument("--device", default="cpu", help="where the models run: cpu, cuda, cuda:1")
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo", help="where the demo's scene is kept")
    given = parser.parse_args(arguments)

    extent = QUICK if given.quick else Extent()
    if given.runs:
        extent = replace(extent, runs=given.runs)
    if given.soak is not None:
        extent = replace(extent, soak=given.soak)
    if given.only_soak and not extent.soak:
        parser.error("--only-soak without a soak: say how long with --soak SECONDS")
    about, begun = machine.describe(), time.monotonic()
    # With --json, only the last line is meant for machines; the rest is for people either way.
    for name, value in about.items():
        print(f"{name}: {value}", flush=True)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as models:
        suite = Suite(extent, given.folder, Path(models), given.device, say=lambda text: print(text, flush=True))
        asyncio.run(suite.soak() if given.only_soak else suite.measure())
    figures, spread = medians(suite.samples)
    print()
    print(report.table(figures, spread))
    seconds = round(time.monotonic() - begun, 1)
    print(f"\n{1 if given.only_soak else extent.runs} runs in {seconds:.0f} s")
    if given.json:
        print(
            report.last_line(
                figures, quick=given.quick, runs=extent.runs, seconds=seconds, machine=about, networks=suite.facts
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
