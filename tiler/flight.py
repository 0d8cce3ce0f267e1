"""What is being worked on, and who waits for it: each key once, however many ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Ticket(Generic[Key, Value]):
    """One request's place in the queue for all of its keys. Done once, with every value or with the first error.

    Cheaper than a future per key and waiter: a map tile has some eighty keys, each settled for everybody at once.
    """

    def __init__(self) -> None:
        self.values: dict[Key, Value] = {}
        self.error: BaseException | None = None
        self.missing: set[Key] = set()
        self._done = threading.Event()
        self._callback: Callable[[], None] | None = None
        self._lock = threading.Lock()

    @property
    def done(self) -> bool:
        """Whether nothing is missing any more, or an error came."""
        return self._done.is_set()

    def wait(self, timeout: float) -> bool:
        """Block until done; False when that took longer than `timeout` seconds."""
        return self._done.wait(timeout)

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call back once, from whatever thread ends the wait (or at once)."""
        with self._lock:
            if not self._done.is_set():
                self._callback = callback
                return
        callback()

    def finish(self) -> None:
        """Wake whoever waits. Called without the flight's lock, so that a callback may do what it likes."""
        with self._lock:
            if self._done.is_set():
                return
            self._done.set()
        if self._callback is not None:
            self._callback()


class Flight(Generic[Key, Value]):
    """Keys in flight and the tickets that wait for them. Not thread-safe: the engine's lock guards it.

    A ticket that leaves never takes the others' answer away; a key that all have left is reported, so that its work can
    stop.
    """

    def __init__(self) -> None:
        self._tickets: dict[Key, list[Ticket[Key, Value]]] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._tickets)

    def __contains__(self, key: object) -> bool:
        return key in self._tickets

    def join(self, key: Key, ticket: Ticket[Key, Value]) -> None:
        """Wait for a key; if it was not in flight, the caller has to see to it that the work is done."""
        ticket.missing.add(key)
        self._tickets.setdefault(key, []).append(ticket)

    def start(self, key: Key) -> None:
        """Begin a flight that nobody waits for yet; whoever asks for the key now joins it."""
        self._tickets.setdefault(key, [])

    def leave(self, ticket: Ticket[Key, Value]) -> list[Key]:
        """Stop waiting for whatever a ticket still misses; returns the keys that nobody waits for any more."""
        left = []
        for key in ticket.missing:
            waiting = self._tickets.get(key)
            if waiting is not None and ticket in waiting:
                waiting.remove(ticket)
                if not waiting:
                    left.append(key)
        ticket.missing.clear()
        return left

    def wanted(self, key: Key) -> bool:
        """Whether anybody waits for the key."""
        return bool(self._tickets.get(key))

    def forget(self, key: Key) -> None:
        """End the flight of a key that nobody waits for."""
        self._tickets.pop(key, None)

    def settle(self, values: Iterable[tuple[Key, Value]]) -> list[Ticket[Key, Value]]:
        """Give everybody who waits the values; returns the tickets to finish."""
        ready = []
        for key, value in values:
            for ticket in self._tickets.pop(key, ()):
                ticket.missing.discard(key)
                ticket.values[key] = value
                if not ticket.missing:
                    ready.append(ticket)
        return ready

    def fail(self, keys: Iterable[Key], error: BaseException) -> list[Ticket[Key, Value]]:
        """Give everybody who waits for one of the keys the error; returns the tickets to finish.

        A ticket with an error still misses its other keys, until its owner leaves.
        """
        ready = []
        for key in keys:
            for ticket in self._tickets.pop(key, ()):
                ticket.missing.discard(key)
                if ticket.error is None:
                    ticket.error = error
                    ready.append(ticket)
        return ready

    def fail_all(self, error: BaseException) -> list[Ticket[Key, Value]]:
        """End every flight with an error; returns the tickets to finish."""
        return self.fail(list(self._tickets), error)
