"""Scores by key, bounded in bytes; the least recently used go first."""

from __future__ import annotations

import threading
from collections.abc import Hashable

from cachetools import LRUCache

from tiler.values import Scores


class ScoresCache:
    """A thread-safe LRU cache that counts bytes. What is larger than the whole cache is not kept."""

    def __init__(self, max_bytes: int) -> None:
        self._items: LRUCache[Hashable, Scores] = LRUCache(max_bytes, getsizeof=lambda scores: max(1, scores.nbytes))
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    def get(self, key: Hashable) -> Scores | None:
        """The scores kept under `key`, or None."""
        with self._lock:
            scores = self._items.get(key)
            if scores is None:
                self.misses += 1
            else:
                self.hits += 1
            return scores

    def put(self, key: Hashable, scores: Scores) -> None:
        """Keep scores."""
        with self._lock:
            if max(1, scores.nbytes) <= self._items.maxsize:
                self._items[key] = scores

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._items.clear()

    @property
    def nbytes(self) -> int:
        """Bytes kept now."""
        return int(self._items.currsize)

    def __len__(self) -> int:
        return len(self._items)
