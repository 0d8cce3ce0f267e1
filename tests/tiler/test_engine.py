"""The engine when things go wrong: clients that leave, errors at every stage, a full queue, the end.

Every network here is a real one behind a gate, so that a test decides who is where when something happens; every answer
is compared with one pass over the whole scene.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.errors import RasterioIOError
from starlette.testclient import TestClient

from model_registry import load
from model_registry.testing import _Graph, write_model
from tests.tiler.controlled import (
    CLASSES,
    DEADLINE,
    Gate,
    GatedRunner,
    World,
    at_rest,
    gated,
    network,
    running,
    until,
    world,
)
from tests.tiler.helpers import RES, landscape, tiles_over, write_scene
from tiler.engine import Answer, Engine
from tiler.errors import BusyError, DeviceError, InferenceError, ReadError
from tiler.layer import MAX_WINDOW_PIXELS, Layer, fit
from tiler.pace import BURST
from tiler.pixels import read_window
from tiler.ready import Work
from tiler.scene import open_scene
from tiler.values import Cell
from tiler.waiting import Origin
from tiler.warming import usual_windows
from tiler.windows import Block

# Windows of at most 4 x 4 cells of 32 px with their halo of 2; and of one cell.
FOUR = 132 * 132
ONE = 1


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    reads = Reads()
    monkeypatch.setattr("tiler.engine.read_window", reads)
    yield reads
    reads.gate.open()


class Reads:
    """Reads behind a gate: counted, and failing where `fault` says so."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.windows: list[Any] = []
        self.fault: Callable[[Any], BaseException | None] = lambda window: None

    def __call__(self, source: Any, window: Any) -> Any:
        self.windows.append(window)
        self.gate.enter()
        error = self.fault(window)
        if error is not None:
            raise error
        return read_window(source, window)


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main, 2 * DEADLINE)

    asyncio.run(bounded())


async def soon(condition: Callable[[], object], what: str = "it") -> None:
    """Let the event loop run until something is true."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.001)


def ask(engine: Engine, layer: Layer, cells: list[Cell], **options: Any) -> asyncio.Task[Answer]:
    return asyncio.create_task(engine.scores_async(layer, cells, **options))


def block(top: int, left: int, rows: int, cols: int) -> list[Cell]:
    return [Cell(row, col) for row in range(top, top + rows) for col in range(left, left + cols)]


# Two tiles too far apart to be one window, and one beside the first.
HERE, THERE = block(0, 0, 3, 3), block(6, 6, 3, 3)


async def on_the_device(
    engine: Engine, layer: Layer, runner: GatedRunner, cells: list[Cell], count: int = 1
) -> asyncio.Task[Answer]:
    """A request whose window, the so many-th that comes, stands before the network and is not let in."""
    runner.gate.hold()
    asked = ask(engine, layer, cells)
    await asyncio.to_thread(runner.gate.wait_for, count)
    return asked


async def gone(*tasks: asyncio.Task[Answer]) -> None:
    """Cancel requests, as a closed connection does."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with pytest.raises(asyncio.CancelledError):
            await task


# Sharing


@pytest.mark.parametrize("limit", [FOUR, 1024 * 1024])
def test_many_identical_requests_are_one_forward_per_window(place: World, limit: int) -> None:
    cells = place.all_cells()

    async def main(requests: int) -> list[tuple[int, ...]]:
        layer, runner = place.layer(max_window_pixels=limit)
        with running() as engine:
            runner.gate.hold()
            tasks = [ask(engine, layer, cells, origin=Origin(f"client {number}")) for number in range(requests)]
            await asyncio.to_thread(runner.gate.wait_for, 1)
            assert engine.pending == len(cells)
            runner.gate.open()
            answers = await asyncio.gather(*tasks)
            assert [answer.source for answer in answers] == ["miss"] + ["shared"] * (requests - 1)
            for answer in answers:
                place.check(layer, answer, cells)
            assert engine.forwards == len(runner.shapes) and engine.counters.inferred == len(cells)
            assert engine.counters.shared == (requests - 1) * len(cells)
            await soon(lambda: at_rest(engine))
            again = await engine.scores_async(layer, cells)
            assert again.source == "hit" and again.stages is None
            place.check(layer, again, cells)
            assert engine.forwards == len(runner.shapes)
        return runner.shapes

    async def both() -> None:
        alone, together = sorted(await main(1)), sorted(await main(25))
        assert together == alone and (len(alone) == 1) == (limit > FOUR)

    run(both())


def test_overlapping_requests_infer_no_cell_twice(place: World) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=FOUR)
        with running(read_threads=2) as engine:
            wanted = [block(row, col, 5, 5) for row in range(0, 6, 2) for col in range(0, 7, 3)]
            answers = await asyncio.gather(*(ask(engine, layer, cells) for cells in wanted))
            for cells, answer in zip(wanted, answers, strict=True):
                place.check(layer, answer, cells)
            distinct = {cell for cells in wanted for cell in cells}
            assert len(distinct) <= engine.counters.inferred <= len(distinct) / 0.6

    run(main())


def test_an_idle_engine_waits_for_what_came_before_its_first_request(place: World, reads: Reads) -> None:
    """Two requests of a burst: the cells of the second, which came first, are worked out later. They share a window."""

    async def main() -> None:
        layer, runner = place.layer()
        known = asyncio.Event()

        async def slower() -> Answer:
            with engine.coming():
                await known.wait()
            return await engine.scores_async(layer, block(0, 3, 3, 3))

        with running() as engine:
            second = asyncio.create_task(slower())
            await asyncio.sleep(0)
            first = ask(engine, layer, block(0, 0, 3, 3))
            await soon(lambda: engine.queued == 9)
            await asyncio.sleep(BURST / 5)
            assert engine.queued == 9 and not reads.windows
            known.set()
            for task, cells in ((first, block(0, 0, 3, 3)), (second, block(0, 3, 3, 3))):
                place.check(layer, await task, cells)
            assert engine.forwards == len(runner.shapes) == 1

    run(main())


def test_an_idle_engine_gives_a_burst_a_moment_only(place: World) -> None:
    async def main() -> None:
        layer, _ = place.layer()
        with running() as engine, engine.coming():
            assert (await ask(engine, layer, [Cell(0, 0)])).source == "miss"

    run(main())


