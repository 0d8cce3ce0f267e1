"""How work in a thread hears that its client has gone: an event loop can cancel a coroutine, but no thread.

The connection's listener sets the client of a request's context; any thread that works for it has a copy of that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Client:
    """Who waits for an answer. Thread-safe."""

    def __init__(self) -> None:
        self.gone = False
        self._wake: set[Callable[[], None]] = set()
        self._lock = threading.Lock()

    @contextmanager
    def wakes(self, wake: Callable[[], None]) -> Iterator[None]:
        """Inside, `wake` is called once the client goes; at once if it has gone."""
        with self._lock:
            self._wake.add(wake)
        if self.gone:
            wake()
        try:
            yield
        finally:
            with self._lock:
                self._wake.discard(wake)

    def leave(self) -> None:
        """The client has gone."""
        with self._lock:
            self.gone = True
            woken = list(self._wake)
        for wake in woken:
            wake()


_CLIENT: ContextVar[Client | None] = ContextVar("client", default=None)


def client() -> Client:
    """The client of this context; one that never goes if nobody listens."""
    return _CLIENT.get() or Client()


@contextmanager
def working_for(someone: Client) -> Iterator[None]:
    """Inside, and in tasks and threads that begin there, `client()` is this one."""
    token = _CLIENT.set(someone)
    try:
        yield
    finally:
        _CLIENT.reset(token)
