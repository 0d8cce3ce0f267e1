"""Ensembles served: every answer equals a whole-scene computation that shares no code with the product."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from affine import Affine

from model_registry import at_gsds, load, open_model
from model_registry.testing import conv_chain, strided_unet, write_model
from tests.tiler.helpers import MERCATOR, Host, host, landscape, write_scene
from tests.tiler.whole_ensemble import Whole, whole_ensemble
from tiler.assemble import wants
from tiler.catalog import Catalog
from tiler.engine import Engine
from tiler.errors import MisfitError
from tiler.layer import Layer, fit
from tiler.scene import open_scene
from tiler.values import PRECISE, Cell, Style

CLASSES = ["a", "b", "c", "d", "e"]
UTM = {"crs": "EPSG:32632"}


# What the networks need, stated, so that nothing is measured.
STATED = {
    "conv": {"window": {"multiple": 1, "period": 1, "halo": 3}, "exactness": "exact"},
    "unet": {"window": {"multiple": 4, "period": 4, "halo": 12}, "exactness": "exact"},
}


def placed(res: float) -> Affine:
    return Affine(res, 0, 500_000.0, 0, -res, 5_200_000.0)


def many(folder: Path, network: Path, gsds: Sequence[float], weights: Sequence[float] = ()) -> Path:
    """The model in `network` with members: the same file at several resolutions."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes((network / "model.onnx").read_bytes())
    document = yaml.safe_load((network / "model.yaml").read_text())
    members = [{"gsd": gsd} for gsd in gsds]
    for number, weight in enumerate(weights):
        members[number]["weight"] = weight
    document["serving"] |= {"kind": "ensemble", "members": members}
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    return folder


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {
        "conv": write_model(folder / "conv", conv_chain(layers=3), classes=CLASSES, gsd=0.5, **STATED["conv"]),
        "unet": write_model(folder / "unet", strided_unet(depth=2), classes=CLASSES, gsd=0.5, **STATED["unet"]),
    }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(
        tmp_path_factory.mktemp("scene") / "scene.tif", landscape(203, 251), transform=placed(0.5), **UTM
    )


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


def serve(models: Mapping[str, Path]) -> Host:
    """An application whose models all run in one runtime: which one is the fastest is not the question here."""
    return host(models, catalog=Catalog(models, runtime="onnxruntime"))


def ready(model: Any) -> Any:
    return load(model, runtime="onnxruntime")


def answered(served: Host, name: str, scene: Path, **query: Any) -> np.ndarray:
    """[bands + mask, rows, cols] on the layer's own pixels."""
    return served.npy(f"{name}/preview.npy", scene, max_size=4096, **query)


def assert_same(found: np.ndarray, right: Whole) -> None:
    classes, mask = found
    np.testing.assert_array_equal(mask > 0, right.valid)
    assert len(np.unique(right.classes[right.valid])) == len(CLASSES)
    wrong = (classes != right.classes) & right.valid & right.sure
    assert wrong.sum() == 0, f"{wrong.sum()} of {right.valid.sum()} pixels differ"


@pytest.mark.parametrize(
    ("network", "gsds", "weights", "res"),
    [
        ("conv", (0.5, 1.0, 2.0), (), 0.5),
        ("conv", (0.5, 0.7, 1.1), (3.0, 2.0, 1.0), 0.5),
        ("conv", (0.7, 1.0), (), 0.5),  # no member takes the scene's own pixels
        ("conv", (0.5, 1.0), (), 0.8),  # a scene coarser than one member
        ("unet", (0.5, 1.0, 2.0), (1.0, 1.0, 4.0), 0.5),
    ],
)
def test_an_ensemble_equals_one_computation_over_the_whole_scene(
    networks: dict[str, Path], tmp_path: Path, network: str, gsds: Sequence[float], weights: Sequence[float], res: float
) -> None:
    pixels = landscape(203, 251)
    scene = write_scene(tmp_path / "scene.tif", pixels, transform=placed(res), **UTM)
    served = serve({"zooms": many(tmp_path / "zooms", networks[network], gsds, weights)})
    shares = np.array(weights or [1.0] * len(gsds))
    file = networks[network] / "model.onnx"
    pad, multiple = (8, 1) if network == "conv" else (12, 4)
    right = whole_ensemble(
        [file] * len(gsds), pixels, res, gsds, list(shares / shares.sum()), pad=pad, multiple=multiple
    )
    assert_same(answered(served, "zooms", scene), right)
    planes = answered(served, "zooms", scene, output="probability")[:-1]
    np.testing.assert_allclose(planes, right.planes, atol=6e-4)  # kept in float16
    spread = answered(served, "zooms", scene, output="spread")[0]
    np.testing.assert_allclose(spread, right.spread, atol=6e-4)
    assert spread.max() > 0.1
    confidence = answered(served, "zooms", scene, output="confidence")[0]
    np.testing.assert_allclose(confidence, right.planes.max(axis=0), atol=6e-4)