def test_an_idle_engine_does_not_wait_for_what_comes_later(place: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiler.pace.BURST", 1e6)

    async def main() -> None:
        layer, runner = place.layer()
        with running(read_ahead=0) as engine:
            runner.gate.hold()
            busy = ask(engine, layer, [Cell(0, 0)])
            await asyncio.to_thread(runner.gate.wait_for, 1)
            # Nothing is read ahead, so this one is still to be formed when the engine is idle again.
            first = ask(engine, layer, [Cell(5, 5)])
            await soon(lambda: engine.queued == 1)
            with engine.coming():
                runner.gate.open()
                for task, cell in ((busy, Cell(0, 0)), (first, Cell(5, 5))):
                    place.check(layer, await task, [cell])

    run(main())


def test_a_cell_asked_for_twice_in_one_request_is_one_cell(place: World) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=ONE)
        with running(read_ahead=0) as engine:
            runner.gate.hold()
            first = ask(engine, layer, [Cell(9, 9)])
            await asyncio.to_thread(runner.gate.wait_for, 1)
            twice = ask(engine, layer, [Cell(0, 0), Cell(0, 0), Cell(0, 1)])
            await asyncio.sleep(0)
            assert engine.pending == 3
            await gone(twice)
            assert engine.pending == 1 and engine.queued == 0 and engine.counters.dropped == 2
            runner.gate.open()
            place.check(layer, await first, [Cell(9, 9)])

    run(main())


def test_who_asks_for_what_only_fills_a_window_shares_it(place: World, reads: Reads) -> None:
    async def main() -> None:
        layer, runner = place.layer()
        with running() as engine:
            reads.gate.hold()
            corner = ask(engine, layer, [Cell(0, 0), Cell(0, 1), Cell(1, 0)])
            await asyncio.to_thread(reads.gate.wait_for, 1)
            filler = ask(engine, layer, [Cell(1, 1)])
            await asyncio.sleep(0)
            assert engine.queued == 0
            reads.gate.open()
            place.check(layer, await filler, [Cell(1, 1)])
            await corner
            assert engine.forwards == 1 and (await filler).source == "shared"

    run(main())


def test_a_map_gets_what_an_export_has_queued_without_waiting_for_its_turn(place: World) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=ONE)
        with running(read_threads=1, read_ahead=0) as engine:
            runner.gate.hold()
            export = ask(engine, layer, place.all_cells(), origin=Origin("export", export=True))
            await asyncio.to_thread(runner.gate.wait_for, 1)
            last = place.all_cells()[-1:]
            seen = ask(engine, layer, last, origin=Origin("ann"))
            await asyncio.sleep(0)
            runner.gate.let(2)
            place.check(layer, await seen, last)
            assert not export.done() and engine.forwards == 2
            runner.gate.open()
            place.check(layer, await export, place.all_cells())

    run(main())


def test_answers_for_classes_come_from_probabilities_that_are_kept(place: World) -> None:
    layer, runner = place.layer()
    with running() as engine:
        rich = engine.scores(layer, HERE, probabilities=True)
        assert all(scores.probabilities is not None for scores in rich.scores.values())
        answer = engine.scores(layer, HERE)
        place.check(layer, answer, HERE)
        assert answer.source == "hit" and len(runner.shapes) == 1
        assert engine.cache.hits == len(HERE) and engine.cache.misses == len(HERE)


def test_one_thread_runs_the_network_whoever_asks(place: World) -> None:
    layer, runner = place.layer(max_window_pixels=ONE)
    with running(read_threads=4) as engine:
        askers = [threading.Thread(target=engine.scores, args=(layer, block(row, 0, 1, 4))) for row in range(4)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(DEADLINE)
        assert len(runner.threads) == 1 and len(runner.shapes) == 16


# Clients that leave


def test_gone_before_the_read_nothing_is_read_or_formed(place: World, reads: Reads) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=FOUR)
        with running(read_threads=1) as engine:
            reads.gate.hold()
            first = ask(engine, layer, HERE)
            await asyncio.to_thread(reads.gate.wait_for, 1)
            lost = ask(engine, layer, THERE)
            await soon(lambda: engine.queued == len(THERE))
            await gone(lost)
            assert engine.queued == 0 and engine.counters.dropped == len(THERE) and engine.pending == len(HERE)
            reads.gate.open()
            place.check(layer, await first, HERE)
            await soon(lambda: at_rest(engine))
            assert len(reads.windows) == len(runner.shapes) == 1

    run(main())


def test_gone_during_the_read_nothing_is_inferred(place: World, reads: Reads) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=FOUR)
        with running() as engine:
            reads.gate.hold()
            lost = ask(engine, layer, HERE)
            await asyncio.to_thread(reads.gate.wait_for, 1)
            await gone(lost)
            # A read that runs cannot be stopped: until it ends, whoever asks again joins it.
            assert engine.pending == len(HERE)
            reads.gate.open()
            await soon(lambda: at_rest(engine))
            assert runner.shapes == [] and engine.counters.dropped == len(HERE)
            place.check(layer, await engine.scores_async(layer, HERE), HERE)

    run(main())


def test_asked_for_again_during_the_read_it_is_read_once(place: World, reads: Reads) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=FOUR)
        with running() as engine:
            reads.gate.hold()
            lost = ask(engine, layer, HERE)
            await asyncio.to_thread(reads.gate.wait_for, 1)
            await gone(lost)
            again = ask(engine, layer, HERE)
            await asyncio.sleep(0)
            reads.gate.open()
            place.check(layer, await again, HERE)
            assert len(reads.windows) == len(runner.shapes) == 1

    run(main())


def test_gone_while_queued_for_the_device_nothing_is_inferred(place: World) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=FOUR)
        with running() as engine:
            runner.gate.hold()
            first = ask(engine, layer, HERE)
            await asyncio.to_thread(runner.gate.wait_for, 1)
            lost = ask(engine, layer, THERE)
            await soon(lambda: len(engine.ready) == 1)
            await gone(lost)
            runner.gate.open()
            place.check(layer, await first, HERE)
            await soon(lambda: at_rest(engine))
            assert len(runner.shapes) == 1 and engine.counters.dropped == len(THERE)

    run(main())


async def two_in_one_window(
    engine: Engine, layer: Layer, runner: GatedRunner, left: list[Cell], right: list[Cell]
) -> tuple[asyncio.Task[Answer], asyncio.Task[Answer], asyncio.Task[Answer]]:
    """Another request's window before the network, and behind it one window, read, for two requests."""
    first = await on_the_device(engine, layer, runner, THERE)
    tasks = ask(engine, layer, left, origin=Origin("left")), ask(engine, layer, right, origin=Origin("right"))
    await soon(lambda: len(engine.ready) == 1 and engine.queued == 0)
    return first, *tasks


def test_gone_while_queued_for_the_device_the_others_part_of_the_window_is_inferred(place: World) -> None:
    async def main() -> None:
        layer, runner = place.layer()
        left, right = HERE, block(0, 3, 3, 2)
        with running() as engine:
            first, lost, kept = await two_in_one_window(engine, layer, runner, left, right)
            await gone(lost)
            runner.gate.open()
            place.check(layer, await kept, right)
            place.check(layer, await first, THERE)
            await soon(lambda: at_rest(engine))
            # Two of five columns, each of the two with its halo.
            assert [shape[-2:] for shape in runner.shapes[1:]] == [(3 * 32 + 4, 2 * 32 + 4)]
            assert engine.counters.dropped == len(left) and engine.counters.inferred == len(THERE) + len(right)
            assert engine.pace.pixels == 0
            again = await engine.scores_async(layer, left)
            assert again.source == "miss"
            place.check(layer, again, left)

    run(main())


