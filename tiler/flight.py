"""One future per key, however many ask for it, and how many still wait for it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True, eq=False)
class _Flying(Generic[Value]):
    future: Future[Value] = field(default_factory=Future)
    waiters: int = 0


class Flight(Generic[Key, Value]):
    """What is being worked on. Not thread-safe: the engine's lock guards it.

    Whoever asks for a key joins it, and must leave it again: when answered, or when giving up. A caller that leaves
    never takes the others' answer away, and a key that everybody has left is reported, so that its work can stop.
    """

    def __init__(self) -> None:
        self._flying: dict[Key, _Flying[Value]] = {}

    def __len__(self) -> int:
        return len(self._flying)

    def __contains__(self, key: object) -> bool:
        return key in self._flying

    def join(self, key: Key) -> tuple[Future[Value], bool]:
        """The key's future, and whether it is new: then the caller has to see to it that the work is done."""
        new = key not in self._flying
        flying = self._flying.setdefault(key, _Flying())
        flying.waiters += 1
        return flying.future, new

    def leave(self, keys: Iterable[Key]) -> list[Key]:
        """Stop waiting for keys; returns those that nobody waits for any more."""
        left = []
        for key in keys:
            flying = self._flying.get(key)
            if flying is not None:
                flying.waiters -= 1
                if flying.waiters == 0:
                    left.append(key)
        return left

    def wanted(self, key: Key) -> bool:
        """Whether anybody waits for the key."""
        flying = self._flying.get(key)
        return flying is not None and flying.waiters > 0

    def take(self, key: Key) -> Future[Value] | None:
        """End a key's flight; the caller settles the future outside of the lock. None if it has ended already."""
        flying = self._flying.pop(key, None)
        return None if flying is None else flying.future

    def take_all(self) -> list[Future[Value]]:
        """End every flight."""
        futures = [flying.future for flying in self._flying.values()]
        self._flying.clear()
        return futures
