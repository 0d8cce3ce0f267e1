"""The folder of parts: the only state of an export. A part is there whole, with a receipt, or not at all.

out.tif.parts/
  job.json         what these parts belong to
  lock             held by the one process that drives
  00012.class.tif  one block of one product
  00012.json       its receipt: sizes, digests, counts
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from tiler.errors import InferenceError, RequestError
from tiler.export.products import Product

# Side of the tiles inside of a part, and of the result.
TILE = 512


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one block.

    Attributes:
        job: whose.
        number: which block.
        files: by product: size in bytes and sha256. A product without any data in the block has no file.
        valid: pixels with data.
        counts: pixels by class value, or empty.
    """

    job: str
    number: int
    files: Mapping[str, tuple[int, str]]
    valid: int
    counts: Mapping[str, int]


class ExportError(InferenceError):
    """The export cannot go on here: the disk, the folder, or another process is in the way."""


class Parts:
    """The folder of one export's parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self, job: str, *, overwrite: bool = False) -> FileLock:
        """Make the folder, and hold it for this process until the lock is released.

        Args:
            job: whose parts it may hold.
            overwrite: whether another job's are thrown away.

        Raises:
            ExportError: another process holds it, or it holds another job's parts.
        """
        self._make()
        lock = FileLock(self.folder / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ExportError(
                f"another process is exporting to {self.folder.name.removesuffix('.parts')!r}",
                "Wait for it, stop it, or choose another output",
            ) from None
        except (OSError, NotImplementedError) as error:  # the latter where a file system has no locks
            raise told(error, self.folder.name) from error
        try:
            found = self._job()
            if found not in (None, job):
                if not overwrite:
                    raise ExportError(
                        f"{self.folder.name!r} holds the parts of another export: scene, model or options have changed",
                        "Delete it, use --overwrite, or choose another output",
                    )
                self._empty()
            self._write("job.json", json.dumps({"job": job}).encode())
        except BaseException:
            lock.release()
            raise
        return lock

    def write(self, job: str, number: int, arrays: Mapping[str, NDArray[Any]], products: tuple[Product, ...],
              crs: CRS, transform: Affine) -> Receipt:  # fmt: skip
        """Write a block's arrays [bands, rows, cols], and then its receipt.

        Raises:
            ExportError: the disk is full, or may not be written.
        """
        first = products[0]
        valid, counts = _counted(arrays[first.name], first)
        files: dict[str, tuple[int, str]] = {}
        for product in products if valid else ():
            content = _encoded(arrays[product.name], product, crs, transform)
            self._write(f"{number:05d}.{product.name}.tif", content)
            files[product.name] = len(content), hashlib.sha256(content).hexdigest()
        receipt = Receipt(job, number, files, valid, counts)
        self._write(f"{number:05d}.json", json.dumps(asdict(receipt)).encode())
        return receipt

    def valid(self, job: str, number: int) -> Receipt | None:
        """The receipt of a block whose files are there as they were written, or None."""
        try:
            told = json.loads((self.folder / f"{number:05d}.json").read_bytes())
            files = {name: (int(size), str(digest)) for name, (size, digest) in told["files"].items()}
            receipt = Receipt(told["job"], told["number"], files, told["valid"], told["counts"])
            if (receipt.job, receipt.number) != (job, number):
                return None
            for name, (size, digest) in files.items():
                content = (self.folder / f"{number:05d}.{name}.tif").read_bytes()
                if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
                    return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            # Half written, or changed: it is made again.
            return None
        return receipt

    def remove(self) -> None:
        """Delete the folder and all in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self, job: str) -> None:
        """Delete the folder if it holds this job's parts, and no process works on them."""
        if self._job() != job:
            return
        with suppress(ExportError):
            lock = self.claim(job)
            try:
                self.remove()
            finally:
                lock.release()

    def size(self) -> int:
        """Bytes of the parts that are there."""
        total = 0
        for path in self.folder.glob("[0-9]*.tif"):
            with suppress(FileNotFoundError):  # another process may be at work
                total += path.stat().st_size
        return total

    def free(self) -> int:
        """Bytes that the disk has left."""
        place = self.folder
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def _make(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise told(error, self.folder.parent.name) from error

    def _job(self) -> str | None:
        try:
            return str(json.loads((self.folder / "job.json").read_bytes())["job"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError):
            return ""

    def _empty(self) -> None:
        for path in self.folder.iterdir():
            if path.name != "lock":
                path.unlink()

    def _write(self, name: str, content: bytes) -> None:
        # Two workers may write one part, when one of them was given up too early: each aside, the last rename wins.
        aside = self.folder / f".{name}.{os.getpid()}.{threading.get_ident()}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            aside.write_bytes(content)
            os.replace(aside, self.folder / name)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise told(error, self.folder.name) from error

    def sweep(self) -> None:
        """Delete what a killed process had half written."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def told(error: OSError | NotImplementedError, place: str) -> ExportError:
    """An error of the disk in our words."""
    if isinstance(error, NotImplementedError):
        return ExportError(f"{place!r} cannot be locked: its file system has no locks", "Choose another output")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ExportError(f"the disk of {place!r} is full", "Make room and give the same command again: it goes on")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ExportError(f"{place!r} may not be written", "Choose another output")
    return ExportError(f"{place!r} cannot be written ({error.strerror or type(error).__name__})", "Look at the disk")


def check_output(out: Path) -> None:
    """Refuse an output that cannot be, before anything is read.

    Raises:
        RequestError: its folder is not there, it is a folder itself, or is not called .tif.
    """
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise RequestError(f"output {out.name!r} is not a GeoTIFF", "Give a name that ends in .tif")
    if out.is_dir():
        raise RequestError(f"output {out.name!r} is a folder", "Give the name of a file in it")
    if not out.parent.is_dir():
        raise RequestError(f"the folder of {out.name!r} is not there", "Make it first, or correct the path")


def _counted(array: NDArray[Any], product: Product) -> tuple[int, dict[str, int]]:
    """Pixels with data, and of classes those of each."""
    if not product.classes:
        return int(_has_data(array, product.nodata).sum()), {}
    numbers = np.zeros(256, np.int64)
    # No data too: picking out what has data first takes seven times as long. A few rows at a time: numpy makes eight
    # bytes of each, and memory that is new each time costs more than counting.
    for top in range(0, array.shape[1], 32):
        numbers += np.bincount(array[:, top : top + 32].ravel(), minlength=256)
    numbers[int(product.nodata)] = 0
    return int(numbers.sum()), {str(value): int(count) for value, count in enumerate(numbers) if count}


def _has_data(array: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    if np.isnan(nodata):
        return np.asarray(~np.isnan(array).all(axis=0))
    return np.asarray((array != nodata).any(axis=0))


def _encoded(array: NDArray[Any], product: Product, crs: CRS, transform: Affine) -> bytes:
    bands, height, width = array.shape
    # A part is read once more and thrown away: classes lie in runs, for which the quickest will do.
    packed = {"compress": "packbits"} if product.classes else {"compress": "deflate", "zlevel": 1}
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=bands, height=height, width=width, dtype=product.dtype, crs=crs, transform=transform,
            nodata=product.nodata, tiled=True, blockxsize=TILE, blockysize=TILE, interleave="band",
            bigtiff="if_safer", **packed,
        ) as part:  # fmt: skip
            part.write(array)
        return bytes(memory.read())
