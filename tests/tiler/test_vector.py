"""Polygons of a class raster, compared with GDAL's of the whole raster, and with the merging rule word by word."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")
pytest.importorskip("scipy")

from pyproj import Geod  # noqa: E402
from rasterio.crs import CRS  # noqa: E402
from rasterio.features import shapes  # noqa: E402

from model_registry.manifest import ModelClass  # noqa: E402
from tiler.errors import InferenceError, ReadError, RequestError, TooLargeError  # noqa: E402
from tiler.export import vector  # noqa: E402
from tiler.export.sieve import merged  # noqa: E402
from tiler.export.vector import write_polygons  # noqa: E402

UTM = "EPSG:32648"
METRES = Affine(10, 0, 500_000, 0, -10, 1_500_000)
CLASSES = [ModelClass(1, "water", (0, 0, 255, 255)), ModelClass(2, "wood", (0, 128, 0, 255))]


def raster(
    path: Path, pixels: NDArray[np.uint8], *, crs: str = UTM, transform: Affine = METRES, nodata=0, **tags
) -> Path:
    profile = {
        "driver": "GTiff",
        "dtype": pixels.dtype,
        "count": 1,
        "crs": crs,
        "transform": transform,
        "nodata": nodata,
    }
    with rasterio.open(path, "w", height=pixels.shape[0], width=pixels.shape[1], **profile) as file:
        file.write(pixels, 1)
        file.update_tags(**tags)
    return path


def speckled(height: int, width: int, classes: int = 4, seed: int = 0) -> NDArray[np.uint8]:
    """Blocks with noise, so that there are large areas, holes, and areas that touch at corners only; 0 is no data."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, classes, (-(-height // 6), -(-width // 6)), dtype=np.uint8)
    pixels = np.kron(coarse, np.ones((6, 6), np.uint8))[:height, :width]
    noise = random.random(pixels.shape) < 0.2
    pixels[noise] = random.integers(0, classes, int(noise.sum()))
    return pixels


def read(path: Path) -> tuple[NDArray[np.object_], dict[str, NDArray]]:
    meta, _, geometry, columns = pyogrio.raw.read(path)
    return shapely.from_wkb(geometry), dict(zip(meta["fields"], columns, strict=True))


def whole(pixels: NDArray[np.uint8], transform: Affine = METRES) -> tuple[NDArray[np.object_], list[int]]:
    """GDAL's polygons of the whole raster in one go."""
    found = list(shapes(pixels, mask=pixels != 0, connectivity=4, transform=transform))
    return np.array([shapely.geometry.shape(shape) for shape, _ in found]), [int(value) for _, value in found]


def fits(polygons: NDArray[np.object_]) -> bool:
    return bool(shapely.is_valid(polygons).all() and shapely.coverage_is_valid(polygons))


@pytest.mark.parametrize("block_pixels", [1, 500, 4000, 2**22])
def test_no_border_of_a_block_is_left(tmp_path: Path, block_pixels: int) -> None:
    pixels = speckled(83, 61)
    count = write_polygons(
        raster(tmp_path / "a.tif", pixels), tmp_path / "a.gpkg", classes=CLASSES, block_pixels=block_pixels
    )
    polygons, fields = read(tmp_path / "a.gpkg")
    expected, values = whole(pixels)
    assert count == len(polygons) == len(expected) > 100
    assert sorted(shapely.area(polygons)) == sorted(shapely.area(expected))
    tree = shapely.STRtree(expected)
    inside = tree.query(shapely.point_on_surface(polygons), predicate="within")
    assert len(inside[0]) == len(polygons)
    assert shapely.equals(polygons[inside[0]], expected[inside[1]]).all()
    assert (fields["class"][inside[0]] == np.array(values)[inside[1]]).all()
    assert fits(polygons)
    assert (shapely.get_coordinates(polygons) % 10 == 0).all()


