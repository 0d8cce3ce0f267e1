"""Exports that a server was asked for: one at a time behind the maps, each in a folder of its own that outlives it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from model_registry import ModelError, aside
from tiler.errors import BusyError, InferenceError, RequestError, TooLargeError, UnknownNameError
from tiler.export.drive import Progress
from tiler.export.local import Manner, export
from tiler.export.order import Order
from tiler.export.polygons import Outlines
from tiler.export.session import Session, Stopped
from tiler.layer import Layer

logger = logging.getLogger(__name__)

# Exports that may wait for the one that runs.
MOST_WAITING = 16

# Pixels of the rectangle around what is wanted, in those that one export may have.
MOST_AROUND = 4

ID = re.compile("[0-9a-f]{12}")

ENDED = ("finished", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks for.

    Attributes:
        name: of the files, without an ending.
        title: for people.
        order: what.
        layer: opened already.
        vector: `gpkg`, `fgb` or `geojson` of the classes, too; empty for none.
    """

    name: str
    title: str
    order: Order
    layer: Layer
    vector: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """Where a job stands.

    Attributes:
        status: queued, running, finished, failed or cancelled.
        progress: of the blocks, once it runs.
        error: why it failed.
        files: name and size in bytes of each result.
    """

    status: str
    progress: Progress | None = None
    error: str = ""
    files: tuple[tuple[str, int], ...] = ()


@dataclass(eq=False, slots=True)
class Job:
    """One export. `revisions` are the layers that it needs."""

    id: str
    title: str
    revisions: frozenset[str]
    created: float
    now: Status
    run: Callable[[Job], None] | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.now.status in ENDED


class Jobs:
    """The exports of one server. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        open_session: Callable[[Wish], Session],
        register: Callable[[Path], object],
        *,
        max_pixels: int,
        keep: int,
    ) -> None:
        """Take up what an earlier process has left: finished exports are there, others can be asked for again.

        Args:
            folder: results and parts; made if it is not there.
            open_session: over the server's own layers and engine.
            register: called with each finished file.
            max_pixels: of one export.
            keep: finished exports whose files stay; the oldest go first.

        Raises:
            InferenceError: the folder cannot be made.
        """
        self.folder, self.max_pixels, self.keep = folder, max_pixels, keep
        self._open_session, self._register = open_session, register
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._closing = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InferenceError(
                f"the folder for exports cannot be made ({error.strerror})", "Correct `exports` in the settings"
            ) from error
        self._find_earlier()
        self._worker = threading.Thread(target=self._work, name="exports", daemon=True)
        self._worker.start()

    @property
    def busy(self) -> frozenset[str]:
        """Revisions of layers that exports run on or wait for: their models must stay."""
        with self._lock:
            return frozenset(one for job in self._jobs.values() if not job.ended for one in job.revisions)

    def ask(self, wish: Wish) -> Job:
        """The job of a wish: one that is there already, made with the same pixels and options, or a new one.

        Raises:
            RequestError: an area, output or CRS that cannot be.
            TooLargeError: more pixels than one export may have.
            BusyError: too many wait already.
        """
        session = self._open_session(wish)
        around = session.frame.region.pixels
        if around > MOST_AROUND * self.max_pixels:
            # Even to count what is wanted of it would take long.
            raise self._too_large(around)
        facts = session.facts
        if facts.pixels > self.max_pixels:
            raise self._too_large(facts.pixels)
        if wish.vector and not facts.products[0].classes:
            raise RequestError("only classes become polygons", "Leave vector out")
        number = hashlib.sha256(f"{facts.job} {wish.vector}".encode()).hexdigest()[:12]
        with self._lock:
            there = self._jobs.get(number)
            # One that was deleted may still be at work: it is cleared away before the new one begins.
            if there is not None and not there.stop.is_set() and there.now.status not in ("failed", "cancelled"):
                return there
            if self._closing or sum(not job.ended for job in self._jobs.values()) > MOST_WAITING:
                raise BusyError(f"{MOST_WAITING} exports are waiting already", "Ask again later", retry_after=30)
            layers = (wish.layer, *wish.layer.members)
            job = Job(
                number, wish.title, frozenset(layer.revision for layer in layers), time.time(), Status("queued"),
                lambda job: self._export(job, wish, session),
            )  # fmt: skip
            self._jobs[number] = job
            self._jobs.move_to_end(number)
        self._queue.put(job)
        return job

    def _too_large(self, pixels: int) -> TooLargeError:
        return TooLargeError(
            f"the export has {pixels / 1e6:.0f} Mpx, the limit is {self.max_pixels / 1e6:.0f} Mpx",
            "Choose a smaller area, or use `tiler export`",
        )

    def get(self, number: str) -> Job:
        """A job by its id.

        Raises:
            UnknownNameError: there is none.
        """
        with self._lock:
            if number not in self._jobs:
                raise UnknownNameError(f"there is no export {number!r}", "GET /exports lists those there are")
            return self._jobs[number]

    def all(self) -> list[Job]:
        """All jobs, the newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def cancel(self, number: str) -> Job:
        """Stop a job, and delete its files, also those of one that is finished."""
        job = self.get(number)
        job.stop.set()
        with self._lock:
            # One that runs is cleared away by its own thread, once it has let go.
            if job.now.status != "running":
                job.now = Status("cancelled")
                self._clear(job)
        return job

    def path(self, number: str, name: str) -> Path:
        """Where a finished job's file is.

        Raises:
            UnknownNameError: it has no such file.
        """
        job = self.get(number)
        if job.now.status != "finished" or name not in dict(job.now.files):
            raise UnknownNameError(f"export {number!r} has no file {name!r}", f"GET /exports/{number} lists its files")
        return self.folder / job.id / name

    def close(self) -> None:
        """Stop what runs; its parts stay for the next process."""
        with self._lock:
            self._closing = True
            for job in self._jobs.values():
                if not job.ended:
                    job.stop.set()
        self._queue.put(None)
        self._worker.join()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if not job.stop.is_set() and job.run is not None:
                job.run(job)
            job.run = None  # a finished job must not keep its model in memory
            with self._lock:
                if job.stop.is_set() and not self._closing:
                    job.now = Status("cancelled")
                    self._clear(job)
                self._forget_oldest()

    def _export(self, job: Job, wish: Wish, session: Session) -> None:
        place = self.folder / job.id
        out = place / f"{wish.name}.tif"

        def tell(progress: Progress) -> None:
            job.now = Status("running", progress)

        job.now = Status("running")
        try:
            place.mkdir(exist_ok=True)
            aside.write_json(place / "job.json", {"title": job.title, "created": job.created, "files": None})
            outlines = Outlines(place / f"{wish.name}.{wish.vector}", overwrite=True) if wish.vector else None
            if outlines is not None:
                outlines.check(out)
            done = export(wish.order, out, Manner(overwrite=True), session=session, tell=tell, stop=job.stop)
            files = list(done.files.values())
            if outlines is not None:
                outlines.write(out, session.products[0], lambda *_: _go_on(job))
                files.append(outlines.out)
            for path in done.files.values():
                self._go_live(path)
            told = tuple((path.name, path.stat().st_size) for path in files)
            aside.write_json(place / "job.json", {"title": job.title, "created": job.created, "files": told})
            job.now = replace(job.now, status="finished", files=told)
        except Stopped:
            job.now = replace(job.now, status="cancelled")
        except (InferenceError, ModelError) as error:
            job.now = replace(job.now, status="failed", error=str(error))
        except Exception as error:  # whoever waits must hear of it, whatever it is
            logger.exception("export %s failed", job.id)
            job.now = replace(job.now, status="failed", error=f"The export failed ({type(error).__name__}).")

    def _go_live(self, path: Path) -> None:
        try:
            self._register(path)
        except (InferenceError, OSError) as error:
            # The result is there all the same.
            logger.error("maps will not use %s: %s", path.name, error)

    def _find_earlier(self) -> None:
        found = [_found_in(place) for place in self.folder.iterdir() if ID.fullmatch(place.name) and place.is_dir()]
        for job in sorted(found, key=lambda job: job.created):
            self._jobs[job.id] = job
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        ended = [job for job in self._jobs.values() if job.ended]
        for job in ended[: max(0, len(ended) - self.keep)]:
            self._clear(job)
            del self._jobs[job.id]

    def _clear(self, job: Job) -> None:
        shutil.rmtree(self.folder / job.id, ignore_errors=True)


