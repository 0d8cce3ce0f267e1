"""What is done to a server, and what that took. Each works on one place; nothing here knows of figures or peers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.places import Place, Tile, looking_at
from benchmarks.processes import Child
from benchmarks.traces import SECONDS, WINDOW, User
from benchmarks.wire import Answer, Client

Url = Callable[[Tile], str]


@dataclass(frozen=True, slots=True)
class Forward:
    """One batch that went through a network: its shape, when (seconds, monotonic) and for how long."""

    batch: int
    height: int
    width: int
    begun: float
    seconds: float

    @property
    def pixels(self) -> int:
        """Halo and padding included."""
        return self.batch * self.height * self.width


@dataclass(frozen=True, slots=True)
class Burst:
    """Tiles asked for at once, all waited for."""

    wall: float
    cpu: float
    took: tuple[float, ...]
    forwards: tuple[Forward, ...]

    @property
    def first(self) -> float:
        """Seconds to the first tile."""
        return min(self.took)

    @property
    def pixels(self) -> int:
        """Put through the network."""
        return sum(forward.pixels for forward in self.forwards)

    @property
    def shapes(self) -> list[list[int]]:
        """As the floor takes them."""
        return [[forward.batch, forward.height, forward.width] for forward in self.forwards]


@dataclass(slots=True)
class Walk:
    """What a trace came to."""

    wall: float = 0.0
    cpu: float = 0.0
    asked: int = 0
    aborted: int = 0
    failed: int = 0
    took: list[float] = field(default_factory=list)
    seen: set[Tile] = field(default_factory=set)

    @property
    def rate(self) -> float:
        """Completed tiles per second."""
        return len(self.took) / self.wall


class Served:
    """Our server: a child, and an open connection to ask it about itself."""

    def __init__(self, child: Child) -> None:
        self.child, self.port = child, int(child.ready)
        self._ask = Client(self.port, 1, "benchmark itself")

    async def place(self, scene: str, model: str) -> Place:
        """A pair, its model loaded and warm."""
        return Place.of(scene, model, await self._ask.json(f"/benchmark/pair/{scene}/{model}"))

    async def forget(self) -> None:
        """Make it cold."""
        await self._ask.json("/benchmark/forget")

    async def forget_pictures(self) -> None:
        """Keep cells only."""
        await self._ask.json("/benchmark/forget-pictures")

    async def forwards(self) -> tuple[Forward, ...]:
        """What went through networks since it was last asked, or made cold."""
        return tuple(Forward(*note) for note in await self._ask.json("/benchmark/forwards"))

    async def inferred(self) -> tuple[int, int]:
        """Cells inferred so far, each counted once while it is kept; and how often a kept one was inferred again."""
        found = await self._ask.json("/benchmark/counters")
        return int(found["inferred"] - found["again"]), int(found["again"])

    async def thread_seconds(self) -> dict[str, float]:
        """CPU time so far by kind of thread: device, read, finish, open, MainThread, and the runtime's own."""
        names, found = await self._ask.json("/benchmark/threads"), dict[str, float]()
        for number, seconds in self.child.thread_seconds().items():
            kind = names.get(number, "runtime").partition("-")[0].partition("_")[0]
            found[kind] = found.get(kind, 0.0) + seconds
        return found

    async def quiet(self) -> None:
        """Wait until nothing is under way any more."""
        before = (-1, -1)
        while (now := await self.inferred()) != before:
            before = now
            await asyncio.sleep(0.3)
        await self.forwards()

    def close(self) -> None:
        """Close the connection."""
        self._ask.close()


async def burst(
    server: Child, url: Url, tiles: Sequence[Tile], connections: int, clients: int = 1
) -> tuple[float, float, list[Answer]]:
    """Ask for tiles in order, over so many connections of so many clients; (wall, server's CPU, answers)."""
    people = [Client(int(server.ready), connections, f"benchmark {number}") for number in range(clients)]
    cpu, begun = server.cpu_seconds(), time.monotonic()
    try:
        answers = await asyncio.gather(*(people[number % clients].get(url(tile)) for number, tile in enumerate(tiles)))
    finally:
        for person in people:
            person.close()
    wall = time.monotonic() - begun
    for answer in answers:
        if answer.status != 200:
            raise RuntimeError(f"a tile was answered {answer.status}: {answer.body[:300]!r}")
    return wall, server.cpu_seconds() - cpu, answers


