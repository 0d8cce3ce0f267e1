"""`Engine.infer`: whole windows for exports, behind the maps; every future resolves, whatever happens to it."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiler.controlled import DEADLINE, World, gated, running, until, world
from tests.tiler.helpers import landscape, write_scene
from tiler import engine as room
from tiler.engine import ANYBODY, Engine
from tiler.errors import BusyError, DeviceError, ReadError
from tiler.layer import Layer, fit
from tiler.scene import open_scene
from tiler.values import Cell, Scores
from tiler.windows import Block


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> World:
    # Neither side is a multiple of a cell.
    return world(tmp_path_factory.mktemp("bulk"), 300, 331)


def whole(layer: Layer) -> Block:
    return Block(Cell(0, 0), Cell(layer.grid.cell_rows - 1, layer.grid.cell_cols - 1))


def check(there: World, layer: Layer, block: Block, scores: Scores) -> None:
    core = layer.grid.core_of(block.first, block.last)
    rows, cols = slice(core.row_off, core.row_off + core.height), slice(core.col_off, core.col_off + core.width)
    expected, sure = there.expected[rows, cols], there.lead[rows, cols] > 1e-4
    assert scores.classes is not None and scores.classes.shape == expected.shape and scores.valid.all()
    np.testing.assert_array_equal(scores.classes[sure], expected[sure])


def failed(future: Future[Scores], *kinds: type[BaseException]) -> BaseException:
    error = future.exception(DEADLINE)
    assert isinstance(error, kinds), error
    return error


def test_the_lower_right_corner_ends_with_the_scene(there: World) -> None:
    layer, _ = there.layer()
    last = Cell(layer.grid.cell_rows - 1, layer.grid.cell_cols - 1)
    with running() as engine:
        for block in (whole(layer), Block(Cell(last.row - 1, last.col - 2), last), Block(last, last)):
            check(there, layer, block, engine.infer(layer, block).result(DEADLINE))


def test_a_halved_window_gives_the_same_scores(there: World) -> None:
    layer, runner = there.layer()
    block = whole(layer)
    with running() as engine:
        at_once = engine.infer(layer, block, probabilities=True).result(DEADLINE)
        runner.faults.append(MemoryError())
        halved = engine.infer(layer, block, probabilities=True).result(DEADLINE)
    assert len(runner.shapes) == 3 and at_once.probabilities is not None and halved.probabilities is not None
    check(there, layer, block, halved)
    assert np.abs(at_once.probabilities.astype(float) - halved.probabilities.astype(float)).max() < 1e-3
    assert (at_once.valid == halved.valid).all()


def test_maps_go_first(there: World) -> None:
    """Bulk windows that were read long ago wait for a map's that comes now."""
    layer, runner = there.layer()
    runner.gate.hold()
    order: list[str] = []
    with running(read_threads=4) as engine:
        first = engine.infer(layer, Block(Cell(0, 0), Cell(0, 0)))
        runner.gate.wait_for(1)
        bulk = [engine.infer(layer, Block(Cell(row, 0), Cell(row, 3))) for row in range(4)]
        for future in bulk:
            future.add_done_callback(lambda _: order.append("bulk"))
        until(lambda: len(engine.ready) == 4)
        ticket, _ = engine._join(layer, [Cell(5, 5)], 0, ANYBODY)
        ticket.when_done(lambda: order.append("map"))
        until(lambda: len(engine.ready) == 5)
        runner.gate.open()
        assert ticket.wait(DEADLINE)
        for future in (first, *bulk):
            future.result(DEADLINE)
        engine._leave(ticket, ANYBODY)
        until(lambda: len(order) == 5)
    assert order[0] == "map"