def _go_on(job: Job) -> None:
    if job.stop.is_set():
        raise Stopped


def _found_in(place: Path) -> Job:
    """What an earlier process has left: a finished export, or the parts of one that can be asked for again."""
    told: Any = aside.read_json(place / "job.json")
    try:
        title, created = str(told["title"]), float(told["created"])
        files = tuple((str(name), int(size)) for name, size in told["files"] or ())
    except (TypeError, ValueError, LookupError, OverflowError):
        title, created, files = "", place.stat().st_mtime, ()
    if files and all((place / name).is_file() for name, _ in files):
        return Job(place.name, title, frozenset(), created, Status("finished", files=files))
    error = "The server was stopped before it was finished. Ask for it again: it goes on."
    return Job(place.name, title, frozenset(), created, Status("failed", error=error))


def told(job: Job, base: str) -> dict[str, Any]:
    """A job in JSON's values; `base` is the address of all exports."""
    now, where = job.now, job.now.progress
    body: dict[str, Any] = {
        "id": job.id,
        "title": job.title,
        "status": now.status,
        "created": job.created,
        "stage": where.stage if where else None,
        "blocks": where.blocks if where else None,
        "done": where.done if where else 0,
        "pixels_per_second": round(where.rate) if where else None,
        "km2_per_second": round(where.km2_per_second, 4) if where else None,
        "seconds_left": None if where is None or where.seconds_left is None else round(where.seconds_left, 1),
        "cache_hits": where.cache_hits if where else 0,
        "links": {"self": f"{base}/{job.id}", "events": f"{base}/{job.id}/events"},
        "files": [{"name": name, "size": size, "href": f"{base}/{job.id}/files/{name}"} for name, size in now.files],
    }
    if now.error:
        body["error"] = now.error
    return body


def as_event(body: dict[str, Any]) -> str:
    """One message of a stream of server-sent events (WHATWG HTML 9.2)."""
    return f"data: {json.dumps(body)}\n\n"
