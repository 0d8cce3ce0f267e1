"""Ensembles under many requests: work is shared, dropped with those who asked, and an error reaches them all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_registry import at_gsds, load, open_model
from model_registry.loaded_ensemble import composed
from model_registry.testing import conv_chain, write_model
from tests.tiler.controlled import GatedRunner, gated, until
from tests.tiler.helpers import landscape, write_scene
from tests.tiler.test_ensemble import CLASSES, STATED, UTM, placed
from tiler.engine import Engine
from tiler.ensemble import rounds
from tiler.errors import BusyError, DeviceError
from tiler.layer import Layer, fit
from tiler.scene import open_scene
from tiler.values import Cell


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("world")
    scene = write_scene(folder / "scene.tif", landscape(200, 260), transform=placed(0.5), **UTM)
    network = write_model(folder / "net", conv_chain(layers=3), classes=CLASSES, gsd=0.5, **STATED["conv"])
    return scene, load(network, runtime="onnxruntime")


@pytest.fixture
def held(world: tuple[Path, Any]) -> tuple[Layer, GatedRunner]:
    """An ensemble whose network is behind a gate that is closed."""
    scene, loaded = world
    behind, runner = gated(loaded)
    runner.gate.hold()
    whole = composed(at_gsds(open_model(loaded.model.folder), (0.5, 1.0)), [behind, behind])
    return fit(open_scene(scene), whole), runner


CELLS = [Cell(row, col) for row in range(3) for col in range(4)]


def test_requests_at_the_same_time_are_one_inference(engine: Engine, held: tuple[Layer, GatedRunner]) -> None:
    layer, runner = held

    async def ask() -> list[Any]:
        asked = [asyncio.create_task(engine.scores_async(layer, CELLS)) for _ in range(5)]
        await asyncio.to_thread(runner.gate.wait_for, 1)
        assert layer.revision in engine.busy
        runner.gate.open()
        return await asyncio.gather(*asked)

    answers = asyncio.run(ask())
    assert {answer.source for answer in answers} == {"miss", "shared"}
    (part,) = rounds(layer, CELLS)
    assert engine.counters.inferred == sum(map(len, part.needs))  # each once, however many asked
    for answer in answers[1:]:
        for cell in CELLS:
            np.testing.assert_array_equal(answer.scores[cell].classes, answers[0].scores[cell].classes)
    assert engine.busy == frozenset()


def test_who_leaves_takes_all_members_work_along(engine: Engine, held: tuple[Layer, GatedRunner]) -> None:
    layer, runner = held

    async def ask() -> None:
        task = asyncio.create_task(engine.scores_async(layer, CELLS))
        await asyncio.to_thread(runner.gate.wait_for, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())
    assert engine.busy <= {member.revision for member in layer.members}
    runner.gate.open()
    until(lambda: engine.pending == 0, "all flights landed")
    assert engine.counters.dropped > 0
    assert engine.queued == 0


def test_one_who_leaves_does_not_take_it_from_the_others(engine: Engine, held: tuple[Layer, GatedRunner]) -> None:
    layer, runner = held

    async def ask() -> Any:
        first = asyncio.create_task(engine.scores_async(layer, CELLS))
        second = asyncio.create_task(engine.scores_async(layer, CELLS[:4]))
        await asyncio.to_thread(runner.gate.wait_for, 1)
        first.cancel()
        runner.gate.open()
        return await second

    assert set(asyncio.run(ask()).scores) == set(CELLS[:4])


def test_an_error_of_a_member_is_the_ensembles(engine: Engine, held: tuple[Layer, GatedRunner]) -> None:
    layer, runner = held
    runner.faults.append(ValueError("boom"))
    runner.gate.open()
    with pytest.raises(DeviceError, match="failed with ValueError"):
        engine.scores(layer, CELLS)
    until(lambda: engine.pending == 0, "all flights landed")
    assert set(engine.scores(layer, CELLS).scores) == set(CELLS)


def test_too_slow_is_told(world: tuple[Path, Any], held: tuple[Layer, GatedRunner]) -> None:
    layer, runner = held
    engine = Engine(timeout=0.05)
    try:
        with pytest.raises(BusyError, match="longer than"):
            engine.scores(layer, CELLS)
        with pytest.raises(BusyError, match="longer than"):
            asyncio.run(engine.scores_async(layer, CELLS))
        assert engine.busy <= {member.revision for member in layer.members}
    finally:
        runner.gate.open()
        engine.close()


def test_a_full_queue_refuses_and_queues_nothing(held: tuple[Layer, GatedRunner]) -> None:
    layer, runner = held
    engine = Engine(max_pending_cells=len(CELLS) + 1)
    try:
        with pytest.raises(BusyError, match="the limit is"):
            engine.scores(layer, CELLS)
        until(lambda: engine.queued == 0, "nothing waits")
    finally:
        runner.gate.open()
        engine.close()


def test_warming_up_runs_each_network_once(engine: Engine, world: tuple[Path, Any]) -> None:
    _, loaded = world
    behind, runner = gated(loaded)
    whole = composed(at_gsds(open_model(loaded.model.folder), (0.5, 1.0, 2.0)), [behind] * 3)
    engine.warm(whole, max_pixels=64 * 64)
    alone, other = gated(loaded)
    engine.warm(replace(alone), max_pixels=64 * 64)
    assert runner.shapes == other.shapes