def test_the_block_does_not_matter(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", speckled(70, 55, seed=3))
    found = []
    for number, block_pixels in enumerate((200, 1500, 2**22)):
        out = tmp_path / f"{number}.gpkg"
        write_polygons(path, out, classes=CLASSES, min_area=700, simplify=15, block_pixels=block_pixels)
        polygons, fields = read(out)
        found.append(sorted(zip(fields["class"], shapely.to_wkt(shapely.normalize(polygons)), strict=True)))
    # The order in which polygons are simplified may not matter either.
    assert found[0] == found[1] == found[2]


def test_an_area_through_many_blocks_is_one_feature_with_its_holes(tmp_path: Path) -> None:
    pixels = np.full((64, 40), 1, np.uint8)
    pixels[3:61:4, 5:35:3] = 2
    pixels[10, 10] = 0
    write_polygons(raster(tmp_path / "a.tif", pixels), tmp_path / "a.gpkg", classes=CLASSES, block_pixels=200)
    polygons, fields = read(tmp_path / "a.gpkg")
    large = polygons[fields["class"] == 1]
    assert len(large) == 1
    assert shapely.get_num_interior_rings(large[0]) == int((pixels != 1).sum())
    assert fields["area_m2"][fields["class"] == 1] == [float((pixels == 1).sum() * 100)]


def test_fields(tmp_path: Path) -> None:
    pixels = np.array([[1, 1, 2], [1, 3, 0]], np.uint8)
    write_polygons(raster(tmp_path / "a.tif", pixels), tmp_path / "a.fgb", classes=CLASSES)
    _, fields = read(tmp_path / "a.fgb")
    rows = sorted(zip(*(fields[name].tolist() for name in ("class", "name", "area_m2", "color")), strict=True))
    assert rows == [(1, "water", 300.0, "#0000ff"), (2, "wood", 100.0, "#008000"), (3, "3", 100.0, "#808080")]


def by_the_rule(pixels: NDArray[np.uint8], least: int) -> NDArray[np.uint8]:
    """One area after the other, each time from the start."""
    from tiler.export.regions import label

    pixels = pixels.copy()
    while True:
        labels = label(pixels, np.ones(len(pixels), np.int64))
        order = np.lexsort((labels.first, labels.sizes))
        for number in order[(labels.sizes[order] < least) & (labels.classes[order] != 0)]:
            own = labels.ids == number
            votes = np.zeros(256, int)
            for moved, beside in ((np.s_[1:], np.s_[:-1]), (np.s_[:-1], np.s_[1:])):
                for axis in (0, 1):
                    there, here = (moved, beside) if axis == 0 else ((np.s_[:], moved), (np.s_[:], beside))
                    touches = own[here] & ~own[there] & (pixels[there] != 0)
                    votes += np.bincount(pixels[there][touches], minlength=256)
            if votes.any():
                pixels[own] = votes.argmax()
                break
        else:
            return pixels


@pytest.mark.parametrize("seed", range(4))
def test_small_areas_are_merged_by_the_rule(seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 4, (15, 18), dtype=np.uint8)
    found = merged(pixels, np.ones(15, np.int64), 5, nodata=0)
    assert found is not None
    assert (found == by_the_rule(pixels, 5)).all()


@pytest.mark.parametrize("block_pixels", [64, 400, 2**22])
def test_minimum_area_leaves_no_gap_and_nothing_smaller(tmp_path: Path, block_pixels: int) -> None:
    """Blocks of 8 pixels, and areas of up to 11 to be merged: some are longer than a block."""
    pixels = speckled(40, 33, seed=1)
    path = raster(tmp_path / "a.tif", pixels)
    write_polygons(path, tmp_path / "a.gpkg", classes=CLASSES, min_area=1200, block_pixels=block_pixels)
    polygons, fields = read(tmp_path / "a.gpkg")
    expected, values = whole(by_the_rule(pixels, 12))
    assert sorted(zip(fields["class"], fields["area_m2"], strict=True)) == sorted(
        zip(values, shapely.area(expected), strict=True)
    )
    assert shapely.area(polygons).sum() == (pixels != 0).sum() * 100
    tree = shapely.STRtree(polygons)
    pairs = tree.query(polygons[shapely.area(polygons) < 1200], predicate="intersects")
    touching = shapely.relate_pattern(
        polygons[shapely.area(polygons) < 1200][pairs[0]], polygons[pairs[1]], "F***1****"
    )
    assert not touching.any(), "what is smaller has no neighbour"
    assert fits(polygons)


def test_an_area_of_exactly_the_minimum_stays(tmp_path: Path) -> None:
    pixels = np.full((12, 12), 1, np.uint8)
    pixels[2:4, 2:4], pixels[7, 6:9] = 2, 2
    path = raster(tmp_path / "a.tif", pixels, transform=Affine(0.3, 0, 500_000, 0, -0.3, 1_500_000))
    assert write_polygons(path, tmp_path / "a.gpkg", classes=CLASSES, min_area=4 * 0.3 * 0.3) == 2


def test_simplified_borders_are_common(tmp_path: Path) -> None:
    rows, cols = np.mgrid[:90, :90]
    pixels = np.where(rows + cols < 80, 1, np.where(rows > cols, 2, 3)).astype(np.uint8)
    pixels[60:75, 20:40] = 0
    path = raster(tmp_path / "a.tif", pixels)
    write_polygons(path, tmp_path / "exact.gpkg", classes=CLASSES)
    write_polygons(path, tmp_path / "simple.gpkg", classes=CLASSES, simplify=20, block_pixels=900)
    exact, simple = read(tmp_path / "exact.gpkg")[0], read(tmp_path / "simple.gpkg")[0]
    assert fits(simple)
    assert len(simple) == len(exact) == 3
    assert shapely.get_num_coordinates(simple).sum() < shapely.get_num_coordinates(exact).sum() / 5
    assert shapely.area(shapely.union_all(simple)) == pytest.approx(shapely.area(simple).sum(), rel=1e-9)
    assert shapely.area(shapely.union_all(simple)) == pytest.approx(shapely.area(exact).sum(), rel=0.01)
    assert (shapely.get_coordinates(simple) % 10 == 0).all(), "corners of pixels, not points beside them"


def test_geojson_is_of_the_standard(tmp_path: Path) -> None:
    pixels = speckled(40, 40)
    write_polygons(raster(tmp_path / "a.tif", pixels), tmp_path / "a.geojson", classes=CLASSES, block_pixels=400)
    document = json.loads((tmp_path / "a.geojson").read_text())
    assert document["type"] == "FeatureCollection"
    assert "crs" not in document
    polygons = np.array([shapely.geometry.shape(item["geometry"]) for item in document["features"]])
    left, bottom, right, top = shapely.total_bounds(polygons)
    assert 104.99 < left < right < 105.1 and 13.5 < bottom < top < 13.6
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()
    holes = [hole for polygon in polygons for hole in polygon.interiors]
    assert holes and not shapely.is_ccw(np.array(holes)).any()
    assert fits(polygons)
    areas = [abs(Geod(ellps="WGS84").geometry_area_perimeter(polygon)[0]) for polygon in polygons]
    # UTM's own metres, as everywhere in this project: the scale factor of 0.9996 is 0.08 % of area.
    assert [item["properties"]["area_m2"] for item in document["features"]] == pytest.approx(areas, rel=2e-3, abs=1)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(0.01, 0, 10, 0, -0.02, 61)),
        ("EPSG:4326", Affine(0.5, 0, 175, 0, -0.5, 80)),
        ("EPSG:3857", Affine(100, 0, 1_000_000, 0, -100, 8_400_000)),
        ("EPSG:3031", Affine(500, 0, -10_000, 0, -500, 10_000)),
    ],
)
def test_areas_are_those_on_the_ellipsoid(tmp_path: Path, crs: str, transform: Affine) -> None:
    pixels = speckled(40, 40, seed=5)
    path = raster(tmp_path / "a.tif", pixels, crs=crs, transform=transform)
    write_polygons(path, tmp_path / "a.gpkg", classes=CLASSES, block_pixels=600)
    polygons, fields = read(tmp_path / "a.gpkg")
    dense = shapely.segmentize(polygons, transform.a / 8)
    if crs != "EPSG:4326":
        from pyproj import Transformer

        dense = shapely.transform(dense, Transformer.from_crs(crs, 4326, always_xy=True).transform, interleaved=False)
    geod = Geod(ellps="WGS84")
    areas = np.array([abs(geod.geometry_area_perimeter(polygon)[0]) for polygon in dense])
    around_pole = shapely.area(dense) > 1000
    np.testing.assert_allclose(fields["area_m2"][~around_pole], areas[~around_pole], rtol=1e-4)


