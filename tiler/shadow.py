"""A shadow model: a sample of what a model has answered is inferred by another one, and compared. Nobody sees it.

In a thread of its own, and at the priority of exports: the device takes a shadow's window when nothing else waits. What
comes while the thread has enough to do is left out and counted.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from tiler.assemble import Picture
from tiler.engine import Engine
from tiler.errors import InferenceError
from tiler.layer import Layer
from tiler.predict import Limits, picture, plan
from tiler.values import Style, View
from tiler.waiting import Origin

logger = logging.getLogger(__name__)

ORIGIN = Origin("shadow", export=True)
PLAIN = Style()

# Tiles that wait to be compared; more are left out.
WAITING = 32

# Pairs of a model and its shadow that are remembered, and tiles of each that were taken already.
PAIRS, TILES = 64, 65536


class Pair(NamedTuple):
    """Who answered, and who did in the shadow: identities of models."""

    model: str
    shadow: str


@dataclass
class Agreement:
    """What was compared of a pair.

    Attributes:
        tiles: how many.
        skipped: tiles that were left out, because too many waited.
        failed: tiles that the shadow had no answer for; `reason` is the last one's.
        classes: by name: pixels that the model gives the class to, and how many of them the shadow agrees about.
        missing: pixels that only one of them has an answer for.
    """

    tiles: int = 0
    skipped: int = 0
    failed: int = 0
    reason: str = ""
    classes: dict[str, tuple[int, int]] = field(default_factory=dict)
    missing: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the counts, and the share of agreeing pixels, of each class and of all."""
        pixels, agreed = (sum(counts[i] for counts in self.classes.values()) for i in (0, 1))
        return {
            "tiles": self.tiles,
            "skipped": self.skipped,
            "failed": self.failed,
            "reason": self.reason,
            "pixels": pixels,
            "agreement": _share(agreed, pixels),
            "missing": self.missing,
            "classes": [
                {"name": name, "pixels": of, "agreed": same, "agreement": _share(same, of)}
                for name, (of, same) in sorted(self.classes.items())
            ],
        }


class _Task(NamedTuple):
    pair: Pair
    layer: Layer
    view: View
    other: Callable[[], Layer]


