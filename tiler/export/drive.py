"""Blocks through an executor, threads or a cluster's: what is missing is made, what is there is kept."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from affine import Affine

from tiler.errors import ReadError
from tiler.export.cog import job_in, path_of, write_cog
from tiler.export.order import Order
from tiler.export.parts import ExportError, Parts, Receipt
from tiler.export.plan import bounds_of
from tiler.export.session import Facts, Session, Stopped
from tiler.gdal import settle
from tiler.values import Output

# Seconds between two words of progress when no block has been finished meanwhile.
HEARTBEAT = 0.5

# How often a block is tried again when it could not be read: a network has hiccups.
TRIES = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an export stands.

    Attributes:
        stage: `checking` (what is there already), `inferring`, `writing` (the COG).
        blocks, done, kept: all; made or kept; kept from an earlier run.
        pixels, pixels_done: of the result; those kept do not count as done by this run.
        gsd: ground metres per pixel.
        seconds: since inferring began.
        cache_hits: cells that were found in the scores cache.
    """

    stage: str
    blocks: int
    done: int
    kept: int
    pixels: int
    pixels_done: int
    gsd: float
    seconds: float
    cache_hits: int = 0

    @property
    def rate(self) -> float:
        """Pixels of the result per second; 0 while unknown."""
        return self.pixels_done / self.seconds if self.seconds > 0 else 0.0

    @property
    def km2_per_second(self) -> float:
        """Square kilometres of ground per second."""
        return self.rate * self.gsd**2 / 1e6

    @property
    def seconds_left(self) -> float | None:
        """Until all blocks are inferred; None while unknown."""
        return (self.pixels - self.pixels_done) / self.rate if self.rate else None


@dataclass(frozen=True, slots=True)
class Result:
    """What an export has made.

    Attributes:
        files: by product.
        counts: pixels by class value.
        made, kept: blocks of this run, and of earlier ones.
        already: whether everything was there before.
    """

    files: dict[Output, Path]
    counts: dict[int, int]
    made: int
    kept: int
    already: bool = False


@dataclass(slots=True)
class _Held:
    """A session that stays open, and how many are at work with it."""

    session: Session
    using: int = 0


# By order. What is popped takes its count along: an order may hold large polygons, and must not stay.
_sessions: dict[str, _Held] = {}
_opening = threading.Lock()


@contextmanager
def at_hand(order: Order, session: Session) -> Iterator[None]:
    """Inside, block tasks of this process use a session that is open already."""
    text = order.to_json()
    with _opening:
        _sessions[text] = _Held(session, using=1)
    try:
        yield
    finally:
        with _opening:
            _sessions.pop(text, None)


def describe(text: str) -> Facts:
    """As a task: the facts of an order, as this worker sees it."""
    with _session(text) as session:
        return session.facts


def make(text: str, job: str, number: int, folder: str) -> Receipt:
    """As a task: one block's parts. Those that are there already, made by a worker that was given up, are kept.

    Raises:
        InferenceError: this worker sees another scene or model, or what went wrong with the block.
    """
    parts = Parts(Path(folder))
    with _session(text) as session:
        with _opening:  # counted once, by whoever comes first
            facts = session.facts
        if facts.job != job:
            raise ExportError(
                "a worker sees another scene, model or version than the others",
                "Give all workers the same files and the same packages",
            )
        if (kept := parts.valid(job, number)) is not None:
            return kept
        rect, grid = facts.blocks[number], facts.frame.grid
        arrays = session.block(rect)
        left, _, _, top = bounds_of(grid, rect)
        transform = Affine(grid.res_x, 0.0, left, 0.0, -grid.res_y, top)
        return parts.write(job, number, arrays, facts.products, grid.crs, transform)


@contextmanager
def _session(text: str) -> Iterator[Session]:
    with _opening:
        kept = _sessions.get(text)
        if kept is not None and not kept.using and not kept.session.is_current:
            # Of an earlier export: its scene is another one now.
            _sessions.pop(text).session.close()
        if text not in _sessions:
            # One model at a time: a worker that goes on to another export gives the last one's memory back. But two
            # exports may share a worker: what has tasks at work stays.
            for old in [old for old, held in _sessions.items() if not held.using]:
                _sessions.pop(old).session.close()
            # On a cluster this is the first that a worker hears of GDAL.
            settle(exporting=True)
            _sessions[text] = _Held(Session.open(Order.from_json(text)))
        held = _sessions[text]
        held.using += 1
    try:
        yield held.session
    finally:
        with _opening:
            held.using -= 1


