"""Square metres on the ground, of pixels and of polygons, in any CRS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS as ProjCRS
from pyproj import Transformer
from rasterio.crs import CRS

from tiler.scene import ground_metres_per_unit

Floats = NDArray[np.float64]

# Longer edges are divided before they are drawn in another projection, where they are no longer straight.
DENSIFY_PIXELS = 64


@dataclass(frozen=True, slots=True)
class Ground:
    """Measures on an upright raster.

    National grids and UTM are meant to be read in their own metres, as for a scene's resolution (`tiler.scene`). In
    degrees, and where a projection stretches the ground (Web Mercator), areas are those on the WGS84 ellipsoid, by an
    equal-area projection around the raster: Lambert's cylindrical one for degrees, where pixels stay rectangles, else
    Lambert's azimuthal one (Snyder, Map Projections: A Working Manual, 1987).

    Attributes:
        metres_per_pixel: ground metres along (x, y) in the raster's middle.
        transform, height, width: of the raster.
        square_metres_per_unit: of one square unit of the CRS; None where that differs from place to place, and
        to_equal_area: leads to metres of the equal-area projection instead.
    """

    metres_per_pixel: tuple[float, float]
    transform: Affine
    height: int
    width: int
    square_metres_per_unit: float | None
    to_equal_area: Transformer | None

    def pixel_areas(self) -> Floats:
        """Square metres of a pixel of each row: float64 [height]; measured in the middle column."""
        a, e = self.transform.a, self.transform.e
        if self.square_metres_per_unit is not None:
            return np.full(self.height, abs(a * e) * self.square_metres_per_unit)
        column = self.width // 2
        left, right = self.transform.c + column * a, self.transform.c + (column + 1) * a
        ys = self.transform.f + np.arange(self.height + 1) * e
        x, y = self._equal_area(np.repeat([left, right], len(ys)), np.tile(ys, 2))
        corners = np.stack([x, y], axis=1).reshape(2, len(ys), 2)
        one, two = corners[0, :-1] - corners[1, 1:], corners[1, :-1] - corners[0, 1:]
        found: Floats = np.abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]) / 2
        return found

    def areas(self, polygons: NDArray[np.object_]) -> Floats:
        """Square metres of polygons in the raster's CRS: float64 [polygons]."""
        if self.square_metres_per_unit is not None:
            return np.asarray(shapely.area(polygons)) * self.square_metres_per_unit
        longest = DENSIFY_PIXELS * max(abs(self.transform.a), abs(self.transform.e))
        dense = shapely.segmentize(polygons, longest)
        return np.asarray(shapely.area(shapely.transform(dense, self._equal_area, interleaved=False)))

    def _equal_area(self, x: Floats, y: Floats) -> tuple[Any, Any]:
        assert self.to_equal_area is not None
        found: tuple[Any, Any] = self.to_equal_area.transform(x, y)
        return found


def ground_of(crs: CRS, transform: Affine, height: int, width: int) -> Ground:
    """The measures of an upright raster of `height` x `width` pixels."""
    x, y = transform.c + transform.a * width / 2, transform.f + transform.e * height / 2
    along_x, along_y = ground_metres_per_unit(crs, x, y)
    metres = abs(transform.a) * along_x, abs(transform.e) * along_y
    if not crs.is_geographic and along_x == along_y == float(crs.linear_units_factor[1]):
        return Ground(metres, transform, height, width, along_x * along_y, None)
    source = ProjCRS.from_wkt(crs.to_wkt())
    lon, lat = Transformer.from_crs(source, "EPSG:4326", always_xy=True).transform(x, y)
    projection = f"+proj=cea +lon_0={lon}" if crs.is_geographic else f"+proj=laea +lat_0={lat} +lon_0={lon}"
    equal_area = ProjCRS.from_proj4(f"{projection} +datum=WGS84 +units=m")
    return Ground(metres, transform, height, width, None, Transformer.from_crs(source, equal_area, always_xy=True))