@pytest.mark.parametrize("read_first", [True, False])
def test_a_window_cut_down_has_the_pixels_that_it_would_have_had(place: World, read_first: bool) -> None:
    layer, _ = place.layer()
    small = Block(Cell(1, 2), Cell(2, 2))
    _, window = layer.window_of(Cell(0, 0), Cell(2, 3))
    work = Work(layer, Block(Cell(0, 0), Cell(2, 3)), 0, window, formed=0.0, cells=(Cell(0, 1), Cell(2, 2)))
    if read_first:
        work.pixels, work.valid = read_window(layer.source, work.window)
    work.shrink(small)
    assert work.block == small and work.cells == (Cell(2, 2),)
    assert work.window == layer.window_of(small.first, small.last)[1]
    if read_first:
        pixels, valid = read_window(layer.source, work.window)
        assert np.array_equal(work.pixels, pixels) and np.array_equal(work.valid, valid)


def test_gone_while_on_the_device_the_answer_is_kept(place: World) -> None:
    async def main() -> None:
        layer, runner = place.layer()
        with running() as engine:
            await gone(await on_the_device(engine, layer, runner, HERE))
            runner.gate.open()
            await soon(lambda: at_rest(engine))
            answer = await engine.scores_async(layer, HERE)
            assert answer.source == "hit" and len(runner.shapes) == 1
            place.check(layer, answer, HERE)

    run(main())


def test_gone_while_on_the_device_the_network_is_stopped_and_the_next_window_begins(place: World) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=ONE)
        runner.stops = True
        with running() as engine:
            lost = await on_the_device(engine, layer, runner, HERE[:1])
            other = ask(engine, layer, THERE[:1])
            await gone(lost)
            await asyncio.to_thread(runner.gate.wait_for, 2)
            assert engine.counters.dropped == 1
            runner.gate.open()
            place.check(layer, await other, THERE[:1])
            await soon(lambda: at_rest(engine))
            assert len(runner.shapes) == 1 and engine.counters.inferred == 1 and engine.healthy
            place.check(layer, await engine.scores_async(layer, HERE[:1]), HERE[:1])

    run(main())


def test_what_is_asked_for_again_at_once_is_not_stopped(place: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who zooms drops all tiles, and asks for the same cells in the next breath."""
    monkeypatch.setattr("tiler.engine.GRACE", 0.2)

    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=ONE)
        runner.stops = True
        with running() as engine:
            await gone(await on_the_device(engine, layer, runner, HERE[:1]))
            again = ask(engine, layer, HERE[:1])
            await asyncio.sleep(0.5)
            assert runner.gate.inside == 1 and engine.counters.dropped == 0
            runner.gate.open()
            place.check(layer, await again, HERE[:1])
            assert len(runner.shapes) == 1

    run(main())


def test_asked_for_again_after_the_stop_it_is_inferred_anew(place: World) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=ONE)
        runner.stops = True
        with running() as engine:
            for count in (1, 2, 3):
                await gone(await on_the_device(engine, layer, runner, HERE[:1], count))
                await soon(lambda: at_rest(engine))
            last = ask(engine, layer, HERE[:1])
            runner.gate.open()
            place.check(layer, await last, HERE[:1])
            assert len(runner.shapes) == 1 and engine.counters.dropped == 3

    run(main())


def test_a_stop_that_comes_too_late_hurts_nobody(place: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime said that it would stop, and answered all the same."""

    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=ONE)
        monkeypatch.setattr(runner, "stop", lambda: True)
        with running() as engine:
            await gone(await on_the_device(engine, layer, runner, HERE[:1]))
            await soon(lambda: engine.counters.dropped == 1)
            again = ask(engine, layer, HERE[:1])
            await asyncio.sleep(0.05)
            runner.gate.open()
            place.check(layer, await again, HERE[:1])
            await soon(lambda: at_rest(engine))

    run(main())


def test_gone_during_encoding_the_thread_is_free_again_and_what_waits_for_it_never_runs(place: World) -> None:
    async def main() -> None:
        gate, ran = Gate(opened=False), []

        def encode(name: str) -> str:
            gate.enter()
            ran.append(name)
            return name

        with running(finish_threads=1) as engine:
            running_now, queued = (asyncio.create_task(engine.finish(encode, name)) for name in ("one", "two"))
            await asyncio.to_thread(gate.wait_for, 1)
            for task in (running_now, queued):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            gate.open()
            assert await engine.finish(encode, "three") == "three"
            assert ran == ["one", "three"]

    run(main())


@pytest.mark.parametrize("stage", ["read", "device"])
def test_the_leader_leaves_and_its_followers_are_served(place: World, reads: Reads, stage: str) -> None:
    async def main() -> None:
        layer, runner = place.layer()
        gate = reads.gate if stage == "read" else runner.gate
        with running() as engine:
            gate.hold()
            leader = ask(engine, layer, HERE)
            await asyncio.to_thread(gate.wait_for, 1)
            followers = [ask(engine, layer, HERE[start:]) for start in range(4)]
            await asyncio.sleep(0)
            await gone(leader, followers[0])
            gate.open()
            for start, follower in enumerate(followers[1:], 1):
                place.check(layer, await follower, HERE[start:])
            assert len(runner.shapes) == 1 and engine.counters.dropped == 0

    run(main())


def test_when_all_are_gone_only_what_was_begun_is_finished(place: World, reads: Reads) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=ONE)
        with running(read_threads=1) as engine:
            reads.gate.hold()
            tasks = [ask(engine, layer, place.all_cells(), origin=Origin(f"client {number}")) for number in range(5)]
            await asyncio.to_thread(reads.gate.wait_for, 1)
            await gone(*tasks)
            assert engine.queued == 0 and engine.pending == 1
            reads.gate.open()
            await soon(lambda: at_rest(engine))
            assert len(reads.windows) == 1 and runner.shapes == []
            assert engine.counters.dropped == len(place.all_cells())

    run(main())


# Errors reach exactly whom they concern


READ_ERRORS = {
    "told": (ReadError("damaged"), ReadError),
    "gdal": (RasterioIOError("tile 7"), ReadError),
    "bug": (ValueError("our own"), ReadError),
    "memory": (MemoryError(), ReadError),
    "exit": (SystemExit(1), ReadError),
}


@pytest.mark.parametrize("kind", READ_ERRORS)
def test_an_error_in_a_read_reaches_its_own_and_the_engine_goes_on(place: World, reads: Reads, kind: str) -> None:
    error, told = READ_ERRORS[kind]

    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=FOUR)
        with running() as engine:
            reads.fault = lambda window: error if window.row_off < 100 else None
            wrong = [ask(engine, layer, cells) for cells in (HERE, HERE[:4], HERE + THERE)]
            right = ask(engine, layer, THERE)
            for task in wrong:
                with pytest.raises(told):
                    await task
            place.check(layer, await right, THERE)
            await soon(lambda: at_rest(engine))
            assert engine.healthy
            reads.fault = lambda window: None
            place.check(layer, await engine.scores_async(layer, HERE), HERE)

    run(main())


