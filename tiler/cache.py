"""What is kept, bounded in bytes; the least recently used goes first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from cachetools import LRUCache

from tiler.values import Scores

Value = TypeVar("Value")


class ByteCache(Generic[Value]):
    """A thread-safe LRU cache that counts bytes. What is larger than the whole cache is not kept."""

    def __init__(self, max_bytes: int, size: Callable[[Value], int]) -> None:
        self._size = size
        self._items: LRUCache[Hashable, Value] = LRUCache(max_bytes, getsizeof=self._sized)
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    def get(self, *keys: Hashable) -> Value | None:
        """What is kept under the first of the keys that is known, or None. Counts as one look-up."""
        with self._lock:
            for key in keys:
                value = self._items.get(key)
                if value is not None:
                    self.hits += 1
                    return value
            self.misses += 1
            return None

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value."""
        with self._lock:
            if self._sized(value) <= self._items.maxsize:
                self._items[key] = value

    def _sized(self, value: Value) -> int:
        return max(1, self._size(value))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._items.clear()

    @property
    def nbytes(self) -> int:
        """Bytes kept now."""
        return int(self._items.currsize)

    @property
    def max_bytes(self) -> int:
        """Bytes kept at most."""
        return int(self._items.maxsize)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items


def scores_cache(max_bytes: int) -> ByteCache[Scores]:
    """A cache of cells."""
    return ByteCache(max_bytes, lambda scores: scores.nbytes)


class Encoded(NamedTuple):
    """A tile as it was sent: bytes, media type, and its kind (`predict.TileAnswer`)."""

    content: bytes
    media_type: str
    kind: str


def pictures_cache(max_bytes: int) -> ByteCache[Encoded]:
    """A cache of encoded tiles."""
    return ByteCache(max_bytes, lambda picture: len(picture.content))
