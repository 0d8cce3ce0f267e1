"""Published networks by the commands alone: added, checked, listed, served on their imagery, and held to the labels.

What a mask must be is computed here from the network's own file and the raster, with ONNX Runtime and rasterio; the
tiles are `.tif`, whose own georeference says where their pixels lie. Seams of the network that is not exact are
measured elsewhere: here only how right it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import rasterio
from rasterio.windows import Window
from starlette.testclient import TestClient

from benchmarks import accuracy
from benchmarks.real_models import NETWORKS, add, command
from model_registry.store import Store
from tests.tiler.helpers import best_and_lead, whole_scores
from tiler.app import create_app
from tiler.settings import Settings

pytestmark = [pytest.mark.real, pytest.mark.slow]

THAILAND = Path("majortom_thailand/majortom_thailand_12band_10m_cog.tif")
# Of the scene of THAILAND: the part that is normalised for the network that wants it so.
PART = Window(300, 400, 384, 320)
EXACT = ("world", "world-any", "world-norm")


@pytest.fixture(scope="module")
def registry(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    for name in NETWORKS:
        add(name, root, shared)
    return root


@pytest.fixture(scope="module")
def normalised(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PART as the authors normalise it: by the first eight operations of the network that does so itself."""
    whole = onnx.load(shared / NETWORKS["world"].file)
    whole.graph.output.append(onnx.helper.make_tensor_value_info("s2", onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    with rasterio.open(shared / THAILAND) as source:
        bands = NETWORKS["world"].answers["bands"].split(",")
        places = [[str(name).replace("B0", "B") for name in source.descriptions].index(band) + 1 for band in bands]
        pixels = source.read(places, window=PART)
        (scaled,) = session.run(["s2"], {"s2_dn": pixels[None].astype(np.float32)})
        profile = {
            "driver": "GTiff", "dtype": "float32", "count": len(bands), "height": PART.height, "width": PART.width,
            "crs": source.crs, "transform": source.window_transform(PART),
        }  # fmt: skip
    path = tmp_path_factory.mktemp("scenes") / "normalised.tif"
    with rasterio.open(path, "w", **profile) as target:
        target.write(scaled[0])
        target.descriptions = tuple(bands)
    return path


@pytest.fixture(scope="module")
def client(registry: Path, shared: Path, normalised: Path) -> Iterator[TestClient]:
    """The standalone server over the registry's versions, in the runtime that the masks are compared in."""
    store = Store(registry)
    scenes: dict[str, Any] = {
        "thailand": {"path": str(shared / THAILAND)},
        "spain": {"path": str(shared / accuracy.SPAIN)},
        "normalised": {"path": str(normalised)},
    }
    for number, path in enumerate(patches(shared)):
        scenes[f"patch{number}"] = {"path": str(path), "bands": [1, 2, 3, 4]}
    models = {name: str(store.resolve(f"{name}:1").folder) for name in NETWORKS}
    with TestClient(create_app(Settings(scenes=scenes, models=models, runtime="onnxruntime"))) as found:
        yield found


def patches(shared: Path) -> list[Path]:
    return sorted((shared / accuracy.PATCHES).glob("*_naip.tif"))


@pytest.mark.parametrize("name", NETWORKS)
def test_check_tells_what_it_is(registry: Path, name: str) -> None:
    lines = command("models", "check", name, "--registry", str(registry), "--json").strip().splitlines()
    found = json.loads(lines[-1])
    assert found["model"] == f"{name}:1" and found["golden"]["passed"]
    assert [finding for finding in found["findings"] if finding["level"] == "error"] == []
    if name in EXACT:
        assert (found["exactness"], found["period"], found["multiple"]) == ("exact", 2, 2)
        assert 16 < found["halo"] <= 32
        assert found["windows"]["moved_one_px_off"] > 0.01
    else:
        assert found["exactness"] in ("bounded", "unsafe")
        assert (found["period"], found["multiple"]) == (8, 8)
        assert found["halo"] >= 64 and found["error"]["moved"] > 0
    (listed,) = [
        one for one in json.loads(command("models", "list", "--registry", str(registry), "--json"))
        if one["ref"] == f"{name}:1"
    ]  # fmt: skip
    assert (listed["state"], listed["exactness"]) == ("probed", found["exactness"])
    assert listed["license"] == NETWORKS[name].answers["license"]


@pytest.mark.parametrize(
    ("scene", "name"), [("thailand", "world"), ("spain", "world-any"), ("normalised", "world-norm")]
)
def test_its_mask_equals_an_independent_pass_to_the_pixel(
    client: TestClient, shared: Path, normalised: Path, scene: str, name: str
) -> None:
    """Edges included: both reflect there."""
    path = {"thailand": shared / THAILAND, "spain": shared / accuracy.SPAIN, "normalised": normalised}[scene]
    pixels = accuracy.sentinel_bands(path).astype(np.float32)
    expected, lead = best_and_lead(whole_scores(shared / NETWORKS[name].file, pixels, pad=64, multiple=2))
    got = accuracy.through_tiles(client, f"{scene}/{name}", path)
    assert (got >= 0).all()
    assert len(np.unique(expected)) > 3
    assert ((got != expected) & (lead > 1e-5)).sum() == 0


def test_the_scaling_inside_and_outside_of_the_network_is_the_same(
    client: TestClient, shared: Path, normalised: Path
) -> None:
    """Away from the part's edges, where the one sees the scene and the other a reflection."""
    dn = accuracy.through_tiles(client, "thailand/world", shared / THAILAND)
    part = dn[PART.row_off : PART.row_off + PART.height, PART.col_off : PART.col_off + PART.width]
    norm = accuracy.through_tiles(client, "normalised/world-norm", normalised)
    inner = np.s_[32:-32, 32:-32]
    assert len(np.unique(part[inner])) > 3
    assert (norm != part)[inner].mean() < 1e-4


def test_digital_numbers_are_refused_by_the_network_that_wants_them_normalised(client: TestClient) -> None:
    answer = client.get("/thailand/world-norm/tilejson.json")
    assert answer.status_code == 422
    assert "uint16" in answer.json()["detail"] and "scale" in answer.json()["detail"]


def test_water_over_spain_is_as_right_as_offline(client: TestClient, shared: Path) -> None:
    """0.875 of the pixels and an intersection over union of 0.64, as SOURCE.md has measured without this package."""
    labels = accuracy.read_labels(shared / accuracy.SPAIN.with_name("Spain_7370579_LabelHand.tif"))
    own = accuracy.through_tiles(client, "spain/world-any", shared / accuracy.SPAIN)
    counts = accuracy.water_counts(own, labels)
    assert counts.accuracy == pytest.approx(0.875, abs=0.003)
    assert counts.iou == pytest.approx(0.64, abs=0.01)
    # At 10 m on the ground, where the scene has 7.9 x 10 m, it is another picture, and nearly as right.
    resampled = accuracy.through_tiles(client, "spain/world", shared / accuracy.SPAIN)
    assert accuracy.water_counts(resampled, labels).accuracy == pytest.approx(counts.accuracy, abs=0.01)


@pytest.mark.parametrize(("name", "least", "most"), [("naip", 0.9, 0.94), ("naip-1epoch", 0.35, 0.45)])
def test_land_cover_of_patches_is_as_right_as_offline(
    client: TestClient, shared: Path, name: str, least: float, most: float
) -> None:
    """The trained network and the one that hardly is: the measurement tells them apart."""
    tiles = once = accuracy.Counts(0, 0)
    for number, path in enumerate(patches(shared)):
        labels = accuracy.read_labels(path.with_name(path.name.replace("_naip", "_lc")))
        with rasterio.open(path) as dataset:
            offline = accuracy.one_pass(shared / NETWORKS[name].file, dataset.read())
        tiles += accuracy.cover_counts(accuracy.through_tiles(client, f"patch{number}/{name}", path), labels)
        once += accuracy.cover_counts(offline, labels)
    assert tiles.all == 8 * 128 * 128
    assert least < tiles.accuracy < most
    assert tiles.accuracy == pytest.approx(once.accuracy, abs=0.01)


def exported(registry: Path, name: str, path: Path, out: Path, *options: str) -> np.ndarray[Any, Any]:
    """What `tiler export` writes of a scene, its last `no data` counted as -1."""
    command(
        "export", str(path), "--registry", str(registry), "--model", name, "-o", str(out), "--runtime", "onnxruntime",
        "--no-register", *options,
    )  # fmt: skip
    with rasterio.open(out) as dataset:
        found = dataset.read(1).astype(int)
        return np.where(found == dataset.nodata, -1, found)


@pytest.mark.parametrize(
    ("scene", "name"), [("thailand", "world"), ("spain", "world-any"), ("normalised", "world-norm")]
)
def test_its_export_equals_an_independent_pass_and_the_tiles(
    client: TestClient, registry: Path, shared: Path, normalised: Path, tmp_path: Path, scene: str, name: str
) -> None:
    path = {"thailand": shared / THAILAND, "spain": shared / accuracy.SPAIN, "normalised": normalised}[scene]
    pixels = accuracy.sentinel_bands(path).astype(np.float32)
    expected, lead = best_and_lead(whole_scores(shared / NETWORKS[name].file, pixels, pad=64, multiple=2))
    found = exported(registry, name, path, tmp_path / "out.tif")
    assert ((found != expected) & (lead > 1e-5)).sum() == 0
    assert (found == accuracy.through_tiles(client, f"{scene}/{name}", path)).all()


@pytest.mark.parametrize("name", ["naip", "naip-1epoch"])
def test_the_export_of_what_is_blended_equals_the_tiles(
    client: TestClient, registry: Path, shared: Path, tmp_path: Path, name: str
) -> None:
    path = patches(shared)[0]
    found = exported(registry, name, path, tmp_path / "out.tif", "--bidx", "1,2,3,4")
    tiles = accuracy.through_tiles(client, f"patch0/{name}", path)
    assert len(np.unique(found)) > 1 and (found == tiles).all()
