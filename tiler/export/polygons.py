"""The classes of a finished export as polygons; what it takes is told before anything is inferred."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model_registry.manifest import ModelClass
from tiler.errors import InferenceError, RequestError
from tiler.export.products import Product


@dataclass(frozen=True, slots=True)
class Outlines:
    """What is wanted.

    Attributes:
        out: ends in .gpkg, .fgb or .geojson.
        min_area: m2; smaller polygons join a neighbour.
        simplify: metres by which borders may move.
        overwrite: whether a file that is there is replaced.
    """

    out: Path
    min_area: float | None = None
    simplify: float | None = None
    overwrite: bool = False

    def check(self, raster: Path) -> None:
        """Refuse what cannot be written, before anything is inferred.

        Args:
            raster: the export that they will be made of; polygons beside one that is finished are its own.

        Raises:
            InferenceError: the extra is not installed.
            RequestError: another ending, a file that is there, numbers that are none.
        """
        try:
            from tiler.export.features import check_target
        except ImportError:
            raise InferenceError(
                "polygons need the extra `vector`", "pip install 'titiler-inference[vector]'"
            ) from None
        check_target(self.out, None)
        if self.out.exists() and not self.overwrite and not raster.exists():
            raise RequestError(f"{self.out.name!r} is already there", "Choose another name, or use --overwrite")

    def write(
        self,
        raster: Path,
        product: Product,
        progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    ) -> int:
        """Write them; returns how many.

        Args:
            raster: the export's classes.
            product: what they are.
            progress: see `vector.write_polygons`.
        """
        from tiler.export.vector import write_polygons

        return write_polygons(
            raster,
            self.out,
            classes=[ModelClass(value, name, color) for value, name, color in product.classes],
            min_area=self.min_area,
            simplify=self.simplify,
            overwrite=self.overwrite,
            progress=progress,
        )
