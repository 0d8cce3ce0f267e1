"""What was exported of a layer, by its revision: files that its tiles can be read from instead of being inferred.

One small JSON per file, `<folder>/<revision>/<hash of the file's path>.json`, written when an export is finished. A
file counts for as long as it has the size and time of change that it was registered with; and whoever reads it looks at
its tags again (`sampled`). The folder belongs to the operator: whoever can write in it decides what is shown.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from model_registry import aside
from tiler.errors import InferenceError
from tiler.scene import display_name, state_of
from tiler.values import Rect

logger = logging.getLogger(__name__)

TAG = "TITILER_INFERENCE_"
REVISION = re.compile(r"[0-9a-f]{12}")

# Seconds for which nobody looks at the folder and the files again.
TTL = 1.0
# A folder that was changed so lately (seconds) may change again within one tick of its clock.
SETTLED = 2.0
# Seconds for which a file is left alone that could not be read as it was registered.
PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Export:
    """One registered file.

    Attributes:
        path: absolute; never shown.
        revision: of the layer whose answer it holds.
        output: `class`, `probability`, `confidence`, `spread` or `value`.
        job: of the export that wrote it.
        region: pixels of the layer's grid that the file holds.
        area: GeoJSON geometry in the grid's CRS outside of which nothing was exported; None where all of it was.
        bands: number of bands.
        overviews: how many pixels of the file make one of each overview, along a side; ascending.
        size, mtime_ns: bytes and time of change (ns) when it was registered.
    """

    path: str = field(repr=False)
    revision: str
    output: str
    job: str
    region: Rect
    area: Mapping[str, Any] | None = field(repr=False, hash=False)
    bands: int
    overviews: tuple[int, ...]
    size: int
    mtime_ns: int

    @property
    def is_current(self) -> bool:
        """Whether the file is there as it was registered; a look at its size and time, no read."""
        return state_of(self.path) == (self.size, self.mtime_ns)

    @property
    def display_name(self) -> str:
        """The file's name without its folder."""
        return display_name(self.path)


@dataclass(frozen=True, slots=True)
class Exports:
    """What one revision's answers can be read from: its files that are current, the newest first.

    Attributes:
        files: of all outputs.
        home: whose they are; None for nobody's.
    """

    files: tuple[Export, ...] = ()
    home: Materialised | None = field(default=None, compare=False, repr=False)

    @property
    def stamp(self) -> str:
        """A few digits that change with any of the files; empty for none."""
        if not self.files:
            return ""
        decides = [(item.path, item.output, item.job, item.size, item.mtime_ns) for item in self.files]
        return hashlib.sha256(repr(decides).encode()).hexdigest()[:12]

    def of(self, output: str) -> tuple[Export, ...]:
        """Those that hold an output."""
        return tuple(item for item in self.files if item.output == output)

    def cover(self, output: str, height: int, width: int) -> bool:
        """Whether the files of an output hold every pixel of a grid; those cut along a polygon do not count."""
        regions = [item.region for item in self.of(output) if item.area is None]
        rows = np.unique([0, height, *(edge for r in regions for edge in (r.row_off, r.row_off + r.height))])
        cols = np.unique([0, width, *(edge for r in regions for edge in (r.col_off, r.col_off + r.width))])
        rows, cols = rows[(rows >= 0) & (rows <= height)], cols[(cols >= 0) & (cols <= width)]
        held = np.zeros((len(rows) - 1, len(cols) - 1), bool)
        for r in regions:
            down = (rows[:-1] >= r.row_off) & (rows[1:] <= r.row_off + r.height)
            across = (cols[:-1] >= r.col_off) & (cols[1:] <= r.col_off + r.width)
            held |= down[:, None] & across
        return bool(held.all())

    def count(self, what: str) -> None:
        """Count an answer, see `Materialised.counts`."""
        if self.home is not None:
            self.home.count(what)

    def refuse(self, export: Export, reason: str) -> None:
        """Leave a file alone that is not what its registration says."""
        if self.home is not None:
            self.home.refuse(export, reason)


NOTHING = Exports()


