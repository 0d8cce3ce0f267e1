"""What is to be exported, in words that another process understands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from model_registry.candidates import Policy, RuntimeWish
from tiler.layer import MAX_GSD_FACTOR, MAX_WINDOW_PIXELS
from tiler.values import Output, Resampling

# Raise this when parts of an older version must not be mixed with new ones.
PARTS_VERSION = 1


@dataclass(frozen=True, slots=True)
class SceneOrder:
    """One scene: what GDAL opens, and what the user says of it. May hold credentials: never shown."""

    source: str = field(repr=False)
    bands: tuple[int, ...] | None = None
    nodata: float | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """An export as asked for. JSON both ways, so that a worker elsewhere opens the same.

    Attributes:
        scenes: several make one mosaic, the first that has data wins.
        model: folder with model.yaml, ONNX file, or a name in the registry.
        registry: folder or URL of a registry, or None.
        gsds: absolute resolutions (metres) of a multi-zoom ensemble of the model; empty for the model alone.
        outputs: what is written, each into a file of its own; the first is the one that `-o` names.
        bbox: (left, bottom, right, top) in `bbox_crs`, or None.
        bbox_crs: any CRS that GDAL knows.
        aoi: a GeoJSON object with polygons, or None.
        gsd: ground metres per pixel of the result; None for the grid's own.
        crs: CRS of the result; None for the scene's own.
        resampling: how the result is warped where it is not on the grid itself.
        device, threads, runtime, precision: see `Catalog`.
        max_gsd_factor, max_window_pixels: see `layer.fit`.
        attribution: who has to be named; stands in the files' tags.
        block: pixels along each side of a part, about.
        cache_bytes: of scores that blocks share, for models that are not exact and for warped results.
    """

    scenes: tuple[SceneOrder, ...]
    model: str = field(repr=False)
    registry: str | None = field(default=None, repr=False)
    gsds: tuple[float, ...] = ()
    outputs: tuple[Output, ...] = ()
    bbox: tuple[float, float, float, float] | None = None
    bbox_crs: str = "EPSG:4326"
    aoi: Mapping[str, Any] | None = None
    gsd: float | None = None
    crs: str | None = None
    resampling: Resampling = "nearest"
    device: str = "cpu"
    threads: int | None = None
    runtime: RuntimeWish = "auto"
    precision: Policy | None = None
    max_gsd_factor: float = MAX_GSD_FACTOR
    max_window_pixels: int = MAX_WINDOW_PIXELS
    attribution: str = ""
    block: int = 2048
    cache_bytes: int = 128 * 2**20

    def to_json(self) -> str:
        """The order as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Order:
        """What `to_json` wrote."""
        told = json.loads(text)
        told["scenes"] = tuple(
            SceneOrder(item["source"], tuple(item["bands"]) if item["bands"] else None, item["nodata"])
            for item in told["scenes"]
        )
        for name in ("gsds", "outputs"):
            told[name] = tuple(told[name])
        told["bbox"] = tuple(told["bbox"]) if told["bbox"] else None
        return cls(**told)


def job_of(revisions: tuple[str, ...], decides: object) -> str:
    """12 hex digits that tell exports apart: the layers' revisions and whatever else decides a byte of the result."""
    return hashlib.sha256(repr((PARTS_VERSION, revisions, decides)).encode()).hexdigest()[:12]