def test_a_window_that_fails_takes_no_other_windows_cells_with_it(place: World, reads: Reads) -> None:
    """The second block surrounds a cell that the first one answers for; only the second cannot be read."""

    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=FOUR)
        with running(read_threads=2) as engine:
            reads.gate.hold()
            inner = ask(engine, layer, [Cell(0, 0)])
            await asyncio.to_thread(reads.gate.wait_for, 1)
            outer = ask(engine, layer, [Cell(0, 1), Cell(1, 0), Cell(1, 1)])
            await asyncio.to_thread(reads.gate.wait_for, 2)
            reads.fault = lambda window: ReadError("damaged") if window.height > 40 else None
            assert sorted(window.height for window in reads.windows) == [36, 68]
            # The outer one fails first: the runner's gate keeps the inner one.
            runner.gate.hold()
            reads.gate.open()
            with pytest.raises(ReadError):
                await outer
            assert not inner.done()
            runner.gate.open()
            place.check(layer, await inner, [Cell(0, 0)])

    run(main())


RUNNER_ERRORS: dict[str, Callable[[], Exception]] = {
    "bug": lambda: ValueError("our own"),
    "told": lambda: DeviceError("the device says no"),
    # Only a device that is no CPU can be broken by it.
    "cuda on a cpu": lambda: RuntimeError("CUDA error: an illegal memory access was encountered"),
}


@pytest.mark.parametrize("kind", RUNNER_ERRORS)
def test_an_error_in_the_network_reaches_its_own_and_the_engine_goes_on(place: World, kind: str) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=FOUR)
        with running() as engine:
            runner.gate.hold()
            runner.faults.append(RUNNER_ERRORS[kind]())
            wrong = [ask(engine, layer, HERE) for _ in range(3)]
            await asyncio.to_thread(runner.gate.wait_for, 1)
            right = ask(engine, layer, THERE)
            await asyncio.sleep(0)
            runner.gate.open()
            for task in wrong:
                with pytest.raises(DeviceError):
                    await task
            place.check(layer, await right, THERE)
            place.check(layer, await engine.scores_async(layer, HERE), HERE)
            assert engine.healthy
            await soon(lambda: at_rest(engine))

    run(main())


def test_an_error_says_of_the_model_what_the_model_said(place: World) -> None:
    from model_registry import ContractError

    layer, runner = place.layer()
    with running() as engine:
        runner.faults.append(ContractError("7 % of the answers are not finite", "Check the weights"))
        with pytest.raises(DeviceError, match="7 % of the answers are not finite. Check the weights"):
            engine.scores(layer, HERE)


def test_an_error_in_painting_reaches_its_own(place: World) -> None:
    async def main() -> None:
        def paint(value: int) -> int:
            if value == 1:
                raise ValueError("no such colour")
            return value

        with running() as engine:
            painted = await asyncio.gather(*(engine.finish(paint, value) for value in range(3)), return_exceptions=True)
            assert painted[0] == 0 and painted[2] == 2 and isinstance(painted[1], ValueError)

    run(main())


def test_a_listener_that_fails_breaks_nothing(place: World) -> None:
    layer, _ = place.layer()
    with running() as engine:
        engine.listeners.append(lambda stage, seconds: 1 / 0)  # type: ignore[arg-type, return-value]
        place.check(layer, engine.scores(layer, HERE), HERE)
        assert engine.healthy


# The device


def poisons(kind: str) -> tuple[str, BaseException]:
    if kind == "sticky":
        return "cuda:0", RuntimeError("CUDA error: an illegal memory access was encountered")
    return "cpu", SystemExit("out of the blue")


@pytest.mark.parametrize("kind", ["sticky", "exit"])
def test_a_dead_device_fails_all_its_windows_and_later_requests_at_once(place: World, reads: Reads, kind: str) -> None:
    device, error = poisons(kind)

    async def main() -> None:
        layer, runner = place.layer(device, max_window_pixels=FOUR)
        with running() as engine:
            place.check(layer, await engine.scores_async(layer, block(9, 0, 1, 1)), block(9, 0, 1, 1))
            assert engine.healthy
            runner.gate.hold()
            runner.faults.append(error)
            on_device = ask(engine, layer, HERE)
            await asyncio.to_thread(runner.gate.wait_for, 2)
            queued = ask(engine, layer, THERE)
            await soon(lambda: len(engine.ready) == 1)
            waiting = ask(engine, layer, block(0, 6, 3, 3))
            await asyncio.sleep(0)
            runner.gate.open()
            for task in (on_device, queued, waiting):
                with pytest.raises(DeviceError):
                    await task
            assert not engine.healthy and not engine.devices[device].alive
            await soon(lambda: at_rest(engine))
            before = len(reads.windows)
            with pytest.raises(DeviceError):
                await engine.scores_async(layer, HERE)
            assert len(reads.windows) == before
            # What is kept needs no device.
            assert (await engine.scores_async(layer, block(9, 0, 1, 1))).source == "hit"

    run(main())


def test_another_devices_models_go_on(place: World) -> None:
    broken, runner = place.layer("cuda:0")
    sound, _ = place.layer()
    with running() as engine:
        runner.faults.append(RuntimeError("CUDA error: device-side assert triggered"))
        with pytest.raises(DeviceError):
            engine.scores(broken, HERE)
        until(lambda: not engine.healthy)
        place.check(sound, engine.scores(sound, THERE), THERE)


def tiles(count: int) -> list[list[Cell]]:
    """Requests of one shape that are too far apart to be one window."""
    corners = [(0, 0), (0, 4), (0, 8), (4, 0), (4, 4), (4, 8), (8, 0), (8, 4), (8, 8)]
    return [block(row, col, 1, 1) for row, col in corners[:count]]


async def queued_behind_one(engine: Engine, layer: Layer, runner: GatedRunner) -> list[tuple[list[Cell], Any]]:
    """Nine windows of one shape: the first on the device, the others read and waiting for it."""
    runner.gate.hold()
    asked = []
    for number, cells in enumerate(tiles(9)):
        asked.append((cells, ask(engine, layer, cells, origin=Origin(str(cells)))))
        if number == 0:
            await asyncio.to_thread(runner.gate.wait_for, 1)
    await soon(lambda: len(engine.ready) == 8)
    return asked


def test_windows_of_one_shape_are_one_batch(place: World) -> None:
    async def main() -> None:
        layer, runner = place.layer("cuda:0", max_window_pixels=FOUR)
        with running(batch=3, read_ahead=9) as engine:
            asked = await queued_behind_one(engine, layer, runner)
            runner.gate.open()
            for cells, task in asked:
                place.check(layer, await task, cells)
            sizes = [shape[0] for shape in runner.shapes]
            assert max(sizes) == 3 and sum(sizes) == 9
            device = engine.devices["cuda:0"]
            assert (device.forwards, device.windows) == (len(sizes), 9)
            await soon(lambda: at_rest(engine))

    run(main())