def test_tiles_point_and_statistics_say_the_same(networks: dict[str, Path], scene: Path, tmp_path: Path) -> None:
    served = serve({"zooms": many(tmp_path / "zooms", networks["conv"], (0.5, 1, 2))})
    right = answered(served, "zooms", scene)
    tilejson = served.get("zooms/WebMercatorQuad/tilejson.json", scene).json()
    west, south, east, north = tilejson["bounds"]
    lon, lat = (west + east) / 2, (south + north) / 2
    point = served.get(f"zooms/point/{lon},{lat}", scene).json()
    spread = served.get(f"zooms/point/{lon},{lat}", scene, output="spread").json()
    assert point["values"][0] in range(5) and 0 <= spread["values"][0] <= 1
    assert spread["band_descriptions"] == ["spread"]
    counts = served.get("zooms/statistics", scene, categorical=True, max_size=4096).json()["b1"]["histogram"]
    values, found = np.unique(right[0][right[1] > 0], return_counts=True)
    assert dict(zip(counts[1], counts[0], strict=True)) == dict(zip(values, found, strict=True))
    whole = served.get("zooms/statistics", scene, output="spread", max_size=4096).json()["b1"]
    assert 0 <= whole["min"] < whole["mean"] < whole["max"] <= 1
    tile = MERCATOR.tile(lon, lat, 18)
    answer = served.get(f"zooms/tiles/WebMercatorQuad/18/{tile.x}/{tile.y}.png", scene)
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "hit")  # made before, for the preview
    assert "x-exactness" not in answer.headers and "x-gsd" not in answer.headers
    shown = served.get(f"zooms/tiles/WebMercatorQuad/18/{tile.x}/{tile.y}.png", scene, output="spread")
    assert shown.status_code == 200 and shown.content != answer.content


def test_one_member_is_the_model_itself_at_that_resolution(
    networks: dict[str, Path], scene: Path, tmp_path: Path
) -> None:
    alone = write_model(tmp_path / "alone", conv_chain(layers=3), classes=CLASSES, gsd=0.8, **STATED["conv"])
    served = serve({"zooms": many(tmp_path / "zooms", networks["conv"], (0.8,)), "alone": alone})
    for output in ("class", "probability", "confidence"):
        np.testing.assert_array_equal(
            answered(served, "zooms", scene, output=output), answered(served, "alone", scene, output=output)
        )


@pytest.mark.parametrize("gsds", [(0.5, 1.0, 2.0), (1.0, 1.5)])
def test_nodata_at_every_scale(networks: dict[str, Path], tmp_path: Path, gsds: Sequence[float]) -> None:
    pixels = landscape(160, 176)
    mask = np.random.default_rng(3).random((160, 176)) > 0.1
    mask[40:71, 50:90] = False  # a hole that all members see, with edges on no common multiple
    scene = write_scene(tmp_path / "scene.tif", pixels, transform=placed(0.5), mask=mask, **UTM)
    served = serve({"zooms": many(tmp_path / "zooms", networks["conv"], gsds)})
    right = whole_ensemble(
        [networks["conv"] / "model.onnx"] * len(gsds), pixels, 0.5, gsds, [1 / len(gsds)] * len(gsds), valid=mask
    )
    assert not right.valid.all() and right.valid.any()
    assert_same(answered(served, "zooms", scene), right)
    np.testing.assert_allclose(answered(served, "zooms", scene, output="spread")[0], right.spread, atol=6e-4)


