"""One whole measurement: servers and peers side by side, all workloads in turn, and that several times over."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import servers, traces, workloads
from benchmarks.figures import median, percentile, ratio, waste
from benchmarks.models import LARGE, LARGE_BF16, SMALL, write_network
from benchmarks.places import Place, Tile, apart_viewports, centre_out, random_viewports, serpentine
from benchmarks.processes import Child
from benchmarks.real_models import DATA, add
from benchmarks.soak import soak
from benchmarks.workloads import Burst, Served, Walk

CHIP = 512
CONNECTIONS = 16
IDENTICAL = 32
REAL, REAL_SCENE = "world", DATA / "majortom_thailand" / "majortom_thailand_12band_10m_cog.tif"
BUFFER = 64
# Kinds of threads in our server, as `Served.thread_seconds` calls them; the runtime's own have no name.
THREADS = ("MainThread", "read", "device", "runtime", "finish", "settle")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured.

    Attributes:
        size: of the demo's scene, in pixels a side.
        runs: how often everything is measured; figures are medians.
        places: cold viewports in each run, for each number of connections.
        connections: of a cold viewport.
        apart: viewports back to back, at most, for serving efficiency.
        walk, naive: seconds of a trace.
        warm, imagery: times that a viewport of kept tiles, or of imagery, is asked for.
        clients: that the costs are compared for; none skips it.
        soak: seconds; 0 skips it.
        quick: whether everything that only helps is left out.
        budget: seconds for all of it; parts get shorter when a busy machine would exceed it.
    """

    size: int = 4096
    runs: int = 5
    places: int = 8
    connections: tuple[int, ...] = (1, 6, 16, 35)
    apart: int = 12
    walk: float = 15.0
    naive: float = 8.0
    warm: int = 60
    imagery: int = 8
    clients: tuple[int, ...] = (1, 4, 16, 64)
    soak: float = 120.0
    quick: bool = False
    budget: float = math.inf


QUICK = Extent(
    size=2048,
    runs=1,
    places=2,
    connections=(6, 16),
    apart=2,
    walk=4.0,
    naive=2.5,
    warm=25,
    imagery=2,
    clients=(),
    soak=0.0,
    quick=True,
    budget=44.0,
)

Samples = dict[str, list[float]]