def test_minimum_area_is_on_the_ground(tmp_path: Path) -> None:
    """At 60 degrees north a pixel of Web Mercator covers a quarter of what its coordinates say."""
    pixels = np.full((20, 20), 1, np.uint8)
    pixels[5:7, 5:7] = 2
    path = raster(tmp_path / "a.tif", pixels, crs="EPSG:3857", transform=Affine(10, 0, 0, 0, -10, 8_399_738))
    assert write_polygons(path, tmp_path / "a.gpkg", classes=CLASSES, min_area=90) == 2
    assert write_polygons(path, tmp_path / "b.gpkg", classes=CLASSES, min_area=110) == 1


def test_another_crs(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", speckled(20, 20))
    write_polygons(path, tmp_path / "a.fgb", classes=CLASSES, crs=CRS.from_epsg(3857))
    polygons, _ = read(tmp_path / "a.fgb")
    assert CRS.from_string(pyogrio.read_info(tmp_path / "a.fgb")["crs"]) == CRS.from_epsg(3857)
    assert shapely.total_bounds(polygons)[0] == pytest.approx(105 * 111319.49, rel=1e-3)
    assert fits(polygons)


@pytest.mark.parametrize("ending", ["gpkg", "fgb", "geojson"])
def test_a_raster_without_a_class_is_an_empty_file(tmp_path: Path, ending: str) -> None:
    path = raster(tmp_path / "a.tif", np.zeros((5, 5), np.uint8))
    assert write_polygons(path, tmp_path / f"a.{ending}", classes=CLASSES, min_area=1000, simplify=10) == 0
    assert len(read(tmp_path / f"a.{ending}")[0]) == 0


def test_without_nodata_every_pixel_is_of_a_class(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", np.array([[0, 1]], np.uint8), nodata=None)
    assert write_polygons(path, tmp_path / "a.gpkg", classes=CLASSES) == 2


def test_the_revision_goes_along(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", speckled(9, 9), TITILER_INFERENCE_REVISION="0123456789ab", OTHER="x")
    for name in ("a.gpkg", "a.fgb"):
        write_polygons(path, tmp_path / name, classes=CLASSES)
        assert pyogrio.read_info(tmp_path / name)["layer_metadata"] == {"TITILER_INFERENCE_REVISION": "0123456789ab"}


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", speckled(9, 9))
    with pytest.raises(RequestError, match=r"\.gpkg, \.fgb, \.geojson"):
        write_polygons(path, tmp_path / "a.shp", classes=CLASSES)
    with pytest.raises(RequestError, match="WGS84"):
        write_polygons(path, tmp_path / "a.geojson", classes=CLASSES, crs=CRS.from_epsg(3857))
    for wrong in ({"min_area": 0.0}, {"simplify": float("nan")}, {"simplify": -1.0}):
        with pytest.raises(RequestError, match=next(iter(wrong))):
            write_polygons(path, tmp_path / "a.gpkg", classes=CLASSES, **wrong)
    with pytest.raises(RequestError, match="folder"):
        write_polygons(path, tmp_path / "none" / "a.gpkg", classes=CLASSES)
    with pytest.raises(ReadError, match=r"'none\.tif'"):
        write_polygons(tmp_path / "none.tif", tmp_path / "a.gpkg", classes=CLASSES)
    with pytest.raises(ReadError, match="uint8"):
        write_polygons(raster(tmp_path / "f.tif", np.ones((3, 3), np.float32)), tmp_path / "a.gpkg", classes=CLASSES)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.tif", "f.tif"]


def test_a_file_in_the_way_stays(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", speckled(9, 9))
    (tmp_path / "a.gpkg").write_text("mine")
    with pytest.raises(RequestError, match="already there"):
        write_polygons(path, tmp_path / "a.gpkg", classes=CLASSES)
    assert (tmp_path / "a.gpkg").read_text() == "mine"
    assert write_polygons(path, tmp_path / "a.gpkg", classes=CLASSES, overwrite=True) == len(
        read(tmp_path / "a.gpkg")[0]
    )


def test_noise_is_refused_before_it_takes_the_machine(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", np.random.default_rng(0).integers(1, 5, (200, 200), dtype=np.uint8))
    with pytest.raises(TooLargeError, match=r"more than 1,000 .*min_area"):
        write_polygons(path, tmp_path / "a.gpkg", classes=CLASSES, most=1000, block_pixels=4000)
    assert [item.name for item in tmp_path.iterdir()] == ["a.tif"]
    assert (
        0
        < write_polygons(path, tmp_path / "a.gpkg", classes=CLASSES, most=1000, min_area=5000, block_pixels=4000)
        < 1000
    )


def test_too_many_vertices_to_simplify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector, "MOST_VERTICES", 50)
    path = raster(tmp_path / "a.tif", speckled(30, 30))
    with pytest.raises(TooLargeError, match="simplify"):
        write_polygons(path, tmp_path / "a.gpkg", classes=CLASSES, simplify=10)


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", speckled(60, 60))
    (tmp_path / "a.gpkg").write_text("before")

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "trace" and done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_polygons(
            path, tmp_path / "a.gpkg", classes=CLASSES, overwrite=True, min_area=300, block_pixels=800, progress=stop
        )
    assert (tmp_path / "a.gpkg").read_text() == "before"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.gpkg", "a.tif"]


def test_a_file_that_cannot_be_written_is_told_without_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = raster(tmp_path / "a.tif", speckled(9, 9))

    def full(*args: object, **kwargs: object) -> None:
        raise pyogrio.errors.DataSourceError(f"sqlite3_exec failed: {tmp_path} disk is full")

    monkeypatch.setattr(pyogrio.raw, "write", full)
    with pytest.raises(InferenceError, match=r"'a\.gpkg' could not be written") as told:
        write_polygons(path, tmp_path / "a.gpkg", classes=CLASSES)
    assert str(tmp_path) not in str(told.value)


def test_progress(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    path = raster(tmp_path / "a.tif", speckled(60, 60))
    write_polygons(
        path,
        tmp_path / "a.gpkg",
        classes=CLASSES,
        min_area=300,
        block_pixels=800,
        progress=lambda *step: steps.append(step),
    )
    for stage in ("merge", "trace"):
        last = [step for step in steps if step[0] == stage][-1]
        assert last[1] == last[2] > 1


@pytest.mark.slow
@pytest.mark.real
def test_a_real_prediction(tmp_path: Path, shared: Path) -> None:
    """A published network's mask of a Sentinel-2 scene: 1068 x 1068 pixels of 10 m."""
    path = shared / "majortom_thailand" / "reference_dynamicworld_mask.tif"
    with rasterio.open(path) as source:
        pixels, transform = source.read(1), source.transform
        nodata = source.nodata
    valid = np.ones(pixels.shape, bool) if nodata is None else pixels != nodata
    count = write_polygons(path, tmp_path / "a.gpkg", classes=CLASSES, block_pixels=2**16)
    polygons, fields = read(tmp_path / "a.gpkg")
    expected = list(shapes(pixels, mask=valid, connectivity=4, transform=transform))
    areas = sorted(shapely.area(np.array([shapely.geometry.shape(shape) for shape, _ in expected])))
    assert count == len(expected) > 1000
    assert sorted(fields["area_m2"]) == areas
    assert fits(polygons)

    fewer = write_polygons(path, tmp_path / "b.gpkg", classes=CLASSES, min_area=5000, simplify=20, block_pixels=2**16)
    polygons, fields = read(tmp_path / "b.gpkg")
    assert fewer < count / 3
    assert fits(polygons)
    assert fields["area_m2"].sum() == pytest.approx(valid.sum() * 100, rel=1e-3)