async def cold(served: Served, place: Place, tiles: Sequence[Tile], connections: int, clients: int = 1) -> Burst:
    """Tiles that nothing is kept of."""
    await served.forget()
    begun = time.monotonic()
    wall, cpu, answers = await burst(served.child, place.url, tiles, connections, clients)
    took = tuple(answer.done - begun for answer in answers)
    return Burst(wall, cpu, took, await served.forwards())


async def identical(served: Served, place: Place, tile: Tile, count: int = 32) -> int:
    """The same cold tile, asked for by many at once: how often the network ran."""
    found = await cold(served, place, [tile] * count, 1, count)
    return sum(forward.batch for forward in found.forwards)


async def walk(
    server: Child,
    url: Url,
    place: Place,
    users: Sequence[User],
    seconds: float,
    begin: float = 0.0,
    linger: float = 0.0,
) -> Walk:
    """Play a trace: every step drops the tiles that are not in view any more, and asks for those that came into view.

    What a client has seen at the present zoom it keeps, as browsers do.

    Args:
        server: whose CPU time counts.
        url: of a tile.
        place: what the users look at.
        users: the trace; it is played in a circle.
        seconds: how long.
        begin: seconds of the trace to begin with.
        linger: seconds at most that users go on waiting for the last view. It counts as seen, not as served.
    """
    result = Walk(wall=seconds)
    cpu = server.cpu_seconds()

    async def clock() -> None:
        await asyncio.sleep(seconds)
        result.cpu = server.cpu_seconds() - cpu

    people = [
        _user(server, url, place, user, number, seconds, begin, linger, result) for number, user in enumerate(users)
    ]
    await asyncio.gather(clock(), *people)
    return result


async def _user(
    server: Child,
    url: Url,
    place: Place,
    user: User,
    number: int,
    seconds: float,
    begin: float,
    linger: float,
    result: Walk,
) -> None:
    client = Client(int(server.ready), user.connections, f"benchmark user {number}")
    running: dict[Tile, asyncio.Task[None]] = {}
    kept: set[Tile] = set()

    async def get(tile: Tile) -> None:
        result.asked += 1
        begun = time.monotonic()
        answer = await client.get(url(tile))
        if answer.status == 200:
            if answer.done <= started + seconds:
                result.took.append(answer.done - begun)
            result.seen.add(tile)
            kept.add(tile)
        else:
            result.failed += 1

    async def drop(tiles: Sequence[Tile]) -> None:
        for tile in tiles:
            running[tile].cancel()
        for tile in tiles:
            with suppress(asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
                await running[tile]
            result.aborted += tile not in kept
            del running[tile]

    started = time.monotonic()
    steps, laps = user.steps, 0
    index = next((number for number, step in enumerate(steps) if step.at >= begin), 0)
    while True:
        step = steps[index]
        due = step.at - begin + laps * SECONDS
        if due >= seconds:
            break
        await asyncio.sleep(max(0.0, started + due - time.monotonic()))
        view = looking_at(place, step.x, step.y, step.dz, WINDOW)
        await drop([tile for tile, task in running.items() if task.done() or tile not in view])
        kept &= set(view)
        for tile in view:
            if tile not in running and tile not in kept:
                running[tile] = asyncio.ensure_future(get(tile))
        index += 1
        if index == len(steps):
            index, laps = 0, laps + 1
    await asyncio.sleep(max(0.0, started + seconds - time.monotonic()))
    if linger and any(not task.done() for task in running.values()):
        await asyncio.wait(running.values(), timeout=linger)
    await drop(list(running))
    client.close()


async def pan(
    served: Served, place: Place, views: Sequence[Sequence[Tile]], interval: float, connections: int
) -> tuple[float, tuple[Forward, ...]]:
    """One user who goes through cold views without waiting for them: seconds from the last step to the last tile."""
    await served.forget()
    client = Client(served.port, connections, "benchmark pan")
    running: dict[Tile, asyncio.Task[Answer]] = {}
    begun = 0.0
    for number, view in enumerate(views):
        if number:
            await asyncio.sleep(interval)
        begun = time.monotonic()
        for tile in [tile for tile in running if tile not in view]:
            running.pop(tile).cancel()
        for tile in view:
            if tile not in running:
                running[tile] = asyncio.ensure_future(client.get(place.url(tile)))
    answers = await asyncio.gather(*running.values())
    took = time.monotonic() - begun
    client.close()
    assert all(answer.status == 200 for answer in answers)
    return took, await served.forwards()