def test_windows_of_a_batch_stay_of_one_shape_when_part_of_one_is_not_waited_for(place: World) -> None:
    async def main() -> None:
        layer, runner = place.layer("cuda:0", max_window_pixels=FOUR)
        corners = [(0, 0), (0, 4), (4, 0)]
        with running(batch=3, read_ahead=9) as engine:
            runner.gate.hold()
            first = ask(engine, layer, [Cell(8, 8)])
            await asyncio.to_thread(runner.gate.wait_for, 1)
            halves = [
                [ask(engine, layer, block(top, left + side, 2, 1), origin=Origin(f"{top} {left}")) for side in (0, 1)]
                for top, left in corners
            ]
            await soon(lambda: len(engine.ready) == 3 and engine.queued == 0)
            await gone(halves[1][0])
            runner.gate.open()
            place.check(layer, await first, [Cell(8, 8)])
            for (top, left), pair in zip(corners, halves, strict=True):
                place.check(layer, await pair[1], block(top, left + 1, 2, 1))
            assert [shape[0] for shape in runner.shapes] == [1, 3]
            assert runner.shapes[1][-2:] == (2 * 32 + 4, 2 * 32 + 4)

    run(main())


def test_a_cpu_takes_windows_one_by_one(place: World) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=FOUR)
        with running() as engine:
            asked = [ask(engine, layer, cells, origin=Origin(str(cells))) for cells in tiles(9)]
            await asyncio.gather(*asked)
            assert {shape[0] for shape in runner.shapes} == {1}

    run(main())


def test_out_of_memory_halves_the_batch(place: World) -> None:
    async def main() -> None:
        layer, runner = place.layer("cuda:0", max_window_pixels=FOUR)
        runner.always = lambda shape: RuntimeError("CUDA out of memory") if shape[0] > 2 else None
        with running(batch=4, read_ahead=9) as engine:
            asked = await queued_behind_one(engine, layer, runner)
            runner.gate.open()
            for cells, task in asked:
                place.check(layer, await task, cells)
            assert max(shape[0] for shape in runner.shapes) == 2 and engine.healthy

    run(main())


def test_one_window_that_fails_takes_no_other_of_its_batch_with_it(place: World) -> None:
    """The network refuses a batch because of one of its windows: that one fails, the others are answered."""

    async def main() -> None:
        layer, runner = place.layer("cuda:0", max_window_pixels=FOUR)
        with running(batch=3, read_ahead=9) as engine:
            asked = await queued_behind_one(engine, layer, runner)
            # The first window alone is well; then a batch of three fails, and of it the first window.
            runner.faults.extend([None, ValueError("this batch"), ValueError("this window")])
            runner.gate.open()
            answers = await asyncio.gather(*(task for _, task in asked), return_exceptions=True)
            assert [type(answer).__name__ for answer in answers].count("DeviceError") == 1
            for (cells, _), answer in zip(asked, answers, strict=True):
                if isinstance(answer, Answer):
                    place.check(layer, answer, cells)
            assert at_rest(engine) and engine.healthy

    run(main())


def replicated(place: World) -> tuple[Layer, GatedRunner, GatedRunner]:
    """The layer of a model with a copy on each of two devices."""
    layer, first = place.layer("cuda:0", max_window_pixels=FOUR)
    second = GatedRunner(place.loaded.runner, "cuda:1")
    return replace(layer, loaded=replace(layer.loaded, replicas=(second,))), first, second


def test_two_devices_pull_from_one_queue(place: World) -> None:
    async def main() -> None:
        layer, first, second = replicated(place)
        with running(batch=1) as engine:
            first.gate.hold()
            asked = [(cells, ask(engine, layer, cells, origin=Origin(str(cells)))) for cells in tiles(9)]
            await asyncio.to_thread(first.gate.wait_for, 1)
            # One device is stuck with its window; the other one does all the rest.
            await soon(lambda: sum(task.done() for _, task in asked) == 8)
            assert (len(first.shapes), len(second.shapes)) == (0, 8)
            first.gate.open()
            for cells, task in asked:
                place.check(layer, await task, cells)
            assert first.threads and second.threads and not first.threads & second.threads
            assert engine.forwards == 9 and at_rest(engine)

    run(main())


def test_when_one_of_two_devices_dies_the_other_goes_on_and_health_says_so(place: World) -> None:
    async def main() -> None:
        layer, first, second = replicated(place)
        first.always = lambda shape: RuntimeError("CUDA error: device-side assert triggered")
        with running(batch=1) as engine:
            second.gate.hold()
            asked = [(cells, ask(engine, layer, cells, origin=Origin(str(cells)))) for cells in tiles(9)]
            await soon(lambda: not engine.healthy)
            second.gate.open()
            answers = await asyncio.gather(*(task for _, task in asked), return_exceptions=True)
            failed = [answer for answer in answers if isinstance(answer, DeviceError)]
            assert len(failed) == 1 and len(second.shapes) == 8
            # And who asks later is served, too.
            place.check(layer, await engine.scores_async(layer, HERE), HERE)
            second.always = first.always
            for _ in range(2):
                with pytest.raises(DeviceError):
                    await engine.scores_async(layer, THERE)
            await soon(lambda: at_rest(engine))

    run(main())


def test_a_warm_up_reaches_every_device(place: World) -> None:
    layer, first, second = replicated(place)
    with running() as engine:
        engine.warm(layer.loaded)
    assert first.shapes == second.shapes and first.threads != second.threads
    assert [shape[2:] for shape in first.shapes] == usual_windows(layer.model, MAX_WINDOW_PIXELS)[: len(first.shapes)]


