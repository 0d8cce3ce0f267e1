"""An order opened in this process: engine, layers, frame and plan; and how a block's pixels come to be."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_registry.threads import default_threads, share
from tiler.assemble import Picture, confidence, wants
from tiler.catalog import Catalog
from tiler.engine import BATCH, Engine
from tiler.errors import BusyError, TooLargeError
from tiler.export.area import area_of
from tiler.export.frame import frame_of
from tiler.export.order import Order, SceneOrder, job_of
from tiler.export.plan import Frame, blocks, bounds_of, window_cells, windows
from tiler.export.products import Product, products_of
from tiler.layer import Layer
from tiler.predict import picture, plan
from tiler.scene import SceneRef, open_scene
from tiler.values import Cell, Mask, Rect, Scores, View
from tiler.waiting import Origin

# Samples of a warped view that are looked up together: each takes 16 bytes of coordinates.
VIEW_SAMPLES = 2**21

# Windows of one block task that are on their way, beyond what a device takes at once.
AHEAD = 2

# Of one block, of the product with most bytes per pixel.
BLOCK_BYTES = 64 * 2**20

# Blocks are listed beforehand.
MOST_BLOCKS = 2**20

# Seconds between tries when a server's own maps have filled the queue.
PATIENCE = 1.0

Arrays = dict[str, NDArray[Any]]


class Stopped(Exception):
    """The export was stopped on purpose."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the driver has to know of an order; plain values, so that a worker can tell it.

    Attributes:
        job: 12 hex digits that stand for everything that decides a byte of the result.
        revisions, runtime, precision: of the layers; all workers must agree.
        frame: the raster that comes out.
        products: its files.
        blocks: what is inferred and written at once, in pixels of the frame's grid.
        windows: pixels put through the model for all of it, halo included; 0 where that is not known beforehand.
        pixels: of the result that are wanted.
        tags: what the files say of themselves.
        attribution: who has to be named, or nobody.
        geometry: GeoJSON of the polygon in the frame's CRS, or None.
        registers: whether the result is on a layer's own grid, so that tiles can come from it.
        memory: bytes that the export takes beyond the model, about.
        scratch: bytes of disk that it takes at most, besides the result.
    """

    job: str
    revisions: tuple[str, ...]
    runtime: str
    precision: str
    frame: Frame
    products: tuple[Product, ...]
    blocks: tuple[Rect, ...]
    windows: int
    pixels: int
    tags: Mapping[str, str]
    attribution: str
    geometry: Mapping[str, Any] | None
    registers: bool
    memory: int
    scratch: int

    @property
    def size(self) -> int:
        """Bytes of the result at most: uncompressed, with overviews."""
        return sum(self.frame.region.pixels * product.pixel_bytes for product in self.products) * 4 // 3


class Session:
    """An order, opened. Thread-safe: several blocks may be made at the same time.

    Attributes:
        layers: one per scene.
        engine: infers.
        products, frame, area: what comes out.
        stop: set to end what runs soon.
    """

    def __init__(self, order: Order, layers: tuple[Layer, ...], engine: Engine) -> None:
        """Use layers and an engine that are there already: closing them is left to whoever made them.

        Args:
            order: what is wanted.
            layers: one per scene.
            engine: may serve maps, too.

        Raises:
            RequestError: an output, area or CRS that cannot be.
            MisfitError: scenes that make no mosaic, or 256 classes.
        """
        self.order, self.layers, self.engine = order, layers, engine
        self.products = products_of(layers[0], order.outputs)
        self.frame = frame_of(layers, order)
        self.area = area_of(self.frame.grid, bbox=order.bbox, bbox_crs=order.bbox_crs, aoi=order.aoi)
        self.frame = replace(self.frame, region=self.area.region)
        self.stop = threading.Event()
        self._own = ExitStack()
        devices = len(layers[0].loaded.devices)
        self._slots = threading.BoundedSemaphore(devices * (1 if order.device == "cpu" else BATCH) + AHEAD)

    @classmethod
    def open(cls, order: Order, engine: Engine | None = None) -> Session:
        """Open scenes and model.

        Args:
            order: what is wanted.
            engine: closed with the session; one with usual numbers of threads by default.

        Raises:
            SceneError, MisfitError, RequestError, ModelError: what keeps the order from being carried out.
        """
        engine = engine or Engine(
            cache_bytes=order.cache_bytes,
            picture_bytes=0,
            timeout=3600.0,
            max_pending_cells=2**20,
            read_threads=_readers(order),
        )
        catalog = Catalog(
            {} if order.registry else {"model": order.model},
            registry=order.registry,
            device=order.device,
            threads=order.threads,
            policy=order.precision,
            runtime=order.runtime,
            max_gsd_factor=order.max_gsd_factor,
            max_window_pixels=order.max_window_pixels,
            ttl=float("inf"),
            gsds={"model": order.gsds} if order.gsds else None,
        )
        with ExitStack() as own:
            own.callback(catalog.close)
            own.callback(engine.close)
            name = order.model if order.registry else "model"
            session = cls(order, tuple(_layer(catalog, name, scene) for scene in order.scenes), engine)
            session._own = own.pop_all()
        return session

    def close(self) -> None:
        """Stop, and free what the session has opened itself."""
        self.stop.set()
        self._own.close()

    @property
    def is_current(self) -> bool:
        """Whether the scenes are still what was opened."""
        return all(layer.scene.is_current for layer in self.layers)

    @property
    def whole(self) -> bool:
        """Whether blocks are inferred as they are: an exact model on its own grid. Else from cells."""
        layer = self.layers[0]
        alone = len(self.layers) == 1 and not layer.members
        return alone and self.frame.grid is layer.grid and layer.window_shape is None

    @cached_property
    def facts(self) -> Facts:
        """What the driver has to know; where there are many blocks and polygons, counting them takes a while."""
        layer, order, grid = self.layers[0], self.order, self.frame.grid
        revisions = tuple(item.revision for item in self.layers)
        parts = tuple(rect for rect in self._blocks() if self.area.touches(rect))
        geometry = self.area.geometry
        decides = (
            [(product.name, product.bands, product.nodata) for product in self.products],
            (grid.crs.to_wkt(), grid.transform, self.frame.region),
            (parts, geometry, order.resampling, order.attribution),
        )
        job = job_of(revisions, decides)
        runtimes = {(one.runner.runtime, one.runner.precision) for one in layer.loaded.networks}
        runtime, precision = runtimes.pop() if len(runtimes) == 1 else (order.runtime, order.precision or "")
        tags = {
            "REVISION": layer.revision if len(revisions) == 1 else "",
            "MODEL": layer.version or layer.model.name,
            "MODEL_DIGEST": layer.model.digest,
            "SCENE": ", ".join(item.scene.display_name for item in self.layers),
            "JOB": job,
            "EXACTNESS": layer.exactness,
        }
        registers = len(self.layers) == 1 and self.frame.grid is layer.grid
        block = max((rect.pixels for rect in parts), default=0)
        bands = len(layer.model.bands) * np.dtype(layer.model.input_dtypes[0]).itemsize
        window = order.max_window_pixels * (2 * bands + 4 * max(1, len(layer.model.classes)))
        return Facts(
            job=job,
            revisions=revisions,
            runtime=runtime,
            precision=precision,
            frame=self.frame,
            products=self.products,
            blocks=parts,
            windows=self._inferred(parts),
            pixels=sum(rect.pixels for rect in parts),
            tags=tags,
            attribution=order.attribution,
            geometry=geometry,
            registers=registers,
            memory=BLOCKS_AT_ONCE * 3 * block * sum(item.pixel_bytes for item in self.products)
            + 4 * window
            + (0 if self.whole else order.cache_bytes),
            scratch=sum(rect.pixels for rect in parts) * sum(item.pixel_bytes for item in self.products),
        )

    def seconds_per_pixel(self) -> float:
        """Wall seconds per pixel of the result on this machine, measured on a window (or view) of the middle block."""
        middle = self.facts.blocks[len(self.facts.blocks) // 2]
        side = 512
        rect = Rect(
            middle.row_off + max(0, middle.height - side) // 2,
            middle.col_off + max(0, middle.width - side) // 2,
            min(side, middle.height),
            min(side, middle.width),
        )
        if self.whole:
            step = self._steps()
            first = next(iter(windows(rect, self.frame.grid.cell, *step, self._origin())))
            rect = self.layers[0].grid.core_of(first.first, first.last)
        self.block(rect)
        self.engine.cache.clear()
        begun = time.monotonic()
        self.block(rect)
        return (time.monotonic() - begun) / rect.pixels

    def block(self, rect: Rect) -> Arrays:
        """A block's pixels by product, each [bands, rows, cols] as it stands in the file.

        Raises:
            ReadError, DeviceError: what went wrong.
            Stopped: the export was stopped.
        """
        arrays: Arrays = {item.name: item.empty(rect.height, rect.width) for item in self.products}
        mask = self.area.mask(rect)
        for place, pictures in self._inferred_pictures(rect, mask) if self.whole else self._looked_up(rect, mask):
            rows = slice(place.row_off - rect.row_off, place.row_off - rect.row_off + place.height)
            cols = slice(place.col_off - rect.col_off, place.col_off - rect.col_off + place.width)
            for product, shown in zip(self.products, pictures, strict=True):
                arrays[product.name][:, rows, cols] = product.encoded(shown)
        if mask is not None and not mask.all():
            for product in self.products:
                arrays[product.name][:, ~mask] = product.nodata
        return arrays

    def _blocks(self) -> list[Rect]:
        region = self.frame.region
        # An embedding has hundreds of bytes per pixel: memory is to hold three blocks of it, too.
        heaviest = max(item.pixel_bytes for item in self.products)
        side = max(256, min(self.order.block, math.isqrt(BLOCK_BYTES // heaviest)))
        down = across = side
        origin = region.row_off, region.col_off
        if self.whole:
            cell, first = self.frame.grid.cell, self._origin()
            down, across = (cell * step * max(1, round(side / (cell * step))) for step in self._steps())
            origin = first.row * cell, first.col * cell
        count = (region.height // down + 2) * (region.width // across + 2)
        if count > MOST_BLOCKS:
            raise TooLargeError(
                f"the export has {region.width} x {region.height} px, which are {count} blocks of {across} x {down} px",
                "Choose a smaller area, a coarser resolution or a larger block",
            )
        return blocks(region, down, across, *origin)

    def _origin(self) -> Cell:
        region, cell = self.frame.region, self.frame.grid.cell
        return Cell(region.row_off // cell, region.col_off // cell)

    def _steps(self) -> tuple[int, int]:
        """Cells along the sides of a window."""
        region, layer = self.frame.region, self.layers[0]
        cell = layer.grid.cell
        down = (region.row_off + region.height - 1) // cell - region.row_off // cell + 1
        across = (region.col_off + region.width - 1) // cell - region.col_off // cell + 1
        return window_cells(down, layer.shape), window_cells(across, layer.shape)

    def _inferred(self, parts: tuple[Rect, ...]) -> int:
        if not self.whole:
            return 0
        layer = self.layers[0]
        return sum(
            layer.window_of(block.first, block.last)[1].pixels
            for rect in parts
            for block in windows(rect, layer.grid.cell, *self._steps(), self._origin())
        )

    def _inferred_pictures(self, rect: Rect, mask: Mask | None) -> Iterator[tuple[Rect, list[Picture]]]:
        """Windows of an exact model as they come from the device, cut to the block."""
        layer = self.layers[0]
        everything = any(wants(layer, item.style) for item in self.products)
        todo = windows(rect, layer.grid.cell, *self._steps(), self._origin())
        flying: dict[Future[Scores], Rect] = {}
        try:
            for block in todo:
                core = layer.grid.core_of(block.first, block.last)
                if not _any_of(mask, rect, core):
                    continue
                while not self._slots.acquire(timeout=0.0 if flying else PATIENCE):
                    self._check()
                    # Others' blocks hold the slots, or one's own: whatever is ready makes room.
                    yield from self._landed(rect, flying, timeout=PATIENCE)
                try:
                    flying[self.engine.infer(layer, block, probabilities=everything)] = core
                except BaseException:
                    self._slots.release()
                    raise
            while flying:
                self._check()
                yield from self._landed(rect, flying, timeout=PATIENCE)
        finally:
            for future in flying:
                future.cancel()
                self._slots.release()

    def _check(self) -> None:
        if self.stop.is_set():
            raise Stopped

    def _landed(
        self, rect: Rect, flying: dict[Future[Scores], Rect], timeout: float
    ) -> Iterator[tuple[Rect, list[Picture]]]:
        done, _ = wait(flying, timeout, FIRST_COMPLETED)
        for future in done:
            core = flying.pop(future)
            self._slots.release()
            scores = future.result()
            place = _shared(rect, core, scores)
            inside = scores.cut(
                slice(place.row_off - core.row_off, place.row_off - core.row_off + place.height),
                slice(place.col_off - core.col_off, place.col_off - core.col_off + place.width),
            )
            yield place, [self._shown(product, inside) for product in self.products]

    def _shown(self, product: Product, scores: Scores) -> Picture:
        layer, height, width = self.layers[0], *scores.valid.shape
        planes: Any = scores.probabilities
        if product.name == "class":
            planes = None if scores.classes is None else scores.classes[None]
        elif product.name == "value":
            planes = scores.values
        elif product.name == "confidence":
            assert scores.classes is not None
            planes = confidence(layer, scores.classes, planes)[None]
        view = View((0, 0, 1, 1), layer.grid.crs, height, width)
        return Picture(view, product.style, planes, scores.valid, product.bands)

    def _looked_up(self, rect: Rect, mask: Mask | None) -> Iterator[tuple[Rect, list[Picture]]]:
        """Pieces of a block through cells, as a map's tiles: warped, blended, of an ensemble or of several scenes."""
        side = self._piece()
        for place in blocks(rect, side, side, rect.row_off, rect.col_off):
            self._check()
            if not _any_of(mask, rect, place):
                continue
            view = View(bounds_of(self.frame.grid, place), self.frame.grid.crs, place.height, place.width)
            found = [self._pictures(layer, view) for layer in self.layers]
            yield place, [_first_of(shown) for shown in zip(*found, strict=True)]

    def _piece(self) -> int:
        grid, own = self.frame.grid, self.layers[0].grid
        # However coarse the result is, what lies under a piece has a bound.
        side = max(1, math.isqrt(VIEW_SAMPLES) // max(1, math.ceil(grid.gsd / own.gsd)))
        # Cells of a model that is not exact are windows: pieces as large as they are share none needlessly.
        return side // own.cell * own.cell if grid is own and side > own.cell else side

    def _pictures(self, layer: Layer, view: View) -> list[Picture]:
        styles = [replace(item.style, resampling=self.order.resampling) for item in self.products]
        todo = plan(layer, view, styles[0], 2**62, 2**30)
        scores: dict[Cell, Scores] = {}
        if todo.cells:
            everything = any(wants(layer, style) for style in styles)
            # Never more than the engine takes: it would refuse them for ever.
            most = max(1, self.engine.max_pending_cells // 2)
            for start in range(0, len(todo.cells), most):
                scores |= self._scores(layer, todo.cells[start : start + most], everything)
        return [picture(replace(todo, style=style), scores) for style in styles]

    def _scores(self, layer: Layer, cells: list[Cell], everything: bool) -> dict[Cell, Scores]:
        while True:
            self._check()
            try:
                return self.engine.scores(layer, cells, probabilities=everything, origin=EXPORT).scores
            except BusyError:
                # Maps go first; an export has time, unless the engine is closing.
                if self.stop.wait(PATIENCE):
                    raise Stopped from None


EXPORT = Origin("export", export=True)

# Blocks that are in the making at the same time: one is read, one inferred, one written.
BLOCKS_AT_ONCE = 3


def _readers(order: Order) -> int:
    """Threads that read. Each decodes for itself what neighbouring windows share, so one is best where it keeps up."""
    local = all("://" not in scene.source and not scene.source.startswith("/vsi") for scene in order.scenes)
    return 1 if order.device == "cpu" and local else share(default_threads()).readers


def _layer(catalog: Catalog, name: str, scene: SceneOrder) -> Layer:
    named = SceneRef(scene.source, scene.bands)
    return catalog.layer(scene, name, lambda: open_scene(named, nodata=scene.nodata))


def _shared(rect: Rect, core: Rect, scores: Scores) -> Rect:
    """The pixels of a block that a window has answered; it may be larger than the block, or end at the scene's edge."""
    height, width = scores.valid.shape
    top, left = max(rect.row_off, core.row_off), max(rect.col_off, core.col_off)
    bottom = min(rect.row_off + rect.height, core.row_off + height)
    right = min(rect.col_off + rect.width, core.col_off + width)
    return Rect(top, left, bottom - top, right - left)


def _any_of(mask: Mask | None, rect: Rect, place: Rect) -> bool:
    """Whether anything is wanted of a place, which may reach beyond the rectangle of the mask."""
    if mask is None:
        return True
    top, left = max(0, place.row_off - rect.row_off), max(0, place.col_off - rect.col_off)
    bottom, right = place.row_off + place.height - rect.row_off, place.col_off + place.width - rect.col_off
    return bool(mask[top : max(0, bottom), left : max(0, right)].any())


def _first_of(pictures: tuple[Picture, ...]) -> Picture:
    """Pictures of one view laid over each other: each pixel from the first that has data there."""
    first, *others = pictures
    for other in others:
        if first.valid.all():
            break
        valid = first.valid | other.valid
        first = replace(first, values=np.where(first.valid, first.values, other.values), valid=valid)
    return first