def test_a_model_that_is_not_exact_is_blended_in_each_member(scene: Path, tmp_path: Path) -> None:
    """Its halo is said to be too small: then windows are fixed, and so are those of the members."""
    network = write_model(
        tmp_path / "net", conv_chain(layers=3), classes=CLASSES, gsd=0.5, exactness="bounded",
        window={"multiple": 1, "period": 1, "halo": 3, "preferred": 128},
    )  # fmt: skip
    served = serve({"zooms": many(tmp_path / "zooms", network, (0.5, 1.0)), "plain": network})
    # With a halo that is enough after all, blended windows agree with each other, and so with the whole.
    right = whole_ensemble([network / "model.onnx"] * 2, landscape(203, 251), 0.5, (0.5, 1.0), [0.5, 0.5])
    found = answered(served, "zooms", scene)
    inner = (slice(8, -8), slice(8, -8))
    assert ((found[0] != right.classes) & right.sure)[inner].mean() < 1e-3
    answer = served.get("zooms/info", scene).json()
    assert answer["exactness"] == "bounded" and answer["members"][1]["gsd"] == 1.0
    tile = served.get("zooms/tiles/WebMercatorQuad/17/68813/45926.png", scene)
    assert tile.headers["x-exactness"] == "bounded; blended"


def layers(networks: dict[str, Path], scene: Path, gsds: Sequence[float], weights: Sequence[float] = ()) -> Layer:
    return fit(open_scene(scene), ready(at_gsds(open_model(networks["conv"]), gsds, weights)))


def test_the_revision_follows_members_weights_and_resolutions(
    networks: dict[str, Path], scene: Path, tmp_path: Path
) -> None:
    of = lambda gsds, weights=(): layers(networks, scene, gsds, weights).revision  # noqa: E731
    assert of((0.5, 1), (1, 1)) == of((1, 0.5), (2, 2))
    other = write_model(tmp_path / "m", conv_chain(layers=3, seed=1), classes=CLASSES, gsd=0.5, **STATED["conv"])
    revisions = {
        of((0.5, 1)), of((0.5, 1), (1, 2)), of((0.5, 1.01)), of((0.5, 1, 2)), of((0.5,)),
        fit(open_scene(scene), ready(at_gsds(open_model(other), (0.5, 1)))).revision,
        fit(open_scene(scene), ready(replace(at_gsds(open_model(networks["conv"]), (0.5, 1)), threshold=0.7))).revision,
        fit(open_scene(scene), ready(networks["conv"])).revision,
    }  # fmt: skip
    assert len(revisions) >= 7


def test_work_is_shared_with_whoever_asks_for_a_member(networks: dict[str, Path], scene: Path, engine: Engine) -> None:
    loaded = ready(at_gsds(open_model(networks["conv"]), (0.5, 1.0)))
    whole = fit(open_scene(scene), loaded)
    plain = fit(open_scene(scene), ready(networks["conv"]))
    assert whole.members[0].revision == plain.revision
    cells = [Cell(0, 0), Cell(0, 1)]
    engine.scores(whole, cells)
    before = engine.inferred_pixels
    answer = engine.scores(plain, cells, probabilities=True)
    assert (answer.source, engine.inferred_pixels) == ("hit", before)
    fresh = Engine()
    try:
        for cell, scores in fresh.scores(plain, cells, probabilities=True).scores.items():
            there = answer.scores[cell].probabilities
            assert there is not None and there.dtype == np.float16
            np.testing.assert_array_equal(there, scores.probabilities)
            np.testing.assert_array_equal(answer.scores[cell].classes, scores.classes)
    finally:
        fresh.close()


def test_cells_have_the_same_bits_whichever_were_asked_for_together(networks: dict[str, Path], scene: Path) -> None:
    whole = layers(networks, scene, (0.5, 0.7, 1.1))
    cells = [Cell(row, col) for row in range(whole.grid.cell_rows) for col in range(whole.grid.cell_cols)]
    one, other = Engine(), Engine()
    try:
        together = one.scores(whole, cells, probabilities=True).scores
        for cell in [cells[0], cells[-1], Cell(2, 3), Cell(3, 3)]:
            alone = other.scores(whole, [cell], probabilities=True).scores[cell]
            for name in ("classes", "valid", "probabilities", "spread"):
                np.testing.assert_array_equal(getattr(alone, name), getattr(together[cell], name))
    finally:
        one.close()
        other.close()