OUT_OF_MEMORY = {
    "host": ("cpu", MemoryError()),
    "cuda": ("cuda:0", RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")),
    "onnx": ("cuda:0", RuntimeError("Failed to allocate memory for requested buffer of size 4294967296")),
}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_out_of_memory_once_halves_the_window(place: World, kind: str) -> None:
    device, error = OUT_OF_MEMORY[kind]
    layer, runner = place.layer(device)
    cells = place.all_cells()
    with running() as engine:
        runner.faults.append(error)
        place.check(layer, engine.scores(layer, cells), cells)
        assert len(runner.shapes) == 2 and engine.healthy
        for _, _, height, width in runner.shapes:
            assert min(height, width) < 200
        assert at_rest(engine)


def test_out_of_memory_halves_with_probabilities_too(place: World) -> None:
    layer, runner = place.layer()
    with running() as engine:
        whole = engine.scores(layer, HERE, probabilities=True).scores
        engine.cache.clear()
        runner.faults.append(MemoryError())
        for cell, scores in engine.scores(layer, HERE, probabilities=True).scores.items():
            np.testing.assert_allclose(scores.probabilities, whole[cell].probabilities, atol=2e-3)


@pytest.mark.parametrize("cells", [HERE, HERE[:1]], ids=["a window", "one cell, which has no half"])
@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_out_of_memory_always_reaches_its_own_and_the_engine_lives(place: World, kind: str, cells: list[Cell]) -> None:
    device, error = OUT_OF_MEMORY[kind]
    layer, runner = place.layer(device, max_window_pixels=FOUR)
    with running() as engine:
        runner.always = lambda shape: error
        with pytest.raises(DeviceError):
            engine.scores(layer, cells)
        assert runner.gate.entered <= 3
        runner.always = lambda shape: None
        place.check(layer, engine.scores(layer, cells), cells)
        assert engine.healthy and at_rest(engine)


def test_no_window_of_a_warm_up_is_larger_than_allowed(place: World) -> None:
    layer, runner = place.layer()
    limit = 300 * 300
    with running() as engine:
        engine.warm(layer.loaded, limit)
    sizes = [height * width for _, _, height, width in runner.shapes]
    assert max(sizes) <= limit < max(height * width for height, width in usual_windows(layer.model, MAX_WINDOW_PIXELS))


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_a_warm_up_ends_where_the_memory_does(place: World, kind: str) -> None:
    device, error = OUT_OF_MEMORY[kind]
    layer, runner = place.layer(device)
    runner.faults.extend([None, error])
    with running() as engine:
        engine.warm(layer.loaded)
        assert len(runner.shapes) == 1 and engine.healthy
        # There is no room even for the first: that is to be told.
        runner.faults.append(error)
        with pytest.raises(type(error)):
            engine.warm(layer.loaded)


def test_a_failed_warm_up_is_heard_of(place: World) -> None:
    _, runner = place.layer()
    loaded, runner = gated(place.loaded)
    with running() as engine:
        engine.warm(loaded)
        runner.faults.append(ValueError("cold"))
        with pytest.raises(ValueError, match="cold"):
            engine.warm(loaded)
        assert engine.healthy
        runner.faults.append(SystemExit())
        with pytest.raises((SystemExit, DeviceError)):
            engine.warm(loaded)
        until(lambda: not engine.healthy)
        with pytest.raises(DeviceError):
            engine.warm(loaded)


def test_a_warm_up_that_never_ran_is_heard_of(place: World) -> None:
    loaded, runner = gated(place.loaded)
    errors: list[BaseException] = []

    def warm() -> None:
        try:
            engine.warm(loaded)
        except InferenceError as error:
            errors.append(error)

    with running() as engine:
        runner.gate.hold()
        threads = [threading.Thread(target=warm) for _ in range(2)]
        threads[0].start()
        runner.gate.wait_for(1)
        threads[1].start()
        until(lambda: len(engine.ready) == 1)
        closing = threading.Thread(target=engine.close)
        closing.start()
        until(lambda: engine.devices["cpu"]._closing)
        runner.gate.open()
        for thread in (*threads, closing):
            thread.join(DEADLINE)
            assert not thread.is_alive()
        # Whoever was before the gate finds the device closed at the next window.
        assert 1 <= len(errors) <= 2


# Numbers that are none


# A pixel of just these values makes the network answer something that is no number.
POISON = (200, 10, 99)


def poisoned(folder: Path, value: str) -> Path:
    """Five classes by a 1 x 1 convolution, plus a term that is 0 everywhere but where a pixel equals POISON."""
    graph = _Graph()
    away = graph.add("Sub", "x", graph.weight(np.reshape(POISON, (1, 3, 1, 1))))
    distance = graph.add("ReduceSum", graph.add("Mul", away, away), graph.weight([1], np.int64), keepdims=1)
    if value == "nan":
        term = graph.add("Mul", graph.add("Sqrt", graph.add("Sub", distance, graph.weight(0.5))), graph.weight(0.0))
    else:
        term = graph.add("Div", graph.weight(1e-30 if value == "inf" else -1e-30), distance)
    scores = graph.conv("x", 3, 5, kernel=1)
    net = graph.finish(graph.add("Add", scores, term), 3, 5)
    window = {"multiple": 1, "period": 1, "halo": 0}
    return write_model(
        folder, net, classes=CLASSES, gsd=round(RES, 4), window=window, exactness="exact", scaling=None
    )  # fmt: skip


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_numbers_that_are_not_finite_are_an_error_and_no_class(
    tmp_path: Path, runtime: Any, value: str, probabilities: bool
) -> None:
    pytest.importorskip(runtime)
    pixels = landscape(300, 330)
    pixels[:, 5, 7] = POISON
    scene = write_scene(tmp_path / "scene.tif", pixels)
    layer = fit(open_scene(scene), load(poisoned(tmp_path / "model", value), runtime=runtime), max_window_pixels=FOUR)
    with running() as engine:
        with pytest.raises(DeviceError, match="finite"):
            engine.scores(layer, HERE, probabilities=probabilities)
        assert set(engine.scores(layer, THERE, probabilities=probabilities).scores) == set(THERE)
        assert engine.healthy and at_rest(engine)
        with pytest.raises(DeviceError, match="finite"):
            engine.scores(layer, HERE[:1])
    layer.loaded.close()


# Limits


def test_a_full_queue_refuses_and_recovers(place: World) -> None:
    async def main() -> None:
        layer, runner = place.layer()
        with running(max_pending_cells=len(HERE)) as engine:
            runner.gate.hold()
            first = ask(engine, layer, HERE)
            await asyncio.to_thread(runner.gate.wait_for, 1)
            # Sharing costs nothing, so it is never refused.
            shared = ask(engine, layer, HERE[:5])
            with pytest.raises(BusyError) as refused:
                await engine.scores_async(layer, [*HERE, Cell(9, 9)])
            assert refused.value.retry_after >= 1 and engine.counters.refused == 1
            assert engine.pending == len(HERE) and engine.queued == 0
            runner.gate.open()
            place.check(layer, await first, HERE)
            place.check(layer, await shared, HERE[:5])
            await soon(lambda: at_rest(engine))
            place.check(layer, await engine.scores_async(layer, THERE), THERE)

    run(main())


@pytest.mark.parametrize("blocking", [False, True])
def test_what_takes_too_long_is_given_up(place: World, blocking: bool) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=FOUR)
        with running(read_ahead=0) as engine:
            runner.gate.hold()
            patient = ask(engine, layer, HERE)
            await asyncio.to_thread(runner.gate.wait_for, 1)
            engine.timeout = 0.01
            with pytest.raises(BusyError, match="took longer"):
                if blocking:
                    await asyncio.to_thread(engine.scores, layer, HERE + THERE)
                else:
                    await engine.scores_async(layer, HERE + THERE)
            # What was not begun is dropped; what was begun goes on, and others still get it.
            assert engine.queued == 0 and engine.counters.dropped == len(THERE)
            runner.gate.open()
            place.check(layer, await patient, HERE)
            await soon(lambda: at_rest(engine))
            assert len(runner.shapes) == 1

    run(main())


