"""Cells shared by several replicas, in Redis or Valkey. Bytes only, never pickle; whatever goes wrong is a miss."""

from __future__ import annotations

import logging
import struct
import time
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tiler.errors import RequestError
from tiler.values import Key, Scores

logger = logging.getLogger(__name__)

# A slow cache must not be slower than no cache: this long, in seconds, and after an error not at all for a while.
TIMEOUT = 0.05
PAUSE = 1.0
DAY = 24 * 3600

# Format version, rows, columns, what there is (1: class numbers, 2: precise probabilities); planes of probabilities,
# values, components (0: none).
HEADER = struct.Struct("<BHHBHHH")
VERSION = 2
PLANES = ("<f2", "<f4", "<f2")
CLASSES, EXACT = 1, 2


class SharedCache:
    """Cells by revision. Counts hits, misses and errors."""

    def __init__(self, url: str, *, ttl: int = DAY) -> None:
        """Make a cache; connects when first used.

        Args:
            url: `redis://host:6379/0`, `rediss://` or `unix://`.
            ttl: seconds that a cell is kept there.

        Raises:
            RequestError: the client library is not installed, or the URL is not one.
        """
        try:
            import redis
        except ImportError:
            raise RequestError(
                "a shared cache needs the redis package", "Install it: pip install 'titiler-inference[redis]'"
            ) from None
        try:
            self._client: Any = redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
        except ValueError:
            raise RequestError("shared_cache_url is not a Redis URL", "Write redis://host:6379/0") from None
        self._ttl = ttl
        self._silent_until = 0.0
        self.hits = 0
        self.misses = 0
        self.errors = 0

    def get(self, keys: Sequence[Key]) -> dict[Key, Scores]:
        """Those of the cells that are kept."""
        if not self._listens():
            return {}
        try:
            answers = self._client.mget([_name(key) for key in keys])
            found = {key: decode(answer) for key, answer in zip(keys, answers, strict=True) if answer is not None}
        except Exception as error:  # a broken cache is no cache: its client raises a dozen classes
            self._failed(error)
            return {}
        self.hits += len(found)
        self.misses += len(keys) - len(found)
        return found

    def put(self, cells: Iterable[tuple[Key, Scores]]) -> None:
        """Keep cells."""
        if not self._listens():
            return
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for key, scores in cells:
                    pipeline.set(_name(key), encode(scores), ex=self._ttl)
                pipeline.execute()
        except Exception as error:  # as above
            self._failed(error)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _listens(self) -> bool:
        return time.monotonic() >= self._silent_until

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        self._silent_until = time.monotonic() + PAUSE
        logger.warning("the shared cache does not answer (%s); left alone for %g s", type(error).__name__, PAUSE)


def encode(scores: Scores) -> bytes:
    """A cell of a network as bytes: header, class numbers, mask bits, planes of each kind; deflated.

    An ensemble's cells are made from those of its members, and not shared themselves.
    """
    rows, cols = scores.valid.shape
    kinds = (scores.probabilities, scores.values, scores.components)
    counts = [0 if planes is None else len(planes) for planes in kinds]
    body = b"" if scores.classes is None else scores.classes.tobytes()
    body += np.packbits(scores.valid).tobytes()
    precise = scores.probabilities is not None and scores.probabilities.dtype == np.float32
    there = CLASSES * (scores.classes is not None) | EXACT * precise
    for planes, dtype in zip(kinds, _dtypes(there), strict=True):
        body += b"" if planes is None else planes.astype(dtype).tobytes()
    return HEADER.pack(VERSION, rows, cols, there, *counts) + zlib.compress(body, 1)


def decode(data: bytes) -> Scores:
    """The cell that `encode` wrote.

    Raises:
        ValueError, zlib.error: it is something else.
    """
    if len(data) < HEADER.size:
        raise ValueError("too short to be a cell")
    version, rows, cols, there, *counts = HEADER.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"a cell of format {version}, not {VERSION}")
    classes, dtypes = there & CLASSES, _dtypes(there)
    pixels, bits = rows * cols, -(-rows * cols // 8)
    sizes = [count * pixels * np.dtype(dtype).itemsize for count, dtype in zip(counts, dtypes, strict=True)]
    size = pixels * classes + bits + sum(sizes)
    unpacker = zlib.decompressobj()
    body = unpacker.decompress(data[HEADER.size :], size + 1)
    if len(body) != size or not unpacker.eof:
        raise ValueError(f"not a whole cell of {rows} x {cols}")
    at = pixels * classes
    valid = np.unpackbits(np.frombuffer(body, np.uint8, bits, at), count=pixels).astype(bool).reshape(rows, cols)
    at += bits
    planes: list[Any] = []
    for count, dtype, length in zip(counts, dtypes, sizes, strict=True):
        found = np.frombuffer(body, dtype, count * pixels, at).reshape(count, rows, cols) if count else None
        planes.append(found)
        at += length
    return Scores(np.frombuffer(body, np.uint8, pixels).reshape(rows, cols) if classes else None, valid, *planes)


def _dtypes(there: int) -> tuple[str, ...]:
    return ("<f4", *PLANES[1:]) if there & EXACT else PLANES


def _name(key: Key) -> str:
    kind = "cpf"[int(key.probabilities)]
    return f"tiler:{VERSION}:{key.revision}:{kind}:{key.cell.row}:{key.cell.col}"
