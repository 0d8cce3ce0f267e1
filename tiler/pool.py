"""Loaded models, within a budget: loaded when first asked for, the least recently used unloaded first.

None is unloaded while it is in use. Nothing is closed by force either: a model that leaves is freed when the last
request that had begun with it is done, and who asks for it before that gets it back.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model_registry import LoadedModel, Model
from tiler.errors import BusyError, MisfitError

logger = logging.getLogger(__name__)

_thread = threading.local()


class StillLoading(Exception):
    """A model is being loaded; whoever may not wait in this thread waits for `future` elsewhere, and asks again."""

    def __init__(self, future: Future[LoadedModel]) -> None:
        super().__init__("a model is being loaded")
        self.future = future


@contextmanager
def without_waiting() -> Iterator[None]:
    """Inside, this thread loads a model if none is being loaded, but waits for nobody: StillLoading is raised."""
    _thread.hurries = True
    try:
        yield
    finally:
        _thread.hurries = False


@dataclass(frozen=True)
class Entry:
    """A loaded model, the bytes it counts for, and when (seconds since 1970) and how long (seconds) it was loaded.

    `needs` are the models, by identity, that it is made of: an ensemble is nothing without them, and no memory beyond.
    """

    loaded: LoadedModel
    nbytes: int
    since: float
    seconds: float
    needs: tuple[str, ...] = ()


class Pool:
    """Loaded models by identity. Thread-safe.

    Attributes:
        max_bytes: what they may count for together, None: any.
        max_models: how many there may be, None: any.
    """

    def __init__(
        self,
        *,
        max_bytes: int | None = None,
        max_models: int | None = None,
        in_use: Callable[[], Collection[str]] = tuple,
        left: Callable[[str], None] = lambda identity: None,
    ) -> None:
        """Make an empty pool.

        Args:
            max_bytes, max_models: see above.
            in_use: gives the identities that must stay now.
            left: called with the identity of a model that was unloaded; drops whatever else keeps it alive.
        """
        self.max_bytes, self.max_models = max_bytes, max_models
        self._in_use, self._left = in_use, left
        self._kept: OrderedDict[str, Entry] = OrderedDict()
        # On their way out, with the bytes they counted for and the seconds they took: only their users keep them alive.
        self._leaving: dict[str, tuple[weakref.ref[LoadedModel], int, float]] = {}
        self._sizes: dict[str, int] = {}
        self._loading: dict[str, Future[LoadedModel]] = {}
        self._lock = threading.Lock()
        self._now: Future[LoadedModel] | None = None
        self._held: Counter[str] = Counter()
        # One at a time: what a runtime does per second is measured while loading, and memory is counted.
        self._turn = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that the kept models count for."""
        with self._lock:
            return sum(entry.nbytes for entry in self._kept.values())

    def entries(self) -> dict[str, Entry]:
        """What is kept, the least recently used first."""
        with self._lock:
            return dict(self._kept)

    def peek(self, identity: str) -> LoadedModel | None:
        """The model if it is kept; counts as no use."""
        with self._lock:
            entry = self._kept.get(identity)
            return None if entry is None else entry.loaded

    def touch(self, identity: str) -> None:
        """The model is used now."""
        with self._lock:
            self._touch(identity)

    @contextmanager
    def holding(self, identities: Collection[str]) -> Iterator[None]:
        """Inside, none of these models is unloaded: they are needed together."""
        with self._lock:
            self._held.update(identities)
        try:
            yield
        finally:
            with self._lock:
                self._held.subtract(identities)
                self._held += Counter()  # those at zero go

    def get(
        self, identity: str, find: Callable[[], Model], load: Callable[[Model], LoadedModel], *, must: bool = False
    ) -> LoadedModel:
        """The model; loaded if it is not, once, however many ask for it at the same time.

        Args:
            identity: its name here.
            find: opens it, so that its size is known before it is loaded.
            load: loads it.
            must: whether it is loaded even if there is no room.

        Raises:
            MisfitError: it alone is larger than the budget.
            BusyError: the models in use leave no room for it now.
            StillLoading: it, or another one, is being loaded; only inside of `without_waiting`.
            Exception: whatever `find` and `load` raise, for everybody who waits for it.
        """
        with self._lock:
            leaving = identity in self._leaving
            found = self._found(identity)
            waiting = self._loading.get(identity)
            mine = waiting or Future()
            # Not to be cancelled by one of those who wait.
            _ = waiting or mine.set_running_or_notify_cancel()
            if found is None:
                if getattr(_thread, "hurries", False) and (other := waiting or self._now) is not None:
                    raise StillLoading(other)
                self._loading[identity] = mine
                self._now = self._now or mine
        if found is not None:
            if leaving:
                self._make_room(identity, 0)
            return found
        if waiting is not None:
            return waiting.result()
        try:
            with self._turn:
                with self._lock:
                    self._now = mine
                loaded = self._load(identity, find, load, must)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(loaded)
        finally:
            with self._lock:
                del self._loading[identity]
                if self._now is mine:
                    self._now = None
        self._make_room(identity, 0)
        return loaded

    def put(
        self, identity: str, loaded: LoadedModel, nbytes: int, seconds: float = 0.0, needs: tuple[str, ...] = ()
    ) -> None:
        """Keep a model that was loaded elsewhere, in the place of the one with its identity.

        One that `needs` others is only kept while they are.
        """
        with self._lock:
            if not set(needs) <= set(self._kept):
                return
            self._keep(identity, Entry(loaded, nbytes, time.time(), seconds, needs))
        self._make_room(identity, 0)

    def drop(self, identity: str) -> None:
        """Unload a model, whoever uses it: what has begun with it ends with it."""
        with self._lock:
            gone = self._leave(identity) if identity in self._kept else [identity]
        for name in gone:
            self._left(name)

    def close(self) -> None:
        """Free all models, also those that are on their way out."""
        with self._lock:
            models = [entry.loaded for entry in self._kept.values()]
            models += [loaded for ref, *_ in self._leaving.values() if (loaded := ref()) is not None]
            self._kept.clear()
            self._leaving.clear()
        for loaded in models:
            loaded.close()

    def _found(self, identity: str) -> LoadedModel | None:
        """The lock is held."""
        if identity in self._kept:
            self._touch(identity)
            return self._kept[identity].loaded
        if identity not in self._leaving:
            return None
        ref, nbytes, seconds = self._leaving.pop(identity)
        loaded = ref()
        if loaded is not None:
            # It has not gone yet: loading it a second time would take twice the memory.
            self._keep(identity, Entry(loaded, nbytes, time.time(), seconds))
        return loaded

    def _load(
        self, identity: str, find: Callable[[], Model], load: Callable[[Model], LoadedModel], must: bool
    ) -> LoadedModel:
        model = find()
        least = artifact_bytes(model)
        self._make_room(identity, max(least, self._sizes.get(identity, 0)), must=must)
        before, begun = resident_bytes(), time.monotonic()
        loaded = load(model)
        seconds = time.monotonic() - begun
        grown = resident_bytes() - before
        with self._lock:
            self._sizes[identity] = nbytes = max(least, grown)
            self._keep(identity, Entry(loaded, nbytes, time.time(), seconds))
        return loaded

    def _keep(self, identity: str, entry: Entry) -> None:
        self._leaving.pop(identity, None)
        self._kept[identity] = entry
        self._kept.move_to_end(identity)

    def _touch(self, identity: str) -> None:
        """The lock is held."""
        if identity in self._kept:
            for name in (*self._kept[identity].needs, identity):
                self._kept.move_to_end(name)

    def _leave(self, identity: str) -> list[str]:
        """Let a model go, and what is made of it; returns their identities. The lock is held."""
        gone = [name for name, other in self._kept.items() if identity in other.needs]
        for name in gone:
            # Not to be found again: it would bring its members back without anybody counting them.
            del self._kept[name]
        entry = self._kept.pop(identity)
        if entry.needs:
            return [identity]
        self._leaving = {name: kept for name, kept in self._leaving.items() if kept[0]() is not None}
        self._leaving[identity] = (weakref.ref(entry.loaded), entry.nbytes, entry.seconds)
        return [*gone, identity]

    def _make_room(self, identity: str, more: int, must: bool = True) -> None:
        """Unload the least recently used until `more` bytes have room, none that is in use."""
        stay = {identity, *self._in_use()}
        gone: list[str] = []
        with self._lock:
            stay |= set(self._held)
            stay |= {name for user in stay & set(self._kept) for name in self._kept[user].needs}
            while self._lacks(identity, more):
                # To let go of what only needs others would free nothing.
                networks = (name for name, entry in self._kept.items() if not entry.needs)
                oldest = next((name for name in networks if name not in stay), None)
                if oldest is None:
                    break
                gone += self._leave(oldest)
            lacks = self._lacks(identity, more)
            held = sum(entry.nbytes for entry in self._kept.values())
        for name in gone:
            logger.info("model %s was unloaded to make room", name)
            self._left(name)
        if not lacks:
            return
        if must:
            logger.warning("models take %d MB, more than the budget: none can be unloaded now", (held + more) >> 20)
        elif self.max_bytes is not None and more > self.max_bytes:
            raise MisfitError(
                f"model {identity!r} takes {more / 1e6:.0f} MB, the budget is {self.max_bytes / 1e6:.0f} MB",
                "Raise TILER_MODEL_BYTES",
            )
        else:
            raise BusyError(f"the models in use leave no room for {identity!r}", "Ask again shortly", retry_after=5)

    def _lacks(self, identity: str, more: int) -> bool:
        nbytes = sum(entry.nbytes for entry in self._kept.values())
        count = sum(not entry.needs for entry in self._kept.values()) + (identity not in self._kept)
        return (self.max_bytes is not None and nbytes + more > self.max_bytes) or (
            self.max_models is not None and count > self.max_models
        )


def artifact_bytes(model: Model) -> int:
    """Bytes of a model's files: what it takes at least."""
    return sum(artifact.size for artifact in model.artifacts)


def resident_bytes() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
