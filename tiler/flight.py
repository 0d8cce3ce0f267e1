"""One future per key, however many ask for it at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Flight(Generic[Key, Value]):
    """What is being worked on. The first to ask for a key becomes responsible for settling it."""

    def __init__(self) -> None:
        self._futures: dict[Key, Future[Value]] = {}
        self._lock = threading.Lock()

    def join(
        self, keys: Iterable[Key], find: Callable[[Key], Value | None], admit: Callable[[int], None]
    ) -> tuple[dict[Key, Future[Value]], list[Key]]:
        """Futures for all keys, and those keys that the caller must settle.

        Args:
            keys: what is wanted.
            find: looks a key up where finished work is kept; called under the lock, so that nothing that was settled
                a moment ago is started again.
            admit: called with the number of keys in flight should the new ones be let in; raises to refuse them all.
        """
        with self._lock:
            futures: dict[Key, Future[Value]] = {}
            fresh: list[Key] = []
            for key in keys:
                if (flying := self._futures.get(key)) is not None:
                    futures[key] = flying
                    continue
                future: Future[Value] = Future()
                futures[key] = future
                if (value := find(key)) is not None:
                    future.set_result(value)
                else:
                    fresh.append(key)
            if fresh:
                admit(len(self._futures) + len(fresh))
            self._futures.update((key, futures[key]) for key in fresh)
            return futures, fresh

    def settle(self, key: Key, value: Value) -> None:
        """Give everybody who waits for `key` its value. The value must be findable already (see `join`)."""
        if (future := self._pop(key)) is not None:
            future.set_result(value)

    def fail(self, keys: Iterable[Key], error: BaseException) -> None:
        """Give everybody who waits for one of `keys` the error; keys that were settled already are left alone."""
        for key in keys:
            if (future := self._pop(key)) is not None:
                future.set_exception(error)

    def _pop(self, key: Key) -> Future[Value] | None:
        with self._lock:
            return self._futures.pop(key, None)

    def __len__(self) -> int:
        return len(self._futures)
