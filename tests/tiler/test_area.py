"""Boxes and polygons on a grid, compared with shapely's and GDAL's answer for each pixel's centre."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.features import rasterize

from tiler.errors import OutsideError, RequestError
from tiler.export.aoi import filled, read_aoi
from tiler.export.area import Area, area_of, area_of_box, area_of_polygon, parse_bbox
from tiler.grid import Grid
from tiler.values import Rect

shapely = pytest.importorskip("shapely")


def grid_of(
    crs: str = "EPSG:32632", left: float = 500_000, top: float = 5_600_000, res: float = 10, size=(60, 80)
) -> Grid:
    height, width = size
    return Grid(CRS.from_string(crs), left, top, res, res, height, width, cell=32, align=8, halo=8, gsd=10, native=True)


def polygon(*rings: list[tuple[float, float]], crs: str | None = None) -> dict[str, Any]:
    shape: dict[str, Any] = {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]}
    return shape if crs is None else {**shape, "crs": {"type": "name", "properties": {"name": crs}}}


def whole(area: Area) -> NDArray[np.bool_]:
    mask = area.mask(area.region)
    assert mask is not None
    return mask


def test_without_words_it_is_the_whole_scene() -> None:
    area = area_of(grid_of())
    assert (area.region, area.geometry, area.mask(area.region)) == (Rect(0, 0, 60, 80), None, None)


@pytest.mark.parametrize(
    ("bbox", "rect"),
    [
        ("500000,5599400,500800,5600000", Rect(0, 0, 60, 80)),
        ("500100,5599900,500200,5599950", Rect(5, 10, 5, 10)),
        ("500106,5599900,500204,5599950", Rect(5, 11, 5, 9)),
        ("499000,5599990,500010,5700000", Rect(0, 0, 1, 1)),
        ("500104,5599944,500106,5599946", Rect(5, 10, 1, 1)),
    ],
)
def test_a_pixel_is_in_a_box_if_its_centre_is(bbox: str, rect: Rect) -> None:
    assert area_of(grid_of(), bbox=parse_bbox(bbox), bbox_crs="EPSG:32632").region == rect


def test_a_box_in_degrees_is_the_box_around_it() -> None:
    grid = grid_of(left=600_000)
    to_degrees = Transformer.from_crs(32632, 4326, always_xy=True)
    left, bottom, right, top = to_degrees.transform_bounds(600_100, 5_599_500, 600_300, 5_599_800)
    region = area_of(grid, bbox=(left, bottom, right, top)).region
    assert (region.row_off, region.col_off) <= (20, 10)
    assert region.row_off + region.height >= 50 and region.col_off + region.width >= 30
    assert region.pixels < 1.2 * 30 * 20


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"bbox": "1,2,3"}, "four numbers"),
        ({"bbox": "1,2,3,nan"}, "four numbers"),
        ({"bbox": "179,50,-179,51"}, "180th meridian"),
        ({"bbox": "9,50,9,51"}, "empty"),
        ({"bbox": "9,51,10,50"}, "empty"),
        ({"bbox": "50,500000,51,500100"}, "latitudes"),
        ({"bbox": "1,2,3,4", "bbox_crs": "EPSG:99"}, "EPSG:99"),
        ({"bbox": "1,2,3,4", "aoi": {"type": "Polygon"}}, "both"),
    ],
)
def test_words_that_cannot_be_meant(words: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told) as error:
        area_of(grid_of(), **{**words, "bbox": parse_bbox(words["bbox"])})
    assert error.value.remedy


def test_a_file_that_is_not_there_is_told_by_its_name() -> None:
    with pytest.raises(RequestError, match="'none.geojson' cannot be read") as error:
        read_aoi(Path("folder/none.geojson"))
    assert error.value.remedy and "folder" not in str(error.value)


def test_a_box_beside_the_scene_is_told_where_the_scene_is() -> None:
    with pytest.raises(OutsideError, match=r"9,50.5.*The scene is at 9,50\.5"):
        area_of_box(grid_of(), (8, 50.5, 9, 50.5001))
    with pytest.raises(OutsideError):
        area_of_box(grid_of(), (500_101, 5_599_941, 500_104, 5_599_949), CRS.from_epsg(32632))


def test_the_mask_does_not_depend_on_the_rectangle() -> None:
    """Vertices on centres of pixels, so that edges run through many centres."""
    random = np.random.default_rng(0)
    grid = grid_of()
    for number in range(20):
        points = [
            (500_005 + 10 * int(col), 5_599_995 - 10 * int(row))
            for row, col in zip(random.integers(-9, 70, 7), random.integers(-9, 90, 7), strict=True)
        ]
        area = area_of_polygon(grid, polygon(points, crs="urn:ogc:def:crs:EPSG::32632"))
        full = area.mask(Rect(0, 0, 60, 80))
        assert full is not None
        region = area.region
        inside = np.zeros_like(full)
        inside[region.row_off : region.row_off + region.height, region.col_off : region.col_off + region.width] = True
        assert not (full & ~inside).any()
        for height, width in ((1, 1) if not number else (5, 9), (7, 11), (16, 80), (60, 3)):
            parts = np.zeros_like(full)
            for row in range(0, 60, height):
                for col in range(0, 80, width):
                    part = area.mask(Rect(row, col, min(height, 60 - row), min(width, 80 - col)))
                    assert part is not None
                    parts[row : row + height, col : col + width] = part
            assert (parts == full).all()


def test_neighbours_share_every_pixel_out() -> None:
    """Whatever centres lie on the common border, each belongs to one of the two."""
    random = np.random.default_rng(1)
    rect = Rect(0, 0, 40, 40)
    for _ in range(50):
        border = np.sort(random.integers(0, 41, 6)) + 0.5
        line = np.stack([random.integers(5, 35, 6) + 0.5, border], axis=1)
        line[0, 1], line[-1, 1] = 0, 40
        west = np.concatenate([[[0, 0]], line, [[0, 40], [0, 0]]])
        east = np.concatenate([line[::-1], [[40, 0], [40, 40]], line[-1:]])
        count = filled([west], rect).astype(int) + filled([east], rect)
        assert (count == 1).all()


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:3857", "EPSG:4326"])
def test_against_shapely_with_holes_and_parts(crs: str) -> None:
    if crs == "EPSG:4326":
        grid = grid_of(crs, 9.0, 50.5, 0.0001)
    else:
        grid = grid_of(crs, 500_000 if "32" in crs else 1_000_000, 5_600_000 if "326" in crs else 6_540_000)
    left, bottom, right, top = grid.bounds
    to_degrees = Transformer.from_crs(crs, 4326, always_xy=True)

    def at(share_x: float, share_y: float) -> tuple[float, float]:
        return to_degrees.transform(left + share_x * (right - left), top - share_y * (top - bottom))

    shape = polygon(
        [at(0.1, 0.1), at(0.9, 0.21), at(0.7, 0.83), at(0.2, 0.7)], [at(0.4, 0.3), at(0.6, 0.35), at(0.5, 0.61)]
    )
    other = polygon([at(0.05, 0.8), at(0.5, 0.6), at(0.45, 0.99)])
    both = {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "properties": {}, "geometry": item} for item in (shape, other)],
    }
    area = area_of_polygon(grid, both)
    rows, cols = np.mgrid[:60, :80]
    lon, lat = to_degrees.transform(left + (cols + 0.5) * grid.res_x, top - (rows + 0.5) * grid.res_y)
    joined = shapely.union(shapely.geometry.shape(shape), shapely.geometry.shape(other))
    expected = shapely.contains_xy(joined, lon, lat)
    found = area.mask(Rect(0, 0, 60, 80))
    assert found is not None
    assert 500 < expected.sum() < 4000
    assert (found == expected).all()
    # What is put into the tags says the same.
    assert area.geometry is not None
    by_gdal = rasterize([area.geometry], (60, 80), transform=grid.transform).astype(bool)
    assert (by_gdal != found).sum() <= 3


def test_long_edges_are_bent_as_they_must() -> None:
    """A parallel of 300 km is far from straight in UTM."""
    grid = grid_of(left=300_000, top=6_700_000, res=500, size=(400, 800))
    area = area_of_polygon(grid, polygon([(6, 59.6), (12, 59.6), (12, 60.2), (6, 60.2)]))
    rows, cols = np.mgrid[:400, :800]
    lon, lat = Transformer.from_crs(32632, 4326, always_xy=True).transform(
        300_000 + (cols + 0.5) * 500, 6_700_000 - (rows + 0.5) * 500
    )
    expected = (lon > 6) & (lon < 12) & (lat > 59.6) & (lat < 60.2)
    found = area.mask(Rect(0, 0, 400, 800))
    assert found is not None
    assert (found != expected).sum() <= 20
    assert expected.sum() > 50_000


def test_a_polygon_as_large_as_the_world() -> None:
    """Its corners have no place in UTM; near the scene it has."""
    world = polygon(
        [(-180, -90), (180, -90), (180, 90), (-180, 90)], [(9.004, 50.4), (30, 50.4), (30, 50.6), (9.004, 50.6)]
    )
    area = area_of_polygon(grid_of(), world)
    mask = whole(area)
    to_utm = Transformer.from_crs(4326, 32632, always_xy=True)
    east = int((to_utm.transform(9.004, 50.547)[0] - 500_000) // 10)
    assert mask[30, : east - 1].all() and not mask[30, east + 2 :].any()


def test_a_polygon_through_the_pole() -> None:
    grid = grid_of("EPSG:3031", -40_000, 30_000, 1000)
    area = area_of_polygon(grid, polygon([(-180, -90), (0, -90), (0, -80), (-180, -80)]))
    mask = area.mask(Rect(0, 0, 60, 80))
    assert mask is not None
    # West of Greenwich is the left half of the map.
    assert mask[:, :39].all() and not mask[:, 41:].any()


def test_legacy_crs_and_a_file(tmp_path: Path) -> None:
    ring = [(500_100.0, 5_599_900.0), (500_200.0, 5_599_900.0), (500_200.0, 5_599_950.0), (500_100.0, 5_599_950.0)]
    path = tmp_path / "aoi.geojson"
    path.write_text("\ufeff" + json.dumps(polygon(ring, crs="urn:ogc:def:crs:EPSG::32632")), encoding="utf-8")
    area = area_of(grid_of(), aoi=read_aoi(path))
    assert area.region == Rect(5, 10, 5, 10)
    assert whole(area).all()
    lonlat = polygon([(8.99, 50.5), (9.01, 50.5), (9.01, 50.6), (8.99, 50.6)], crs="urn:ogc:def:crs:OGC:1.3:CRS84")
    assert whole(area_of_polygon(grid_of(), lonlat)).all()


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "FeatureCollection", "features": []},
        {"type": "Feature", "geometry": None},
        {"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]},
        {"type": "Polygon", "coordinates": [[["a", 2], [3, 4], [5, 6]]]},
        {"type": "Polygon", "coordinates": [[[1, float("inf")], [3, 4], [5, 6]]]},
        {"type": "Polygon", "coordinates": 3},
        {"type": "Polygon"},
        {**polygon([(1, 2), (3, 4), (5, 6)]), "crs": "EPSG:4326"},
        {**polygon([(1, 2), (3, 4), (5, 6)]), "crs": {"type": "name", "properties": {"name": "nowhere"}}},
    ],
)
def test_what_is_no_polygon_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as error:
        area_of_polygon(grid_of(), document)
    assert error.value.remedy


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000])
def test_what_is_no_geojson_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(RequestError, match=r"'a\.geojson'") as error:
        read_aoi(tmp_path / "a.geojson")
    assert str(tmp_path) not in str(error.value)


def test_a_polygon_beside_the_scene_or_between_its_centres() -> None:
    for ring in (
        [(20, 50), (21, 50), (21, 51)],
        [(9.0000001, 50.549), (9.0000002, 50.549), (9.0000002, 50.5491)],
    ):
        with pytest.raises(OutsideError, match="The scene is at"):
            area_of_polygon(grid_of(), polygon(ring))