def run(
    executor: Executor,
    order: Order,
    facts: Facts,
    out: Path,
    *,
    at_once: int,
    tell: Callable[[Progress], None] = lambda progress: None,
    stop: threading.Event | None = None,
    overwrite: bool = False,
    keep_parts: bool = False,
    hits: Callable[[], int] = lambda: 0,
    inferred: Callable[[], None] = lambda: None,
) -> Result:
    """Make what is missing, and put it together.

    Args:
        executor: runs `make`, in threads here or in processes elsewhere that see the same files.
        order, facts: what to make.
        out: path of the first product; see `cog.path_of`. Parts lie in `<out>.parts` beside it.
        at_once: blocks handed to the executor at a time.
        tell: hears of progress, in this thread.
        stop: ends the export when set; what is done stays.
        overwrite: whether files and parts of other exports are replaced.
        keep_parts: whether the parts stay.
        hits: gives `Progress.cache_hits`.
        inferred: called when no block is missing any more, before the files are put together.

    Raises:
        ExportError: something is in the way: another process, other files, the disk.
        InferenceError: what went wrong with a block. Other blocks that were finished stay.
        Stopped: `stop` was set.
    """
    stop = stop or threading.Event()
    first = facts.products[0]
    files = {product.name: path_of(out, product, first) for product in facts.products}
    parts = parts_of(out)
    check_not_input(order, files.values())
    missing = [product for product in facts.products if job_in(files[product.name]) != facts.job]
    if not missing:
        if not keep_parts:
            parts.discard(facts.job)
        return Result(files, {}, 0, len(facts.blocks), already=True)
    if not overwrite:
        for product in missing:
            if files[product.name].exists():
                raise ExportError(
                    f"{files[product.name].name!r} is there already and is not this export's",
                    "Choose another output, or use --overwrite",
                )
    lock = parts.claim(facts.job, overwrite=overwrite)
    try:
        parts.sweep()
        receipts, made = _all_blocks(executor, order, facts, parts, at_once, tell, stop, hits)
        inferred()
        progress = Progress(
            "writing", len(facts.blocks), len(facts.blocks), len(facts.blocks) - made, facts.pixels, facts.pixels,
            facts.frame.grid.gsd, 0.0,
        )  # fmt: skip
        for product in missing:
            tell(progress)
            if stop.is_set():
                raise Stopped
            write_cog(facts, product, receipts, parts, files[product.name])
        if not keep_parts:
            parts.remove()
    finally:
        lock.release()
    counts: dict[int, int] = {}
    for receipt in receipts:
        for value, count in receipt.counts.items():
            counts[int(value)] = counts.get(int(value), 0) + count
    return Result(files, dict(sorted(counts.items())), made, len(receipts) - made)


def _all_blocks(
    executor: Executor,
    order: Order,
    facts: Facts,
    parts: Parts,
    at_once: int,
    tell: Callable[[Progress], None],
    stop: threading.Event,
    hits: Callable[[], int],
) -> tuple[list[Receipt], int]:
    receipts: dict[int, Receipt] = {}
    total, gsd = len(facts.blocks), facts.frame.grid.gsd
    for number in range(total):
        if stop.is_set():
            raise Stopped
        if (receipt := parts.valid(facts.job, number)) is not None:
            receipts[number] = receipt
        if number % 64 == 0:
            tell(Progress("checking", total, len(receipts), len(receipts), facts.pixels, 0, gsd, 0.0))
    kept = len(receipts)
    todo = [number for number in range(total) if number not in receipts]
    wanted = sum(facts.blocks[number].pixels for number in todo)
    text, folder, begun = order.to_json(), str(parts.folder), time.monotonic()
    waiting, flying = iter(todo), dict[Future[Receipt], int]()
    tries: dict[int, int] = {}
    done = 0

    def told() -> None:
        seconds = time.monotonic() - begun
        tell(Progress("inferring", total, len(receipts), kept, wanted, done, gsd, seconds, hits()))

    try:
        while len(receipts) < total:
            if stop.is_set():
                raise Stopped
            while len(flying) < at_once and (following := next(waiting, None)) is not None:
                flying[executor.submit(make, text, facts.job, following, folder)] = following
            finished, _ = wait(flying, HEARTBEAT, FIRST_COMPLETED)
            for future in finished:
                number = flying.pop(future)
                error = future.exception()
                if isinstance(error, ReadError) and tries.get(number, 0) < TRIES:
                    tries[number] = tries.get(number, 0) + 1
                    flying[executor.submit(make, text, facts.job, number, folder)] = number
                    continue
                receipts[number] = future.result()
                done += facts.blocks[number].pixels
            told()
    except BaseException:
        for future in flying:
            future.cancel()
        raise
    return [receipts[number] for number in range(total)], len(todo)


def parts_of(out: Path) -> Parts:
    """The parts of an output: a folder beside it."""
    return Parts(out.absolute().with_name(f"{out.name}.parts"))


def check_not_input(order: Order, files: Iterable[Path]) -> None:
    """Refuse to replace what is read, whatever may be overwritten.

    Raises:
        ExportError: one of the files is one of the scenes, under whatever name.
    """
    for file in files:
        for scene in order.scenes:
            with suppress(OSError, ValueError):  # not there, or a source that is no file
                if os.path.samefile(file, scene.source):
                    raise ExportError(f"output {file.name!r} is the scene itself", "Choose another output")


def check_room(facts: Facts, parts: Parts) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        ExportError: with what is needed and what there is.
    """
    # What earlier runs have written need not find room again.
    need, free = facts.scratch + facts.size - parts.size(), parts.free()
    if need > free:
        raise ExportError(
            f"the export takes up to {need / 1e9:.3g} GB of disk, {free / 1e9:.3g} GB are free",
            "Make room, choose a smaller area, or go on without this check (--no-disk-check)",
        )
