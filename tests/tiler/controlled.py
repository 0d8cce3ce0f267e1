"""What the tests of concurrency hold in their hands: gates, a network behind one, a scene, and its whole-scene pass.

Nothing here sleeps to let something happen: a gate tells who has come, and nobody passes before he is let through.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_registry import LoadedModel, Prediction, StoppedError, load
from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import RES, landscape, whole_scene, write_scene
from tiler.engine import Answer, Engine
from tiler.layer import Layer, fit
from tiler.scene import open_scene
from tiler.values import Cell

# A test that hangs should fail and say where.
DEADLINE = 30.0
CLASSES = ["a", "b", "c", "d", "e"]


def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until something that no event tells of is true."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} never came true"
        time.sleep(0.001)


class Gate:
    """Whoever calls `enter` waits until let through."""

    def __init__(self, *, opened: bool = True) -> None:
        self._condition = threading.Condition()
        self._opened, self._allowed = opened, 0
        self._turned: BaseException | None = None
        self.entered = 0
        self.passed = 0

    def enter(self) -> None:
        with self._condition:
            self.entered += 1
            self._condition.notify_all()
            assert self._condition.wait_for(
                lambda: self._opened or self._allowed > 0 or self._turned is not None, DEADLINE
            ), "never let through"
            if self._turned is not None:
                error, self._turned = self._turned, None
                self.passed += 1
                raise error
            self._allowed = max(0, self._allowed - 1)
            self.passed += 1

    def hold(self) -> None:
        """Let nobody through from now on."""
        with self._condition:
            self._opened, self._allowed = False, 0

    def turn_away(self, error: BaseException) -> bool:
        """Whoever waits now is not let through: the error is raised there. False when nobody waits."""
        with self._condition:
            if self.entered == self.passed:
                return False
            self._turned = error
            self._condition.notify_all()
            return True

    def let(self, count: int) -> None:
        """Let so many through, those who wait first."""
        with self._condition:
            self._allowed += count
            self._condition.notify_all()

    def open(self) -> None:
        """Let everybody through."""
        with self._condition:
            self._opened = True
            self._condition.notify_all()

    def wait_for(self, count: int) -> None:
        """Block until so many have come since the start."""
        with self._condition:
            assert self._condition.wait_for(lambda: self.entered >= count, DEADLINE), f"only {self.entered} came"

    @property
    def inside(self) -> int:
        """How many wait to be let through."""
        with self._condition:
            return self.entered - self.passed


class GatedRunner:
    """A real network behind a gate. `faults` are raised, first come first served; `shapes` are those it was given.

    `stops`: whether it can be stopped while somebody waits at the gate.
    """

    def __init__(self, runner: Any, device: str | None = None) -> None:
        self._runner = runner
        self.device = device or runner.device
        self.gate = Gate()
        self.faults: deque[BaseException | None] = deque()
        self.always: Callable[[tuple[int, ...]], BaseException | None] = lambda shape: None
        self.change: Callable[[Prediction], Prediction] = lambda answer: answer
        self.shapes: list[tuple[int, ...]] = []
        self.threads: set[int] = set()
        self.stops = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def stop(self) -> bool:
        """What waits at the gate is given up."""
        return self.stops and self.gate.turn_away(StoppedError("stopped"))

    def close(self) -> None:
        """The network is the world's: other tests go on with it."""

    def __call__(self, pixels: NDArray[Any], unscale: Any = None, probabilities: bool = False) -> Prediction:
        self.threads.add(threading.get_ident())
        self.gate.enter()
        fault = self.faults.popleft() if self.faults else self.always(pixels.shape)
        if fault is not None:
            raise fault
        self.shapes.append(pixels.shape)
        return self.change(self._runner(pixels, unscale, probabilities))


def gated(loaded: LoadedModel, device: str | None = None) -> tuple[LoadedModel, GatedRunner]:
    """A loaded model whose network is behind a gate."""
    runner = GatedRunner(loaded.runner, device)
    return replace(loaded, runner=runner), runner


@dataclass(frozen=True)
class World:
    """A scene, a model over it, and the right answer."""

    scene: Path
    folder: Path
    loaded: LoadedModel
    expected: NDArray[np.int64]
    lead: NDArray[np.float32]

    def layer(self, device: str | None = None, **options: Any) -> tuple[Layer, GatedRunner]:
        """The layer, with its network behind a gate of its own."""
        model, runner = gated(self.loaded, device)
        return fit(open_scene(self.scene), model, **options), runner

    def all_cells(self) -> list[Cell]:
        layer, _ = self.layer()
        return [Cell(row, col) for row in range(layer.grid.cell_rows) for col in range(layer.grid.cell_cols)]

    def check(self, layer: Layer, answer: Answer, cells: Iterable[Cell]) -> None:
        """Whether an answer holds these cells, and they are the whole-scene pass's."""
        assert set(answer.scores) == set(cells)
        side = layer.grid.cell
        for cell, scores in answer.scores.items():
            rows = slice(cell.row * side, (cell.row + 1) * side)
            cols = slice(cell.col * side, (cell.col + 1) * side)
            sure = self.lead[rows, cols] > 1e-4
            assert scores.valid.all() and scores.classes.shape == sure.shape
            np.testing.assert_array_equal(scores.classes[sure], self.expected[rows, cols][sure])


def network(folder: Path, seed: int = 0) -> Path:
    """A model with halo 2, which need not be measured."""
    net = conv_chain(layers=2, classes=len(CLASSES), seed=seed)
    window = {"multiple": 1, "period": 1, "halo": 2}
    return write_model(folder, net, classes=CLASSES, gsd=round(RES, 4), window=window, exactness="exact")


def world(folder: Path, height: int = 300, width: int = 330) -> World:
    """A scene of some ten by ten cells, and its whole-scene pass."""
    pixels = landscape(height, width)
    model = network(folder / "cover")
    expected, lead = whole_scene(model / "model.onnx", pixels.astype(np.float32) / 255, pad=2, multiple=1)
    return World(write_scene(folder / "scene.tif", pixels), model, load(model), expected, lead)


@contextmanager
def running(**options: Any) -> Iterator[Engine]:
    """An engine that is closed at the end, and has left no thread behind."""
    before = set(threading.enumerate())
    engine = Engine(**options)
    try:
        yield engine
    finally:
        engine.close()
        left = [thread.name for thread in set(threading.enumerate()) - before if not thread.name.startswith("asyncio")]
        assert not left


def at_rest(engine: Engine) -> bool:
    """Whether nothing is in flight, queued or formed."""
    return engine.pending == engine.queued == engine.pace.formed == engine.pace.pixels == 0