def test_a_cancelled_window_is_neither_read_nor_inferred(there: World) -> None:
    layer, runner = there.layer()
    runner.gate.hold()
    with running() as engine:
        running_now = engine.infer(layer, Block(Cell(0, 0), Cell(0, 0)))
        runner.gate.wait_for(1)
        read = engine.infer(layer, Block(Cell(1, 0), Cell(1, 0)))
        until(lambda: len(engine.ready) == 1)
        assert read.cancel() and running_now.cancel()
        runner.gate.open()
        check(there, layer, Block(Cell(2, 0), Cell(2, 0)), engine.infer(layer, Block(Cell(2, 0), Cell(2, 0))).result())
    assert len(runner.shapes) == 2


def test_closing_answers_everything(there: World) -> None:
    """One on the device, some that are read and wait for it, some that wait for a reader."""
    layer, runner = there.layer()
    runner.gate.hold()
    engine = Engine(read_threads=1)
    futures = [engine.infer(layer, Block(Cell(row, 0), Cell(row, 2))) for row in range(8)]
    runner.gate.wait_for(1)
    until(lambda: len(engine.ready) >= 1)
    closing = threading.Thread(target=engine.close)
    closing.start()
    until(lambda: engine._closing)
    runner.gate.open()
    closing.join(DEADLINE)
    assert not closing.is_alive() and all(future.done() for future in futures)
    check(there, layer, Block(Cell(0, 0), Cell(0, 2)), futures[0].result())
    for future in futures[2:]:
        if future.exception() is not None:
            failed(future, BusyError, DeviceError)
    with pytest.raises(BusyError):
        engine.infer(layer, Block(Cell(0, 0), Cell(0, 0)))


def test_a_device_that_dies_leaves_nobody_waiting(there: World) -> None:
    layer, runner = there.layer()
    runner.gate.hold()
    with running(read_threads=2) as engine:
        futures = [engine.infer(layer, Block(Cell(row, 0), Cell(row, 0))) for row in range(5)]
        runner.gate.wait_for(1)
        until(lambda: len(engine.ready) == 4)
        runner.faults.append(SystemExit(1))
        runner.gate.open()
        for future in futures:
            failed(future, DeviceError)
        failed(engine.infer(layer, Block(Cell(0, 0), Cell(0, 0))), DeviceError)


def test_what_cannot_be_read_fails_alone(there: World, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, _ = there.layer()
    real = room.read_window

    def broken(source: Any, window: Any) -> Any:
        if window.row_off > 100:
            raise RuntimeError("boom")
        return real(source, window)

    monkeypatch.setattr(room, "read_window", broken)
    with running() as engine:
        good, bad = (engine.infer(layer, Block(Cell(row, 0), Cell(row, 0))) for row in (0, 8))
        failed(bad, ReadError)
        check(there, layer, Block(Cell(0, 0), Cell(0, 0)), good.result(DEADLINE))


def test_a_network_that_fails_fails_its_own_window(there: World) -> None:
    layer, runner = there.layer()
    runner.faults.append(ValueError("no"))
    with running() as engine:
        failed(engine.infer(layer, Block(Cell(0, 0), Cell(0, 0))), DeviceError)
        block = Block(Cell(1, 0), Cell(1, 0))
        check(there, layer, block, engine.infer(layer, block).result(DEADLINE))


def test_a_window_without_data_needs_no_network(there: World, tmp_path: Path) -> None:
    valid = np.ones((300, 331), bool)
    valid[:150] = False
    path = write_scene(tmp_path / "holes.tif", landscape(300, 331), mask=valid)
    model, runner = gated(there.loaded)
    layer = fit(open_scene(path), model)
    with running() as engine:
        empty = engine.infer(layer, Block(Cell(0, 0), Cell(3, 9)), probabilities=True).result(DEADLINE)
        assert not runner.shapes and not empty.valid.any() and empty.valid.shape == (128, 320)
        assert empty.probabilities is not None and empty.probabilities.shape == (5, 128, 320)
        part = engine.infer(layer, whole(layer)).result(DEADLINE)
    assert (part.valid == valid).all()