# The end


def test_closing_answers_everybody_and_leaves_no_thread(place: World, reads: Reads) -> None:
    async def main() -> None:
        layer, runner = place.layer(max_window_pixels=ONE)
        gate = Gate(opened=False)
        with running(read_threads=1, finish_threads=1) as engine:
            runner.gate.hold()
            tasks = [ask(engine, layer, block(row, 0, 2, 11)) for row in range(0, 10, 2)]
            await asyncio.to_thread(runner.gate.wait_for, 1)
            painting, queued = (asyncio.create_task(engine.finish(gate.enter)) for _ in range(2))
            await asyncio.to_thread(gate.wait_for, 1)
            closing = asyncio.create_task(asyncio.to_thread(engine.close))
            # Whoever waits hears of it although the device is still busy.
            for task in tasks:
                with pytest.raises(BusyError, match="shutting down"):
                    await task
            with pytest.raises(BusyError, match="shutting down"):
                await engine.scores_async(layer, HERE)
            assert not closing.done()
            runner.gate.open()
            with pytest.raises(BusyError, match="shutting down"):
                await queued
            gate.open()
            await painting
            await closing
            assert at_rest(engine)
            for late in (engine.finish(int), engine.open(int), engine.scores_async(layer, HERE)):
                with pytest.raises(BusyError):
                    await late
            with pytest.raises((BusyError, DeviceError)):
                engine.warm(layer.loaded)
            with pytest.raises(BusyError):
                engine.scores(layer, HERE)

    run(main())


def test_closing_during_a_read_ends_when_the_read_does(place: World, reads: Reads) -> None:
    async def main() -> None:
        layer, runner = place.layer()
        with running() as engine:
            reads.gate.hold()
            task = ask(engine, layer, HERE)
            await asyncio.to_thread(reads.gate.wait_for, 1)
            closing = asyncio.create_task(asyncio.to_thread(engine.close))
            with pytest.raises(BusyError):
                await task
            reads.gate.open()
            await closing
            assert at_rest(engine) and runner.shapes == []

    run(main())


def test_an_answer_after_the_event_loop_has_ended_hurts_nobody(place: World) -> None:
    layer, runner = place.layer()
    with running() as engine:
        runner.gate.hold()

        async def abandoned() -> None:
            task = ask(engine, layer, HERE)
            await asyncio.to_thread(runner.gate.wait_for, 1)
            task.cancel()

        asyncio.run(abandoned())
        runner.gate.open()
        until(lambda: at_rest(engine))
        place.check(layer, engine.scores(layer, HERE), HERE)


# Whatever happens in whatever order


async def interleaving(place: World, reads: Reads, seed: int) -> dict[str, int]:
    """Requests come, leave, get on, fail, and maybe the engine closes, in a random order; then all must be settled."""
    chance = random.Random(seed)
    layer, runner = place.layer(max_window_pixels=chance.choice([ONE, FOUR, 1024 * 1024]))
    runner.stops = chance.random() < 0.5
    reads.gate, reads.fault = Gate(), lambda window: None
    threads = set(threading.enumerate())
    engine = Engine(
        cache_bytes=chance.choice([0, 20_000, 2**20]),
        read_threads=chance.choice([1, 2]),
        read_ahead=chance.choice([0, 1, 2]),
        max_pending_cells=chance.choice([20, 1000]),
    )
    asked: list[tuple[asyncio.Task[Answer], list[Cell]]] = []
    closing: asyncio.Future[None] | None = None
    reads.gate.hold()
    runner.gate.hold()
    for _ in range(chance.randrange(5, 30)):
        action = chance.choices(
            ["ask", "leave", "read", "infer", "fail read", "fail run", "yield", "close"], [6, 3, 4, 4, 1, 1, 2, 0.1]
        )[0]
        if action == "ask":
            top, left = chance.randrange(9), chance.randrange(10)
            cells = block(top, left, min(chance.randrange(1, 5), 10 - top), min(chance.randrange(1, 5), 11 - left))
            cells = chance.sample(cells, chance.randrange(1, len(cells) + 1))
            origin = Origin(chance.choice("abc"), chance.randrange(2), chance.random() < 0.2)
            asked.append((ask(engine, layer, cells, probabilities=chance.random() < 0.2, origin=origin), cells))
        elif action == "leave" and asked:
            chance.choice(asked)[0].cancel()
        elif action == "read":
            reads.gate.let(1)
        elif action == "infer":
            runner.gate.let(1)
        elif action == "fail read":
            row = chance.randrange(300)
            reads.fault = lambda window, row=row: ReadError("damaged") if window.row_off < row else None
        elif action == "fail run":
            runner.faults.append(chance.choice([ValueError("bug"), MemoryError(), None]))
        elif action == "close" and closing is None:
            closing = asyncio.get_running_loop().run_in_executor(None, engine.close)
        await asyncio.sleep(0 if chance.random() < 0.7 else 0.001)
    reads.gate.open()
    runner.gate.open()
    outcomes: dict[str, int] = {}
    for task, cells in asked:
        (result,) = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), DEADLINE)
        if isinstance(result, Answer):
            place.check(layer, result, cells)
        else:
            assert isinstance(result, (BusyError, DeviceError, ReadError, asyncio.CancelledError)), result
        outcomes[type(result).__name__] = outcomes.get(type(result).__name__, 0) + 1
    if closing is None:
        await soon(lambda: at_rest(engine))
        reads.fault = lambda window: None
        runner.faults.clear()
        place.check(layer, await engine.scores_async(layer, HERE), HERE)
        assert engine.healthy
        await soon(lambda: at_rest(engine))
        engine.close()
    else:
        await closing
    assert at_rest(engine) and not len(engine._waiting) and not any(engine._waiting._clients)
    assert {thread for thread in set(threading.enumerate()) - threads if not thread.name.startswith("asyncio")} == set()
    return outcomes


@pytest.mark.parametrize("seeds", [range(100), pytest.param(range(100, 1100), marks=pytest.mark.slow)], ids=len)
def test_after_any_interleaving_nothing_is_pending_and_every_answer_is_right(
    place: World, reads: Reads, seeds: range
) -> None:
    seen: dict[str, int] = {}

    async def one(seed: int) -> None:
        try:
            for name, count in (await interleaving(place, reads, seed)).items():
                seen[name] = seen.get(name, 0) + count
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise

    async def main() -> None:
        for seed in seeds:
            await one(seed)

    asyncio.run(main())
    # A loop in which nothing ever happened would prove nothing.
    assert set(seen) == {"Answer", "BusyError", "DeviceError", "ReadError", "CancelledError"}, seen


# Through HTTP