class Materialised:
    """A folder of registrations. Thread-safe; other processes may add to it at any time.

    What is new in it is seen within `TTL` seconds, at the cost of a stat of the revision's folder and of its files.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, *, ttl: float = TTL) -> None:
        """Open a folder, which need not be there yet.

        Args:
            folder: where registrations are kept; None: nothing is ever found.
            ttl: seconds for which nobody looks again.
        """
        self.folder = None if folder is None else Path(folder)
        self._ttl = ttl
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._read: dict[str, tuple[int, tuple[Export, ...]]] = {}
        self._found: dict[str, tuple[float, Exports]] = {}
        self._refused: dict[tuple[str, int, int], float] = {}
        self._told: set[str] = set()

    def of(self, revision: str) -> Exports:
        """What was exported of a revision and is current."""
        if self.folder is None:
            return NOTHING
        now = time.monotonic()
        with self._lock:
            kept = self._found.get(revision)
            if kept is not None and now - kept[0] < self._ttl:
                return kept[1]
        found = Exports(tuple(item for item in self._registered(revision) if self._usable(item)), self)
        with self._lock:
            if len(self._found) > 4096:
                self._found.clear()
                self._read.clear()
            self._found[revision] = now, found
        return found

    def register(self, path: str | os.PathLike[str]) -> Path | None:
        """`register` a file here; seen at once."""
        if self.folder is None:
            return None
        written = register(self.folder, path)
        with self._lock:
            self._read.clear()
            self._found.clear()
            self._refused.clear()
        return written

    def counts(self) -> dict[str, int]:
        """Answers so far: read from files altogether (`whole`), in part (`part`), or from their overviews (`overview`);
        and files that could not be used (`refused`).
        """
        with self._lock:
            return {name: self._counts[name] for name in ("whole", "part", "overview", "refused")}

    def count(self, what: str) -> None:
        """Add one to a count."""
        with self._lock:
            self._counts[what] += 1

    def refuse(self, export: Export, reason: str) -> None:
        """Leave a file alone for a while, and say so once."""
        with self._lock:
            self._refused[_state(export)] = time.monotonic() + PAUSE
            self._found.pop(export.revision, None)
        self._tell(f"export {export.display_name!r} is not used: {reason}")

    def _usable(self, export: Export) -> bool:
        if self._refused.get(_state(export), 0.0) > time.monotonic():
            return False
        if not export.is_current:
            self._tell(f"export {export.display_name!r} is not used: it has been changed, moved or removed")
            return False
        return True

    def _registered(self, revision: str) -> tuple[Export, ...]:
        """All registrations of a revision, the newest first; read again when the folder has changed."""
        assert self.folder is not None
        folder = self.folder / revision
        try:
            changed = os.stat(folder).st_mtime_ns
        except OSError:
            return ()
        with self._lock:
            kept = self._read.get(revision)
        if kept is not None and kept[0] == changed:
            return kept[1]
        found = []
        for file in sorted(folder.glob("*.json")):
            try:
                export = _parsed(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError, LookupError) as error:
                self._tell(f"registration {revision}/{file.name} is not used: it cannot be read ({error})")
                continue
            if export.revision == revision:
                found.append(export)
        exports = tuple(sorted(found, key=lambda item: item.mtime_ns, reverse=True))
        if time.time() - changed / 1e9 > SETTLED:
            with self._lock:
                self._read[revision] = changed, exports
        return exports

    def _tell(self, message: str) -> None:
        with self._lock:
            if message in self._told:
                return
            self._told.add(message)
            self._counts["refused"] += 1
        logger.warning("%s", message)


def register(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path | None:
    """Register an exported file, so that tiles of its revision come from it.

    Args:
        folder: of registrations; made if it is not there.
        path: the finished file, under its final name.

    Returns:
        The registration; None for a file that cannot be served from: of several scenes, warped off the layer's grid, or
        not on a disk.

    Raises:
        InferenceError: the file cannot be read, or is not an export.
    """
    source = os.fspath(path)
    if "://" in source or source.startswith("/vsi"):
        return None
    source, name = os.path.abspath(source), display_name(source)
    state = state_of(source)
    try:
        with opened(source) as dataset:
            tags, shape, bands, levels = dataset.tags(), dataset.shape, dataset.count, dataset.overviews(1)
    except (RasterioError, OSError) as error:
        raise InferenceError(f"{name!r} cannot be registered: it is not a GeoTIFF", "Export it again") from error
    if f"{TAG}OUTPUT" in tags and f"{TAG}REGION" not in tags:
        return None
    try:
        region = [int(number) for number in json.loads(tags[f"{TAG}REGION"])]
        area = json.loads(tags[f"{TAG}AREA"]) if f"{TAG}AREA" in tags else None
        entry = {
            "path": source,
            "revision": tags[f"{TAG}REVISION"],
            "output": tags[f"{TAG}OUTPUT"],
            "job": tags.get(f"{TAG}JOB", ""),
            "region": region,
            "area": area,
            "bands": bands,
            "overviews": levels,
            "size": state[0] if state else None,
            "mtime_ns": state[1] if state else None,
        }
        export = _parsed(entry)
    except (ValueError, TypeError, LookupError) as error:
        raise InferenceError(
            f"{name!r} cannot be registered: it lacks the tags of an export", "Export it again with `tiler export`"
        ) from error
    if (export.region.height, export.region.width) != shape:
        raise InferenceError(f"{name!r} has {shape} pixels, its tags say {region[2:]}", "Export it again")
    home = Path(folder) / export.revision
    home.mkdir(parents=True, exist_ok=True)
    target = home / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"
    aside.write_json(target, entry)
    return target


def opened(path: str, overview: int | None = None) -> rasterio.DatasetReader:
    """A file, or one of its overviews, opened as GeoTIFF and nothing else, without whatever lies beside it."""
    level = {} if overview is None else {"overview_level": overview}
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        dataset: rasterio.DatasetReader = rasterio.open(path, driver="GTiff", **level)
        return dataset


def _state(export: Export) -> tuple[str, int, int]:
    return export.path, export.size, export.mtime_ns


def _parsed(entry: Mapping[str, Any]) -> Export:
    """A registration as it was written.

    Raises:
        ValueError, TypeError, LookupError: it is something else.
    """
    if not REVISION.fullmatch(entry["revision"]) or not os.path.isabs(entry["path"]):
        raise ValueError("no revision, or no absolute path")
    if entry["area"] is not None and not isinstance(entry["area"], dict):
        raise ValueError("an area that is no geometry")
    return Export(
        path=str(entry["path"]),
        revision=entry["revision"],
        output=str(entry["output"]),
        job=str(entry["job"]),
        region=Rect(*(int(number) for number in entry["region"])),
        area=entry["area"],
        bands=int(entry["bands"]),
        overviews=tuple(sorted(int(number) for number in entry["overviews"])),
        size=int(entry["size"]),
        mtime_ns=int(entry["mtime_ns"]),
    )
