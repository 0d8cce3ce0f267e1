"""Looking at a registry every now and then, and reloading when it has changed. Off unless an operator wants it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from model_registry import ModelError, Registry

logger = logging.getLogger(__name__)


class Watch:
    """A thread that compares a registry's fingerprint with the one that is served."""

    def __init__(
        self, registry: Registry, served: Callable[[], str], reload: Callable[[], object], seconds: float
    ) -> None:
        """Start watching.

        Args:
            registry: what to look at.
            served: its fingerprint when it was last looked at.
            reload: called when it has another one now; must see to it that `served` says so.
            seconds: between two looks.
        """
        self._registry, self._served, self._reload, self._seconds = registry, served, reload, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching; a reload that has begun is finished."""
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                if self._registry.fingerprint() != self._served():
                    self._reload()
            except ModelError as error:
                logger.warning("the registry could not be looked at: %s", error)
            except Exception:  # the next look may go better, and nobody else would start one
                logger.exception("watching the registry failed")