class Suite:
    """Runs everything; `samples` has each figure's values, one for each run."""

    def __init__(
        self, extent: Extent, scenes: Path, models: Path, device: str = "cpu", say: Callable[[str], None] = print
    ) -> None:
        self.extent, self.device, self.say = extent, device, say
        self.samples: Samples = defaultdict(list)
        self.facts: dict[str, Any] = {}
        self._begun = time.monotonic()
        self._health: list[float] = []
        self._seen: set[tuple[str, int, int, int]] = set()
        self._unseen = 0
        self._scene = servers.scene_file(scenes, extent.size)
        networks = (LARGE, SMALL) if extent.quick else (LARGE, LARGE_BF16, SMALL)
        self._models = {network.name: write_network(network, models) for network in networks}
        self._trace = traces.read()

    async def measure(self) -> None:
        """Everything, `runs` times, each part next to what it is compared with."""
        begun = time.monotonic()
        async with self._children() as (served, peers, floor):
            self._served, self._peers, self._floor = served, peers, floor
            self._places = {name: await served.place(servers.SCENE, name) for name in self._models}
            self.facts["places"] = {name: dict(place.about) for name, place in self._places.items()}
            self.say(f"servers ready after {time.monotonic() - begun:.0f} s")
            await self._warm_up()
            for run in range(self.extent.runs):
                await self._run(run)
                self.say(f"run {run + 1} of {self.extent.runs} done after {time.monotonic() - begun:.0f} s")
            if not self.extent.quick:
                await self._timed("zoomed out", self._zoomed_out())
                await self._timed("costs against clients", self._costs())
        if not self.extent.quick and REAL_SCENE.exists():
            await self._timed("a real scene", self._real())
        if self.extent.soak:
            await self._timed("soak", self.soak())

    @asynccontextmanager
    async def _children(self) -> AsyncIterator[tuple[Served, Child, Child]]:
        children: list[Child] = []
        served = None
        try:
            # What is measured at load is kept, so the processes after the first find it.
            children.append(servers.floor_process(self.device))
            children.append(servers.our_server({servers.SCENE: self._scene}, self._models, self.device))
            children[1].wait()
            children.append(self._new_peers())
            for child in (children[0], children[2]):
                child.wait()
            served = Served(children[1])
            yield served, children[2], children[0]
        finally:
            if served is not None:
                served.close()
            servers.stop(children)

    def _fits(self, seconds: float) -> bool:
        """Whether the budget has room for the rest, which takes so long when nothing is shortened."""
        return time.monotonic() - self._begun + seconds < self.extent.budget

    def _new_peers(self) -> Child:
        return servers.peer_server({SMALL.name: self._models[SMALL.name]}, self.device)

    def _note(self, **values: float) -> None:
        for name, value in values.items():
            self.samples[name].append(float(value))

    def _bare(self, model: str, shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The floor: the same shapes, nothing around them."""
        answer: dict[str, Any] = self._floor.ask(model=str(self._models[model]), shapes=shapes)
        return answer

    async def _warm_up(self) -> None:
        for name, place in self._places.items():
            for view in random_viewports(place, 1, seed=999):
                found = await workloads.cold(self._served, place, view, CONNECTIONS)
                self._remember(name, found)
        view = random_viewports(self._places[LARGE.name], 1, seed=999)[0]
        await workloads.burst(self._peers, servers.plain_url(self._scene), view, 4)

    async def _run(self, run: int) -> None:
        networks = [(LARGE.name, "", self.extent.apart), (SMALL.name, "_small", 24)]
        if not self.extent.quick:
            networks.append((LARGE_BF16.name, "_large_bf16", 24))
        await self._timed("cold viewports", self._cold(run))
        for name, suffix, most in networks:
            await self._timed(f"efficiency of {name}", self._efficiency(run, name, suffix, most))
        await self._timed("pan to a last viewport", self._last_viewport(run))
        await self._timed("kept tiles and imagery", self._kept(run))
        await self._timed("four users", self._waste(run))
        await self._timed("sixteen users, also on plain TiTiler", self._naive(run))
        tile = random_viewports(self._places[LARGE.name], 1, seed=77 + run)[0][0]
        self._note(
            identical_inferences=await workloads.identical(self._served, self._places[LARGE.name], tile, IDENTICAL)
        )
        self._note(health_p99_ms=percentile(self._health, 0.99), health_p50_ms=percentile(self._health, 0.5))
        self._health.clear()

    async def _timed(self, name: str, work: Awaitable[None]) -> None:
        begun = time.monotonic()
        await work
        self.say(f"  {name}: {time.monotonic() - begun:.1f} s")

    async def _cold(self, run: int) -> None:
        """Viewports at fresh places; fixed chips and the bare loop over the same places right beside them."""
        place = self._places[LARGE.name]
        side = CHIP + 2 * place.grid.halo
        found: Samples = defaultdict(list)
        for number, view in enumerate(random_viewports(place, self.extent.places, seed=1000 + run)):
            if number and not self._fits(30):
                break
            shown = len(view) * place.tile_pixels(place.maxzoom)
            chip = self._bare(LARGE.name, [[1, side, side]])["seconds"]
            chips = place.chips(view, CHIP)
            found["redundancy_chips"].append(chips * side * side / shown)
            # In turn, so that no number of connections always comes first.
            shift = number % len(self.extent.connections)
            for connections in self.extent.connections[shift:] + self.extent.connections[:shift]:
                burst = await workloads.cold(self._served, place, view, connections)
                self._remember(LARGE.name, burst)
                found[f"redundancy_{connections}"].append(burst.pixels / shown)
                found[f"first_tile_ms_{connections}"].append(burst.first * 1e3)
                found[f"last_tile_ms_{connections}"].append(burst.wall * 1e3)
                found[f"windows_{connections}"].append(len(burst.forwards))
                found[f"cpu_ms_per_tile_cold_{connections}"].append(burst.cpu * 1e3 / len(view))
                if connections in (6, CONNECTIONS):
                    name = "chips_ratio" if connections == CONNECTIONS else f"chips_ratio_{connections}"
                    found[name].append(ratio(burst.wall, chips * chip))
                if connections == CONNECTIONS and number % 3 == 0 and not self.extent.quick:
                    bare = self._bare(LARGE.name, burst.shapes)
                    found["viewport_efficiency"].append(ratio(bare["seconds"], burst.wall))
        # A mean over places, as the figures were defined; the median is taken over runs.
        self._note(**{name: sum(values) / len(values) for name, values in found.items() if "ms" not in name})
        self._note(**{name: median(values) for name, values in found.items() if "ms" in name})
        self._note(redundancy=self.samples[f"redundancy_{CONNECTIONS}"][-1])

    async def _efficiency(self, run: int, model: str, suffix: str, most: int) -> None:
        """Viewports back to back over 16 connections, then the bare loop over the very same windows."""
        place = self._places[model]
        most = most if self._fits(27) else 1
        tiles = [tile for view in apart_viewports(place, seed=run)[:most] for tile in view]
        before, own = await self._served.thread_seconds(), time.process_time()
        burst = await workloads.cold(self._served, place, tiles, CONNECTIONS)
        own = time.process_time() - own
        used = await self._served.thread_seconds()
        bare = self._bare(model, burst.shapes)
        for kind in THREADS:
            spent = used.get(kind, 0.0) - before.get(kind, 0.0)
            self._note(**{f"cpu_ms_per_tile_{kind.casefold()}{suffix}": spent * 1e3 / len(tiles)})
        inside = sum(forward.seconds for forward in burst.forwards)
        new, known = self._slowdowns(model, burst, bare["each"])
        self._note(
            **{
                f"serving_efficiency{suffix}": ratio(bare["seconds"], burst.wall),
                f"device_busy{suffix}": ratio(inside, burst.wall),
                f"forward_slowdown{suffix}": ratio(inside, bare["seconds"]),
                f"forward_slowdown_new_shapes{suffix}": new,
                f"forward_slowdown_known_shapes{suffix}": known,
                f"windows_new_shapes{suffix}": self._unseen,
                f"cpu_ms_per_tile_floor{suffix}": bare["cpu_seconds"] * 1e3 / len(tiles),
                f"cpu_ms_per_tile_client{suffix}": own * 1e3 / len(tiles),
                f"cpu_efficiency{suffix}": ratio(bare["cpu_seconds"], burst.cpu),
                f"floor_mpx_s{suffix}": bare["pixels"] / bare["seconds"] / 1e6,
                f"served_mpx_s{suffix}": burst.pixels / burst.wall / 1e6,
                f"shapes{suffix}": bare["distinct"],
                f"new_shapes_seconds{suffix}": bare["first_seconds"],
                f"redundancy_back_to_back{suffix}": burst.pixels / len(tiles) / place.tile_pixels(place.maxzoom),
            }
        )

    def _remember(self, model: str, burst: Burst) -> None:
        self._seen |= {(model, forward.batch, forward.height, forward.width) for forward in burst.forwards}

    def _slowdowns(self, model: str, burst: Burst, bare: Sequence[float]) -> tuple[float, float]:
        """How much longer a forward takes in the server than alone: at a shape's first time there, and later."""
        seconds, alone = [0.0, 0.0], [0.0, 0.0]
        self._unseen = 0
        for forward, floor in zip(burst.forwards, bare, strict=True):
            shape = (model, forward.batch, forward.height, forward.width)
            later = shape in self._seen
            self._unseen += not later
            self._seen.add(shape)
            seconds[later] += forward.seconds
            alone[later] += floor
        return ratio(seconds[0], alone[0]), ratio(seconds[1], alone[1])

    async def _last_viewport(self, run: int) -> None:
        """The last view of a pan against that view alone: what the views that were left behind still cost."""
        place = self._places[LARGE.name]
        ways = {"last_viewport_ratio": serpentine(place, 10)}
        if not self.extent.quick:
            ways["last_viewport_ratio_apart"] = apart_viewports(place, seed=run)[:10]
        for name, views in ways.items():
            alone = await workloads.cold(self._served, place, views[-1], 6)
            took, _ = await workloads.pan(self._served, place, views, 0.2, 6)
            self._note(**{name: ratio(took, alone.wall), f"{name}_seconds": took})
            await self._served.quiet()

    async def _kept(self, run: int) -> None:
        """Kept tiles, kept cells, TiTiler's imagery and an empty route, each as fast as it goes."""
        place = self._places[SMALL.name]
        view = random_viewports(place, 1, seed=500 + run)[0]
        await workloads.cold(self._served, place, view, CONNECTIONS)
        rates, costs = {}, {}
        for name, server, url, times in (
            ("warm", self._served.child, place.url, self.extent.warm),
            ("imagery", self._peers, servers.plain_url(self._scene), self.extent.imagery),
            ("empty", self._peers, lambda _: "/empty", self.extent.warm),
        ):
            wall, cpu, _ = await workloads.burst(server, url, view * times, CONNECTIONS)
            rates[name], costs[name] = len(view) * times / wall, cpu / (len(view) * times)
        painted = []
        for _ in range(3):
            await self._served.forget_pictures()
            painted.append((await workloads.burst(self._served.child, place.url, view, CONNECTIONS))[0])
        rates["painted"] = len(view) / median(painted)
        self._note(
            warm_ratio=ratio(rates["warm"], rates["imagery"]),
            warm_cpu_ratio=ratio(costs["imagery"], costs["warm"]),
            painted_ratio=ratio(rates["painted"], rates["imagery"]),
            warm_to_empty=ratio(rates["warm"], rates["empty"]),
            **{f"{name}_tiles_s": rate for name, rate in rates.items()},
            cpu_ms_per_tile_warm=costs["warm"] * 1e3,
            cpu_ms_per_tile_imagery=costs["imagery"] * 1e3,
        )

    async def _walk(self, place: Place, users: int, seconds: float, begin: float) -> tuple[Walk, float, float, float]:
        """A trace from cold, health asked for all the while: the walk, its waste, redundancy, share inferred again."""
        await self._served.forget()
        before, again = await self._served.inferred()
        prober = Child("benchmarks.prober", [str(self._served.port)]).wait()
        try:
            found = await workloads.walk(
                self._served.child,
                place.url,
                place,
                self._trace[:users],
                seconds,
                begin,
                linger=20.0,
            )
            self._health += prober.ask(stop=True)["ms"]
        finally:
            prober.stop()
        forwards = await self._served.forwards()
        await self._served.quiet()
        used = {cell for tile in found.seen for cell in place.cells(tile)}
        after, repeated = await self._served.inferred()
        inferred, repeated = after - before, repeated - again
        pixels = sum(forward.pixels for forward in forwards)
        redundancy = ratio(pixels, len(used) * place.grid.cell**2)
        return found, waste(inferred, used), redundancy, ratio(repeated, inferred + repeated)

    async def _waste(self, run: int) -> None:
        """Four users over the trace, on the network that cannot keep up with them."""
        place = self._places[LARGE.name]
        begin = 0.0 if self.extent.quick else run * traces.SECONDS / self.extent.runs
        seconds = self.extent.walk if self._fits(14) else self.extent.walk / 2
        found, wasted, redundancy, again = await self._walk(place, 4, seconds, begin)
        self._note(
            pan_waste=wasted,
            pan_redundancy=redundancy,
            pan_cells_again=again,
            pan_completed_share=ratio(len(found.took), found.asked),
            pan_failed=found.failed,
        )

    async def _naive(self, run: int) -> None:
        """Sixteen users over the trace: ours, and the model per tile in plain TiTiler."""
        place = self._places[SMALL.name]
        begin = 0.0 if self.extent.quick else run * traces.SECONDS / self.extent.runs
        seconds = self.extent.naive if self._fits(7) else self.extent.naive / 2
        ours, wasted, *_ = await self._walk(place, 16, seconds, begin)
        rates = {}
        for name, buffer in (("naive", BUFFER),) if self.extent.quick else (("naive", BUFFER), ("naive_seams", 0)):
            url = servers.plain_url(self._scene, SMALL.name, buffer)
            found = await workloads.walk(self._peers, url, place, self._trace[:16], seconds, begin)
            rates[name] = found.rate
            self._note(**{f"{name}_cpu_ms_per_tile": ratio(found.cpu * 1e3, len(found.took))})
            await self._renew_peers()
        self._note(
            naive_ratio=ratio(ours.rate, rates["naive"]),
            pan_waste_16=wasted,
            panning_tiles_s=ours.rate,
            panning_cpu_ms_per_tile=ratio(ours.cpu * 1e3, len(ours.took)),
            panning_completed_share=ratio(len(ours.took), ours.asked),
            **{f"{name}_tiles_s": rate for name, rate in rates.items()},
        )
        if "naive_seams" in rates:
            self._note(naive_ratio_seams=ratio(ours.rate, rates["naive_seams"]))

    async def _renew_peers(self) -> None:
        """Synchronous endpoints go on with all that was aborted; the next measurement must not wait for it."""
        self._peers.stop(at_once=True)
        if self.extent.quick:
            return  # it was the last
        fresh = self._new_peers().wait()
        # The same object, so that whoever stops the children stops this one.
        self._peers.__dict__.update(fresh.__dict__)
        await workloads.burst(self._peers, servers.plain_url(self._scene), [_middle(self._places[SMALL.name])], 1)

    async def _zoomed_out(self) -> None:
        """The whole scene at the lowest zoom that is answered."""
        place = self._places[SMALL.name]
        z = place.minzoom
        left, top, right, bottom = place.extent(z)
        columns, lines = range(math.floor(left), math.ceil(right)), range(math.floor(top), math.ceil(bottom))
        tiles = centre_out([Tile(z, x, y) for y in lines for x in columns])
        for _ in range(min(3, self.extent.runs)):
            burst = await workloads.cold(self._served, place, tiles, CONNECTIONS)
            bare = self._bare(SMALL.name, burst.shapes)
            scene = place.grid.height * place.grid.width
            self._note(
                zoomed_out_seconds=burst.wall,
                zoomed_out_efficiency=ratio(bare["seconds"], burst.wall),
                zoomed_out_redundancy=ratio(burst.pixels, scene),
            )

    async def _costs(self) -> None:
        """What a completed tile costs with more and more users."""
        place = self._places[SMALL.name]
        for users in self.extent.clients:
            await self._served.forget()
            found = await workloads.walk(
                self._served.child, place.url, place, self._trace[:users], self.extent.naive, linger=20.0
            )
            pixels = sum(forward.pixels for forward in await self._served.forwards())
            self._note(
                **{
                    f"tiles_s_{users}_clients": found.rate,
                    f"cpu_ms_per_tile_{users}_clients": ratio(found.cpu * 1e3, len(found.took)),
                    f"network_px_per_tile_{users}_clients": ratio(pixels, len(found.took)),
                    f"tile_p50_ms_{users}_clients": percentile(found.took, 0.5) * 1e3,
                    f"tile_p95_ms_{users}_clients": percentile(found.took, 0.95) * 1e3,
                }
            )

    async def _real(self) -> None:
        """A published network over a real scene: cold viewports at 16 connections, and the floor beside them."""
        with TemporaryDirectory(prefix="benchmarks-") as folder:
            model = add(REAL, Path(folder))
            with (
                servers.our_server({"real": REAL_SCENE}, {REAL: model}, self.device) as child,
                servers.floor_process(self.device) as floor,
            ):
                served = Served(child.wait())
                floor.wait()
                place = await served.place("real", REAL)
                self.facts["places"][REAL] = dict(place.about)
                side = CHIP + 2 * place.grid.halo
                question = {"model": str(model), "channels": 9, "dtype": "uint16"}
                for view in random_viewports(place, 3, seed=5, cols=4):
                    burst = await workloads.cold(served, place, view, CONNECTIONS)
                    bare = floor.ask(shapes=burst.shapes, **question)
                    chip = floor.ask(shapes=[[1, side, side]], **question)["seconds"]
                    self._note(
                        real_redundancy=burst.pixels / len(view) / place.tile_pixels(place.maxzoom),
                        real_viewport_efficiency=ratio(bare["seconds"], burst.wall),
                        real_last_tile_ms=burst.wall * 1e3,
                        real_chips_ratio=ratio(burst.wall, place.chips(view, CHIP) * chip),
                    )
                served.close()

    async def soak(self) -> None:
        """The long one; see `soak.soak`."""
        model = self._models[SMALL.name]
        self._note(**await soak(self._scene, model, self._trace, self.extent.soak, self.device))


def _middle(place: Place) -> Tile:
    return random_viewports(place, 1, seed=0)[0][0]


def medians(samples: Mapping[str, Sequence[float]]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Medians of the runs, and their least and greatest values."""
    numbers = {name: [value for value in values if not math.isnan(value)] for name, values in samples.items()}
    return (
        {name: median(values) for name, values in numbers.items()},
        {name: (min(values), max(values)) for name, values in numbers.items() if values},
    )
