"""Exports of whole scenes, side by side: `python -m benchmarks.export`. See README.md one folder up."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import machine, report, servers
from benchmarks.export import contenders, cost
from benchmarks.export.compare import Difference, difference, read
from benchmarks.export.contenders import Contender, planned
from benchmarks.export.cost import Cost
from benchmarks.export.figures import Costs, figures_of
from benchmarks.export.networks import Networks, write_networks
from benchmarks.export.peers import Unreachable
from benchmarks.processes import ROOT
from benchmarks.suite import medians


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table, and, if asked for, one last line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run over a quarter of the pixels")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--runs", type=int, help="interleaved runs (5)")
    parser.add_argument("--size", type=int, help="of the scene, in pixels a side (4096)")
    parser.add_argument("--threads", type=int, default=2, help="and cores, of everybody (2)")
    parser.add_argument("--runtime", default="auto", help="of ours and of the floor: auto, onnxruntime, openvino")
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments; without it they are left out")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="nobody else, e.g. floor_fp32 ours_fp32")
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo", help="where the demo's scene is kept")
    given = parser.parse_args(arguments)

    size = given.size or (2048 if given.quick else 4096)
    runs = given.runs or (1 if given.quick else 5)
    about, begun = machine.describe(), time.monotonic()
    for name, value in about.items():
        print(f"{name}: {value}", flush=True)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as place:
        bench = Bench(Path(place), given.folder.resolve(), size, given.threads, given.runtime)
        found = bench.contenders(given.peers, given.only)
        samples = bench.measure(found, runs)
    figures, spread = medians(samples)
    print()
    print(report.table(figures, spread))
    seconds = round(time.monotonic() - begun, 1)
    print(f"\n{runs} runs in {seconds:.0f} s")
    if given.json:
        told = {item.name: item.about for item in found if item.about}
        print(report.last_line(figures, runs=runs, size=size, seconds=seconds, machine=about, contenders=told))
    return 0


class Bench:
    """Scenes of two sizes, the networks, and what is measured on them.

    The smaller scene is there for what a command costs before its first pixel: the difference of both is pixels alone.
    """

    def __init__(self, place: Path, scenes: Path, size: int, threads: int, runtime: str) -> None:
        self.threads, self.sizes, self._place, self._runtime = threads, (size // 2, size), place, runtime
        self.networks: Networks = write_networks(place / "networks")
        self._scenes = {size: servers.scene_file(scenes, size) for size in self.sizes}
        self._whole = {size: scenes / f"landscape-whole-{size}.npz" for size in self.sizes}

    def contenders(self, peers: Path | None, only: Sequence[str]) -> list[Contender]:
        """Everybody who can take part here; says who cannot, and why."""
        networks, threads = self.networks, self.threads
        found: list[Contender] = []
        # What is chosen by a clock may be chosen differently in each process: one choice holds for all.
        runtimes = {precision: self._plan(precision) for precision in ("fp32", "bf16")}
        for precision, runtime in runtimes.items():
            if runtime:
                found.append(contenders.bare(networks, precision, runtime, threads, self._place))
                found.append(contenders.ours(networks, precision, runtime, threads))
        found.append(contenders.on_dask(networks, runtimes["fp32"], threads))
        wanted: list[Callable[[Path], Contender]] = [
            lambda folder: contenders.geodeep(networks, "scipy", threads, folder),
            lambda folder: contenders.geodeep(networks, "plain", threads, folder),
            lambda folder: contenders.geodeep(networks, "unfiltered", threads, folder),
            lambda folder: contenders.geoai(networks, folder),
        ]
        if peers is None:
            print("peers: left out; --peers FOLDER installs them there")
            wanted = []
        for make in wanted:
            try:
                found.append(make(peers.resolve() if peers else Path()))
            except Unreachable as error:
                print(f"left out: {error}", flush=True)
        if unknown := set(only) - {item.name for item in found}:
            print(f"not there: {', '.join(sorted(unknown))}", flush=True)
        return [item for item in found if not only or item.name in only]

    def _plan(self, precision: str) -> str:
        """Write down an export's windows for each scene; the runtime that it takes, or "" if none has the precision."""
        alike = {**self._alike(), "TILER_RUNTIME": self._runtime}
        for scene in self._scenes.values():
            module = [sys.executable, "-m", "benchmarks.export.windows"]
            plan = planned(scene, precision, self._place)
            arguments = [self.networks.ours, scene, plan, precision, self.threads]
            try:
                told = cost.run([*module, *map(str, arguments)], self.threads, alike).told
            except RuntimeError as error:
                print(f"left out: {precision}: {str(error).splitlines()[-1]}", flush=True)
                return ""
        print(f"{precision}: {told.strip()}", flush=True)
        return str(json.loads(told)["runtime"])

    def measure(self, found: Sequence[Contender], runs: int) -> dict[str, list[float]]:
        """Everybody in turn, beginning with another one in each run; values by figure, one for each run."""
        for size in self.sizes:
            if not self._whole[size].exists():
                module = [sys.executable, "-m", "benchmarks.export.whole"]
                cost.run([*module, str(self._scenes[size]), str(self._whole[size])], self.threads)
        for contender in found:
            # Once without counting: Python compiles what it has not seen, and what ours measures of a scene, it keeps.
            for size in self.sizes if contender.name.startswith("ours") else self.sizes[:1]:
                self._run(contender, size)
        samples: dict[str, list[float]] = defaultdict(list)
        for run in range(runs):
            shift = run % len(found)
            costs: Costs = {}
            others: dict[str, Difference] = {}
            for contender in [*found[shift:], *found[:shift]]:
                for size in self.sizes:
                    spent, other = self._run(contender, size)
                    costs.setdefault(contender.name, {})[size] = spent
                others[contender.name] = other
                print(
                    f"  {contender.name}: {spent.cpu:.1f} CPU s, {spent.wall:.1f} s, {spent.rss / 2**20:.0f} MiB, "
                    f"{other.pixels} px differ ({other.percent:.4f} %), {other.inside} inside",
                    flush=True,
                )
            for name, value in figures_of(costs, others, self.sizes).items():
                samples[name].append(value)
            print(f"run {run + 1} of {runs} done", flush=True)
        return samples

    def _run(self, contender: Contender, size: int) -> tuple[Cost, Difference]:
        """One scene, by one contender, into a folder that is thrown away."""
        with tempfile.TemporaryDirectory(dir=self._place) as out:
            command = contender.command(self._scenes[size], Path(out))
            spent = cost.run(command, self.threads, {**self._alike(), **contender.environment})
            return spent, difference(read(Path(out) / contender.answer), self._whole[size], self.networks.halo)

    def _alike(self) -> dict[str, str]:
        """What everybody is told beside the command line: as many threads everywhere."""
        return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))


if __name__ == "__main__":
    sys.exit(main())