def test_the_event_loop_gets_the_same_and_a_second_time_from_the_cache(
    networks: dict[str, Path], scene: Path, engine: Engine
) -> None:
    whole = layers(networks, scene, (0.5, 1.0))
    cells = [Cell(1, 1), Cell(1, 2), Cell(4, 4)]

    async def ask() -> Any:
        return await engine.scores_async(whole, cells)

    first, second = asyncio.run(ask()), asyncio.run(ask())
    assert (first.source, second.source) == ("miss", "hit")
    assert set(first.scores) == set(cells) and first.stages is not None and second.stages is None
    again = engine.scores(whole, cells)
    for cell in cells:
        assert first.scores[cell].probabilities is None
        np.testing.assert_array_equal(first.scores[cell].classes, again.scores[cell].classes)
    assert engine.busy == frozenset()


def test_a_large_request_is_made_in_rounds(
    networks: dict[str, Path], scene: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = layers(networks, scene, (0.5, 1.0))
    cells = [Cell(row, col) for row in range(whole.grid.cell_rows) for col in range(whole.grid.cell_cols)]
    at_once = engine.scores(whole, cells).scores
    monkeypatch.setattr("tiler.ensemble.ROUND_PIXELS", 5 * whole.grid.cell**2)
    other = Engine()
    try:
        in_rounds = other.scores(whole, cells).scores
    finally:
        other.close()
    assert in_rounds.keys() == at_once.keys()
    for cell in cells:
        np.testing.assert_array_equal(in_rounds[cell].classes, at_once[cell].classes)


def test_a_member_that_does_not_fit_is_named(networks: dict[str, Path], scene: Path) -> None:
    with pytest.raises(MisfitError, match=r"conv at 4 m: resolution: .* factor of 8"):
        layers(networks, scene, (0.5, 4.0))


@pytest.mark.slow
def test_spread_is_for_ensembles_only(networks: dict[str, Path], scene: Path, tmp_path: Path) -> None:
    served = serve({"zooms": many(tmp_path / "zooms", networks["conv"], (0.5, 1)), "plain": networks["conv"]})
    refused = served.get("plain/preview.png", scene, output="spread")
    assert refused.status_code == 400
    assert "how far an ensemble's members lie apart, and model 'conv' is none" in refused.json()["detail"]
    assert served.get("plain/legend.json", output="spread").status_code == 400
    assert served.get("zooms/preview.png", scene, output="spread", threshold=0.5).status_code == 400
    legend = served.get("zooms/legend.json", output="spread").json()
    assert legend["value"]["range"] == [0, 1] and len(legend["value"]["stops"]) == 11
    assert isinstance(served.get("zooms/legend.json").json(), list)
    info = served.get("zooms/info", scene, output="spread").json()
    assert (info["dtype"], info["band_descriptions"]) == ("float32", [["b1", "spread"]])
    assert info["outputs"] == ["class", "probability", "confidence", "class_confidence", "spread"]
    entry = next(item for item in served.get("").json() if item["id"] == "zooms")
    assert [(one["gsd"], one["weight"]) for one in entry["members"]] == [(0.5, 0.5), (1, 0.5)]


@pytest.mark.slow
def test_a_threshold_is_judged_by_the_mean(scene: Path, tmp_path: Path) -> None:
    network = write_model(
        tmp_path / "net", conv_chain(layers=2, classes=2), classes=["no", "yes"], gsd=0.5, **STATED["conv"],
        output={"emits": "logits", "activation": "softmax", "threshold": 0.6},
    )  # fmt: skip
    served = serve({"zooms": many(tmp_path / "zooms", network, (0.5, 1.0))})
    right = whole_ensemble([network / "model.onnx"] * 2, landscape(203, 251), 0.5, (0.5, 1.0), [0.5, 0.5])
    found = answered(served, "zooms", scene)[0]
    best = np.where(right.planes.max(axis=0) < 0.6, 0, right.classes)
    sure = right.sure & (np.abs(right.planes.max(axis=0) - 0.6) > 1e-5)
    assert 0.05 < (best == 1).mean() < 0.95
    np.testing.assert_array_equal(found[sure], best[sure])


def test_what_is_asked_of_members_is_precise(networks: dict[str, Path], scene: Path, engine: Engine) -> None:
    whole = layers(networks, scene, (0.5, 1.0))
    assert not wants(whole, Style())
    engine.scores(whole, [Cell(0, 0)])
    kept = engine.scores(whole.members[0], [Cell(0, 0)], probabilities=PRECISE).scores[Cell(0, 0)]  # type: ignore[arg-type]
    assert kept.probabilities is not None and kept.probabilities.dtype == np.float32