@pytest.fixture
def http(place: World) -> Iterator[Callable[..., tuple[TestClient, GatedRunner, Engine, str]]]:
    """A TiTiler application with the extension, its engine's options chosen by the test."""
    engines: list[Engine] = []

    def make(**options: Any) -> tuple[TestClient, GatedRunner, Engine, str]:
        from fastapi import FastAPI
        from titiler.core.factory import TilerFactory

        from tiler.extension import inferenceExtension

        loaded, runner = gated(place.loaded)
        engine = Engine(**options)
        engines.append(engine)
        factory = TilerFactory(extensions=[inferenceExtension(models={"cover": loaded}, engine=engine)])
        app = FastAPI()
        app.include_router(factory.router)
        tile = tiles_over(place.scene)[0]
        path = f"/inference/cover/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.png?url={place.scene}"
        return TestClient(app, raise_server_exceptions=False), runner, engine, path

    yield make
    for engine in engines:
        engine.close()


def test_a_full_queue_is_503_that_nobody_keeps_and_it_recovers(http: Any, place: World) -> None:
    client, runner, engine, path = http(max_pending_cells=3)
    layer, held = place.layer()
    held.gate.hold()
    blocker = threading.Thread(target=lambda: engine.scores(layer, [Cell(9, 9)]))
    blocker.start()
    held.gate.wait_for(1)
    answer = client.get(path)
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
    assert answer.headers["cache-control"] == "no-store" and "limit is 3" in answer.json()["detail"]
    held.gate.open()
    blocker.join(DEADLINE)
    engine._max_pending_cells = 1000
    again = client.get(path)
    assert again.status_code == 200 and again.headers["x-cache"] == "miss"


def test_too_slow_is_503(http: Any) -> None:
    client, runner, engine, path = http(timeout=0.01)
    runner.gate.hold()
    answer = client.get(path)
    engine.timeout = DEADLINE
    assert answer.status_code == 503 and "retry-after" in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    runner.gate.open()
    until(lambda: at_rest(engine))
    assert client.get(path).status_code == 200


def test_a_failed_network_is_500_that_nobody_keeps(http: Any) -> None:
    client, runner, engine, path = http()
    runner.faults.append(ValueError("bug"))
    answer = client.get(path)
    assert answer.status_code == 500 and answer.headers["cache-control"] == "no-store"
    assert "cover" in answer.json()["detail"]
    assert client.get(path).headers["x-cache"] == "miss"


def test_a_failed_read_is_502_that_nobody_keeps(http: Any, reads: Reads) -> None:
    client, runner, engine, path = http()
    reads.fault = lambda window: ValueError("bug")
    answer = client.get(path)
    assert answer.status_code == 502 and answer.headers["cache-control"] == "no-store"
    reads.fault = lambda window: None
    assert client.get(path).headers["x-cache"] == "miss"


def test_a_failed_encoding_is_an_error_that_nobody_keeps(http: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client, runner, engine, path = http()

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("bug")

    with monkeypatch.context() as patch:
        patch.setattr("tiler.tiles.render", broken)
        answer = client.get(path)
        assert answer.status_code == 500 and "immutable" not in answer.headers.get("cache-control", "")
    assert len(engine.pictures) == 0
    again = client.get(path)
    # The scores were right, so they were kept; the picture is made anew.
    assert again.status_code == 200 and again.headers["x-cache"] == "hit"


def test_a_closed_engine_is_503(http: Any) -> None:
    client, runner, engine, path = http()
    engine.close()
    answer = client.get(path)
    assert answer.status_code == 503 and "retry-after" in answer.headers


# A scene that is replaced while it is served


def replaced(scene: Path, seed: int, *, in_place: bool = False) -> None:
    """Another image under the same path, as `mv` does it, or written over the old one."""
    fresh = write_scene(scene.with_name("fresh.tif"), landscape(300, 330, seed=seed))
    if in_place:
        scene.write_bytes(fresh.read_bytes())
    else:
        os.replace(fresh, scene)


@pytest.fixture
def own(tmp_path: Path, place: World) -> World:
    """A scene that may be replaced."""
    scene = write_scene(tmp_path / "scene.tif", landscape(300, 330))
    return World(scene, place.folder, place.loaded, place.expected, place.lead)


@pytest.mark.slow
def test_a_replaced_scene_has_a_new_revision_and_no_old_pixel(own: World, tmp_path: Path) -> None:
    from tiler.app import create_app
    from tiler.settings import Settings

    settings = {
        "scenes": {"field": {"path": str(own.scene)}},
        "models": {"cover": str(network(tmp_path / "cover"))},
        "layer_ttl": 1e-6,
    }
    tile = tiles_over(own.scene)[0]
    path = f"{tile.z}/{tile.x}/{tile.y}.png"
    with TestClient(create_app(Settings(**settings))) as client:
        old = client.get(f"/field/cover/{path}")
        revision = old.headers["x-revision"]
        pinned = f"/field/cover@{revision}/{path}"
        assert client.get(pinned).content == old.content
        replaced(own.scene, seed=9)
        new = client.get(f"/field/cover/{path}", headers={"If-None-Match": old.headers["etag"]})
        assert new.status_code == 200 and new.headers["x-revision"] != revision
        assert new.headers["x-cache"] == "miss" and new.content != old.content
        gone = client.get(pinned)
        assert gone.status_code == 404 and new.headers["x-revision"] in gone.json()["detail"]
        assert gone.headers["cache-control"] == "no-store"
    with TestClient(create_app(Settings(**settings))) as fresh:
        assert fresh.get(f"/field/cover/{path}").content == new.content


@pytest.mark.parametrize("in_place", [False, True], ids=["moved", "overwritten"])
@pytest.mark.parametrize("opened", [False, True], ids=["not yet read", "read before"])
def test_pixels_of_the_new_file_never_come_under_the_old_revision(own: World, opened: bool, in_place: bool) -> None:
    """Between the replacement and the next look at the header, what is answered under the old revision is old."""
    layer, _ = own.layer(max_window_pixels=FOUR)
    with running(read_threads=1) as engine:
        if opened:
            own.check(layer, engine.scores(layer, HERE), HERE)
        replaced(own.scene, seed=9, in_place=in_place)
        with pytest.raises(ReadError, match="changed"):
            engine.scores(layer, THERE)
        if opened:
            own.check(layer, engine.scores(layer, HERE), HERE)
        fresh, _ = own.layer()
        assert fresh.revision != layer.revision
        assert engine.scores(fresh, HERE).source == "miss"


def test_a_scene_replaced_while_a_window_is_read_is_answered_as_it_was(own: World, reads: Reads) -> None:
    async def main() -> None:
        layer, runner = own.layer(max_window_pixels=FOUR)
        with running(read_threads=1) as engine:
            own.check(layer, await engine.scores_async(layer, HERE), HERE)
            runner.gate.hold()
            task = ask(engine, layer, THERE)
            await asyncio.to_thread(runner.gate.wait_for, 2)
            replaced(own.scene, seed=9)
            runner.gate.open()
            own.check(layer, await task, THERE)

    run(main())
