"""Features on their way into a GeoPackage, FlatGeobuf or GeoJSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from affine import Affine
from pyogrio.errors import CRSError, DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError
from pyproj import CRS as ProjCRS
from pyproj import Transformer
from rasterio.crs import CRS

from model_registry.manifest import ModelClass
from tiler.errors import InferenceError, RequestError
from tiler.export.ground import Ground
from tiler.export.trace import Shapes
from tiler.scene import WGS84
from tiler.values import Classes, hex_of

DRIVERS = {".gpkg": "GPKG", ".fgb": "FlatGeobuf", ".geojson": "GeoJSON"}
LAYER = "classes"
# Features, or vertices, that are written together.
BATCH = 20_000
BATCH_VERTICES = 500_000
NO_COLOR = "#808080"


def check_target(out: Path, crs: CRS | None) -> None:
    """Refuse what cannot be written before anything is read.

    Raises:
        RequestError: an ending that none of the formats has, a folder that is not there, GeoJSON in another CRS.
    """
    if out.suffix.lower() not in DRIVERS:
        raise RequestError(
            f"{out.name!r} does not end like a file of polygons", f"Use one of {', '.join(DRIVERS)} as its ending"
        )
    if not out.parent.is_dir():
        raise RequestError(f"the folder of {out.name!r} is not there", "Make it first")
    if out.suffix.lower() == ".geojson" and crs is not None and crs != WGS84:
        raise RequestError(
            f"GeoJSON is always in WGS84 (RFC 7946), not in {crs.to_string()[:40]}",
            "Leave the CRS out, or write a .gpkg or .fgb",
        )


class FeatureFile:
    """Takes polygons in batches; the file has its final name when it is complete.

    Batches go into a GeoPackage, the one format of the three that takes more whenever there is more; the two others are
    made from it in one stream. GDAL turns GeoJSON to WGS84 (RFC 7946), with 7 decimals, 1 cm.

    Attributes:
        count: features so far.
    """

    def __init__(
        self,
        out: Path,
        aside: Path,
        source: CRS,
        target: CRS | None,
        transform: Affine,
        ground: Ground,
        classes: Sequence[ModelClass],
        tags: Mapping[str, str],
    ) -> None:
        """Write to `out` in the CRS `target` (or `source`); `aside` is a folder on the same disk for what is not done.

        `transform` leads from (column, row) to coordinates of `source`, `ground` measures them. `tags` that say where
        the prediction comes from become metadata of the layer.
        """
        self._out, self._aside, self._ground, self._affine = out, aside, ground, transform
        wkt = (target or source).to_wkt()
        self._crs = wkt
        self._move = None
        if target is not None and target != source:
            ends = ProjCRS.from_wkt(source.to_wkt()), ProjCRS.from_wkt(wkt)
            self._move = Transformer.from_crs(*ends, always_xy=True)
        self._names = {item.value: item.name for item in classes}
        self._colors = {item.value: hex_of(item.color) for item in classes}
        self._tags = {key: value for key, value in tags.items() if key.startswith("TITILER_INFERENCE_")}
        self._held: list[tuple[Shapes, Classes]] = []
        self._vertices = 0
        self._package = aside / "polygons.gpkg"
        self._written = False
        self.count = 0

    def add(self, shapes: Shapes, numbers: Classes) -> None:
        """Take polygons in pixel coordinates (x = column, y = -row) and the class of each."""
        self._held.append((shapes, numbers))
        self.count += len(shapes)
        self._vertices += int(shapely.get_num_coordinates(shapes).sum())
        if sum(len(held) for held, _ in self._held) >= BATCH or self._vertices >= BATCH_VERTICES:
            self._flush()

    def finish(self) -> None:
        """Write what is left, and give the file its name.

        Raises:
            InferenceError: it cannot be written, say because the disk is full.
        """
        if self._held or not self._written:
            self._flush()
        done, driver = self._package, DRIVERS[self._out.suffix.lower()]
        if driver != "GPKG":
            done = self._aside / f"written{self._out.suffix.lower()}"
            options: dict[str, Any] = {"RFC7946": "YES"} if driver == "GeoJSON" else {}
            with _writing(self._out), pyogrio.open_arrow(self._package, layer=LAYER) as (meta, stream):
                pyogrio.write_arrow(
                    stream,
                    done,
                    layer=LAYER,
                    driver=driver,
                    geometry_name=meta["geometry_name"] or "wkb_geometry",
                    geometry_type="Polygon",
                    crs=meta["crs"],
                    layer_metadata=self._tags if driver == "FlatGeobuf" else None,
                    layer_options=options,
                )
        os.replace(done, self._out)

    def _flush(self) -> None:
        shapes = np.concatenate([shapes for shapes, _ in self._held] or [np.empty(0, object)])
        numbers = np.concatenate([numbers for _, numbers in self._held] or [np.empty(0, np.uint8)])
        self._held.clear()
        self._vertices = 0
        a, e, c, f = self._affine.a, self._affine.e, self._affine.c, self._affine.f
        shapes = shapely.transform(shapes, lambda points: points * (a, -e) + (c, f))
        areas = self._ground.areas(shapes)
        if self._move is not None:
            shapes = shapely.transform(shapes, self._move.transform, interleaved=False)
            if not np.isfinite(shapely.bounds(shapes)).all():
                raise RequestError("some of the polygons have no place in the CRS that was asked for", "Choose another")
        values = numbers.tolist()
        with _writing(self._out):
            pyogrio.raw.write(
                self._package,
                shapely.to_wkb(shapes),
                [
                    numbers.astype(np.int32),
                    np.array([self._names.get(value, str(value)) for value in values], object),
                    areas,
                    np.array([self._colors.get(value, NO_COLOR) for value in values], object),
                ],
                ["class", "name", "area_m2", "color"],
                layer=LAYER,
                driver="GPKG",
                geometry_type="Polygon",
                crs=self._crs,
                append=self._written,
                layer_metadata=None if self._written else self._tags,
            )
        self._written = True


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except (CRSError, DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError, OSError) as error:
        raise InferenceError(
            f"{out.name!r} could not be written ({type(error).__name__})",
            "Check the space and the rights in its folder",
        ) from error