class Shadow:
    """Compares samples. Thread-safe.

    Attributes:
        share: of the tiles (0..1). Which ones depends on revision and place alone: a tile counts once, and replicas
            take the same ones.
    """

    def __init__(
        self, engine: Engine, limits: Limits, names: Mapping[str, str], identify: Callable[[str], str], share: float
    ) -> None:
        """Start the thread.

        Args:
            engine: infers for the shadow, too.
            limits: what a tile may cost.
            names: the shadow of each model, both as in an address: `landcover` -> `landcover@canary`.
            identify: tells which model such a name means now.
            share: see above.
        """
        self.share = share
        self._engine, self._limits, self._names, self._identify = engine, limits, dict(names), identify
        self._lock = threading.Lock()
        self._found: OrderedDict[Pair, Agreement] = OrderedDict()
        self._taken: OrderedDict[tuple[Any, ...], None] = OrderedDict()
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._waiting = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="shadow", daemon=True)
        self._thread.start()

    def of(self, identity: str) -> tuple[Pair, str] | None:
        """The pair that a model is compared in now, and its shadow's name; None without one."""
        for model, shadow in self._names.items():
            try:
                pair = Pair(self._identify(model), self._identify(shadow))
            except InferenceError:  # of an alias that is not there (yet)
                continue
            if pair.model == identity and pair.shadow != identity:
                return pair, shadow
        return None

    def offer(self, identity: str, layer: Layer, view: View, place: Any, open_it: Callable[[str], Layer]) -> None:
        """A tile was answered; takes it into the sample, or does not. Never blocks.

        Args:
            identity: of the model that answered.
            layer: what it answered from.
            view: of the tile.
            place: what tells the tile from others.
            open_it: opens the layer of another model, by its name, over the same scene.
        """
        if layer.model.kind != "classes" or not chosen(layer.revision, place, self.share):
            return
        found = self.of(identity)
        if found is None:
            return
        pair, name = found
        with self._lock:
            key = (pair, layer.revision, place)
            if key in self._taken:
                return
            agreement = self._of(pair)
            if self._waiting >= WAITING:
                agreement.skipped += 1
                return
            self._taken[key] = None
            if len(self._taken) > TILES:
                self._taken.popitem(last=False)
            self._waiting += 1
        self._tasks.put(_Task(pair, layer, view, lambda: open_it(name)))

    def report(self, identity: str | None = None) -> list[dict[str, Any]]:
        """What was compared so far, of one model (on either side) or of all."""
        with self._lock:
            return [
                {"model": pair.model, "shadow": pair.shadow, **agreement.as_dict()}
                for pair, agreement in self._found.items()
                if identity is None or identity in pair
            ]

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be compared."""
        with self._lock:
            return self._waiting == 0

    def stop(self) -> None:
        """Compare nothing more; what has begun goes on until the engine has answered, or is closed."""
        self._stopping = True
        self._tasks.put(None)

    def close(self) -> None:
        """Stop, and wait for the thread's end."""
        self.stop()
        self._thread.join()

    def _loop(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                if not self._stopping:
                    self._compare(task)
            except Exception as error:  # nobody waits for it; it must not end what is to come
                if not isinstance(error, InferenceError):
                    logger.exception("a shadow's tile failed")
                reason = error.reason if isinstance(error, InferenceError) else f"it failed with {type(error).__name__}"
                with self._lock:
                    agreement = self._of(task.pair)
                    agreement.failed, agreement.reason = agreement.failed + 1, reason
            finally:
                with self._lock:
                    self._waiting -= 1

    def _compare(self, task: _Task) -> None:
        other = task.other()
        if other.model.kind != "classes":
            raise InferenceError(f"{task.pair.shadow} answers no classes")
        counts, missing = compare(
            self._picture(task.layer, task.view), self._picture(other, task.view), task.layer, other
        )
        with self._lock:
            agreement = self._of(task.pair)
            agreement.tiles += 1
            agreement.missing += missing
            for name, (pixels, agreed) in counts.items():
                before = agreement.classes.get(name, (0, 0))
                agreement.classes[name] = (before[0] + pixels, before[1] + agreed)

    def _picture(self, layer: Layer, view: View) -> Picture:
        todo = plan(layer, view, PLAIN, self._limits.max_tile_pixels, self._limits.max_side)
        return picture(todo, self._engine.scores(layer, todo.cells, origin=ORIGIN).scores)

    def _of(self, pair: Pair) -> Agreement:
        """The lock is held."""
        agreement = self._found.setdefault(pair, Agreement())
        self._found.move_to_end(pair)
        if len(self._found) > PAIRS:
            self._found.popitem(last=False)
        return agreement


def compare(ours: Picture, theirs: Picture, layer: Layer, other: Layer) -> tuple[dict[str, tuple[int, int]], int]:
    """By class name: pixels of `ours`, and how many of them have the same class in `theirs`; and pixels of one only.

    Classes are the same when their names are, whatever their numbers: versions may count them differently.
    """
    both = ours.valid & theirs.valid
    numbers = {item.name.casefold(): item.value for item in other.model.classes}
    counts = {}
    for item in layer.model.classes:
        here = both & (ours.values[0] == item.value)
        number = numbers.get(item.name.casefold())
        same = here & (theirs.values[0] == number) if number is not None else np.zeros_like(here)
        if pixels := int(here.sum()):
            counts[item.name] = (pixels, int(same.sum()))
    return counts, int((ours.valid != theirs.valid).sum())


def chosen(revision: str, place: Any, share: float) -> bool:
    """Whether a tile belongs to the sample: a share of all, the same ones everywhere."""
    number = int.from_bytes(hashlib.sha256(repr((revision, place)).encode()).digest()[:8], "big")
    return number < share * 2**64


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
