"""Answers that are no classes: their manifest, their arithmetic, their components, and how the probe sees them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from model_registry import components, live, moat, testing, trials, values
from model_registry.artifacts import checksum_of
from model_registry.candidates import installed
from model_registry.components import Components, first_three, fit_components, from_json, project, to_json
from model_registry.errors import ArtifactError, ContractError, ManifestError
from model_registry.manifest import Model, open_model
from model_registry.noise import Noise
from model_registry.postprocess import predict
from model_registry.probe import measure
from model_registry.runtimes import load_runner
from model_registry.strips import moved
from model_registry.values import Values, finished

HEIGHT = {"name": "canopy height", "unit": "m", "range": [0, 40]}


def regression(folder: Path, **value: Any) -> Path:
    net = testing.conv_chain(layers=2, classes=1)
    return testing.write_model(folder, net, tasks=["regression"], output={"value": {**HEIGHT, **value}})


def embedding(folder: Path, channels: int = 8, **output: Any) -> Path:
    net = testing.conv_chain(layers=2, classes=channels)
    return testing.write_model(folder, net, tasks=["feature-extraction"], channels=channels, output=output)


def edit(folder: Path, change: Callable[[Any], Any]) -> Path:
    document = yaml.safe_load((folder / "model.yaml").read_text())
    change(document)
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    return folder


# The manifest


def test_tasks_tell_the_kind(tmp_path: Path) -> None:
    height = open_model(regression(tmp_path / "h", scale=2, clip=[0, None], ramp=["000000", "ff8000"]))
    assert (height.kind, height.emits, height.activation, height.classes) == ("regression", "values", "none", ())
    assert height.values is not None
    assert (height.values.name, height.values.unit, height.values.range) == ("canopy height", "m", (0, 40))
    assert height.values.ramp == ((0, 0, 0, 255), (255, 128, 0, 255)) and height.values.clip == (0, None)
    vectors = open_model(embedding(tmp_path / "e"))
    assert (vectors.kind, vectors.values and vectors.values.channels) == ("embedding", 8)
    assert vectors.values is not None and (vectors.values.range, vectors.values.components) == ((-1, 1), None)


def test_tasks_of_the_whole_model_and_the_servings_own_word_count(tmp_path: Path) -> None:
    def to_properties(document: Any) -> None:
        document["properties"]["tasks"] = document["properties"]["output"][0].pop("tasks")

    def to_serving(document: Any) -> None:
        document["properties"]["output"][0]["tasks"] = ["semantic-segmentation"]
        document["serving"]["output"]["kind"] = "regression"

    assert open_model(edit(regression(tmp_path / "a"), to_properties)).kind == "regression"
    assert open_model(edit(regression(tmp_path / "b"), to_serving)).kind == "regression"


def output(document: Any) -> Any:
    return document["serving"]["output"]


def listed(document: Any) -> Any:
    return document["properties"]["output"][0]


TWO = [{"value": 0, "name": "a"}, {"value": 1, "name": "b"}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: output(d).pop("value"), "range"),
        (lambda d: output(d)["value"].pop("range"), "range"),
        (lambda d: output(d)["value"].update(range=[5, 5]), "lowest, highest"),
        (lambda d: output(d)["value"].update(scale=0), "scale not 0"),
        (lambda d: output(d)["value"].update(clip=[3, 2]), "clip"),
        (lambda d: output(d)["value"].update(ramp=["red", "blue"]), "RRGGBB"),
        (lambda d: output(d)["value"].update(colour="red"), "unknown key"),
        (lambda d: output(d).update(threshold=0.5), "for classes only"),
        (lambda d: output(d).update(emits="probabilities"), "for classes only"),
        (lambda d: output(d).update(activation="softmax"), "softmax"),
        (lambda d: output(d).update(kind="classes"), "not for classes"),
        (lambda d: listed(d).update({"classification:classes": TWO}), "2 classes"),
        (lambda d: listed(d).update(tasks=[]), "0 classes"),
        (lambda d: listed(d).update(tasks=["regression", "embedding"]), "0 classes"),
        (lambda d: listed(d).update(result={"shape": [-1, 4, -1, -1]}), "4 output channels"),
        (lambda d: listed(d).update(tasks=["embedding"]), "result.shape"),
        (lambda d: listed(d).update(tasks=["embedding"], result={"shape": [-1, 2, -1, -1]}), "at least three"),
    ],
)
def test_what_nobody_should_guess_is_refused(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        open_model(edit(regression(tmp_path / "m"), change))


def test_only_what_decides_a_pixel_is_in_the_digest(tmp_path: Path) -> None:
    plain = open_model(regression(tmp_path / "a")).digest
    same = [{"ramp": "magma"}, {"range": [0, 9]}, {"unit": "ft"}, {"name": "trees"}]
    other = [{"scale": 2}, {"offset": 1}, {"clip": [0, None]}]
    for number, value in enumerate(same + other):
        digest = open_model(regression(tmp_path / str(number), **value)).digest
        assert (digest == plain) == (value in same), value
    assert open_model(regression(tmp_path / "b")).digest == plain


# The arithmetic


def model_of(channels: int = 1, activation: str = "none", **given: Any) -> Model:
    from model_registry.manifest import make_model

    base: dict[str, Any] = {"name": "m", "version": "1", "title": "m", "folder": Path(), "artifacts": ()}
    kind = "regression" if channels == 1 else "embedding"
    answers = Values(channels=channels, **given)
    return make_model(**base, bands=("a",), kind=kind, values=answers, emits="values", activation=activation)


def test_scale_offset_clip_and_sigmoid_by_hand() -> None:
    scores = np.float32([[[[-3, 0, 1, 1000]]]])
    got = predict(scores, model_of(scale=2, offset=1, clip=(0, 100)))
    assert got.classes is None and got.probabilities is None and got.components is None
    assert got.values is not None and got.values.dtype == np.float32
    assert got.values.ravel().tolist() == [0, 1, 3, 100]
    share = predict(scores, model_of(activation="sigmoid", scale=100)).values
    np.testing.assert_allclose(share.ravel(), [100 / (1 + np.exp(3)), 50, 100 / (1 + np.exp(-1)), 100], rtol=1e-6)
    assert finished(scores, Values()) is not scores and not np.shares_memory(finished(scores, Values()), scores)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_an_error(bad: float) -> None:
    with pytest.raises(ContractError, match="not finite"):
        predict(np.float32([[[[0, bad]]]]), model_of(clip=(0, 1)))
    with pytest.raises(ContractError, match="not finite"):
        predict(np.float32([[[[1e38]]]]), model_of(scale=100, clip=(0, 1)))
    with pytest.raises(ContractError, match="not finite"):
        predict(np.float32([[[[0]], [[0]], [[0]], [[bad]]]]), model_of(channels=4))


def test_all_channels_only_when_asked_for() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype(np.float32)
    few, everything = predict(scores, model_of(5)), predict(scores, model_of(5), probabilities=True)
    assert few.values is None and everything.values is not None
    np.testing.assert_array_equal(everything.values, scores)
    np.testing.assert_array_equal(few.components, everything.components)
    np.testing.assert_array_equal(few.components, scores[:, :3])


def test_a_pixel_moves_by_more_than_a_hundredth_of_the_spread() -> None:
    before = np.random.default_rng(0).normal(20, 4, (1, 1, 50, 50)).astype(np.float32)
    after = before.copy()
    after[0, 0, 0, :10] += 0.03
    after[0, 0, 1, :10] += 0.06
    assert values.moved(before, after).sum() == 10
    assert moved(before, after, "regression") == 10 / 2500
    vectors = np.random.default_rng(1).normal(0, 1, (1, 4, 50, 50)).astype(np.float32)
    turned = vectors.copy()
    turned[0, 2, 0, :7] += 0.019
    turned[0, :, 1, :7] += 0.011
    assert values.moved(vectors, turned).sum() == 7, "the distance is that of the vectors"


# Components


def samples() -> list[np.ndarray]:
    """Vectors of six channels with three directions that vary, one after the other less."""
    random = np.random.default_rng(5)
    axes = np.linalg.qr(random.normal(size=(6, 6)))[0]
    found = random.normal(size=(2, 900, 6)) * np.array([9, 4, 2, 0.1, 0.1, 0.1])
    return [(part @ axes.T + 50).astype(np.float32).T.reshape(6, 30, 30) for part in found]


def test_components_are_the_principal_ones() -> None:
    fitted = fit_components(samples())
    flat = np.concatenate([part.reshape(6, -1).T for part in samples()]).astype(np.float64)
    _, strengths, rows = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    for own, other in zip(fitted.matrix, rows, strict=False):
        assert abs(np.dot(own, other)) == pytest.approx(1, abs=1e-6)
        assert max(own, key=abs) > 0, "the sign is fixed"
    np.testing.assert_allclose(fitted.explained, (strengths**2 / (strengths**2).sum())[:3], atol=1e-5)
    shown = project(np.stack(samples()), fitted)
    assert shown.shape == (2, 3, 30, 30) and shown.dtype == np.float32
    np.testing.assert_allclose(np.percentile(shown, 2, axis=(0, 2, 3)), fitted.low, atol=0.01)
    np.testing.assert_allclose(np.percentile(shown, 98, axis=(0, 2, 3)), fitted.high, atol=0.01)
    np.testing.assert_allclose(shown.mean(axis=(0, 2, 3)), 0, atol=1e-3)


def test_a_fit_can_be_repeated_and_survives_its_file() -> None:
    one, two = fit_components(samples()), fit_components(samples())
    assert one == two == from_json(to_json(one))
    holed = samples()
    holed[0][:, 3, 4] = np.nan
    assert fit_components(holed) != one
    assert fit_components([part.reshape(6, -1).T for part in samples()]) == one, "[pixels, channels], too"


@pytest.mark.parametrize("given", [[], [np.zeros((2, 9, 9))], [np.ones((5, 9, 9))], [np.full((5, 9, 9), np.nan)]])
def test_what_has_no_components_is_refused(given: list[np.ndarray]) -> None:
    with pytest.raises(ContractError):
        fit_components(given)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("mean"),
        lambda d: d.update(mean="0"),
        lambda d: d["mean"].append(1),
        lambda d: d["matrix"].pop(),
        lambda d: d.update(low=d["high"]),
        lambda d: d.update(high=[1, 2]),
        lambda d: d.update(high=[1, 2, float("inf")]),
    ],
)
def test_a_damaged_components_file_is_refused(change: Callable[[Any], Any]) -> None:
    document = json.loads(to_json(first_three(4, -1, 1)))
    change(document)
    with pytest.raises(ManifestError, match="components"):
        from_json(json.dumps(document).encode())
    with pytest.raises(ManifestError):
        from_json(b"\x80\x04 a pickle, for all we know")


def test_components_are_read_by_their_checksum(tmp_path: Path) -> None:
    shown = Components((0.5,) * 8, tuple((1.0,) * 8 for _ in range(3)), (-1.0,) * 3, (1.0,) * 3)
    data = to_json(shown)
    folder = embedding(tmp_path / "m", components={"href": "c.json", "checksum": checksum_of(data)})
    with pytest.raises(ArtifactError, match=r"c\.json"):
        open_model(folder)
    (folder / "c.json").write_bytes(data)
    model = open_model(folder)
    assert model.values is not None and model.values.components == shown
    assert model.digest != open_model(embedding(tmp_path / "plain")).digest
    (folder / "c.json").write_bytes(data + b" ")
    with pytest.raises(ArtifactError, match="checksum"):
        open_model(folder)
    for href in ("../c.json", str(tmp_path / "c.json")):
        (tmp_path / "c.json").write_bytes(data)
        with pytest.raises(ArtifactError):
            open_model(embedding(tmp_path / "n", components={"href": href, "checksum": checksum_of(data)}))
    wide = to_json(first_three(9, -1, 1))
    (folder / "c.json").write_bytes(wide)
    edit(folder, lambda d: output(d)["components"].update(checksum=checksum_of(wide)))
    with pytest.raises(ManifestError, match="9 channels"):
        open_model(folder)
    assert len(wide) < components.MAX_BYTES


@pytest.mark.parametrize("kind", ["regression", "embedding"])
def test_an_mlm_item_brings_the_same_model_back(tmp_path: Path, kind: str) -> None:
    from model_registry.mlm import item_from_model
    from model_registry.mlm_reading import document_from_item

    # MLM has a word for a regression, none for an embedding; the channels must survive in any case.
    model = open_model((regression if kind == "regression" else embedding)(tmp_path / "m"))
    document = document_from_item(json.loads(json.dumps(item_from_model(model))), folder=model.folder)
    (model.folder / "model.yaml").write_text(yaml.safe_dump(document))
    back = open_model(model.folder)
    assert (back.kind, back.values, back.digest) == (kind, model.values, model.digest)


# Loaded


def test_another_number_of_channels_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    wrong = testing.write_model(
        tmp_path / "m", testing.conv_chain(classes=4), tasks=["regression"], output={"value": HEIGHT}
    )
    with pytest.raises(ContractError, match="4 channels .* declares 1 channels"):
        live.load(wrong)
    with pytest.raises(ContractError, match="8 channels .* declares 9 channels"):
        live.load(edit(embedding(tmp_path / "e"), lambda d: listed(d).update(result={"shape": [-1, 9, -1, -1]})))


@pytest.mark.parametrize(
    "runtime",
    ["onnxruntime", pytest.param("openvino", marks=pytest.mark.skipif(not installed("openvino"), reason="openvino"))],
)
def test_runtimes_agree_and_keep_what_they_gave(tmp_path: Path, runtime: Any) -> None:
    model = open_model(regression(tmp_path / "h", scale=5, offset=20))
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    wanted = load_runner(model).logits(x.astype(np.float32) / 255) * 5 + 20
    run = load_runner(model, runtime=runtime)
    got = run(x).values
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    kept = got.copy()
    run(255 - x)
    np.testing.assert_array_equal(got, kept)
    vectors = open_model(embedding(tmp_path / "e"))
    run = load_runner(vectors, runtime=runtime)
    answer = run(x, probabilities=True)
    kept = answer.values.copy()
    run(255 - x, probabilities=True)
    np.testing.assert_array_equal(answer.values, kept)
    np.testing.assert_allclose(answer.components, answer.values[:, :3], atol=1e-6)


def test_a_network_with_window_statistics_is_unsafe_by_its_values(tmp_path: Path) -> None:
    folder = testing.write_model(tmp_path / "m", testing.global_mean(classes=1), tasks=["regression"],
                                 output={"value": HEIGHT})  # fmt: skip
    model = open_model(folder)
    found = measure(model, load_runner(model))
    assert found.exactness == "unsafe" and "surroundings move" in found.notes[-1]
    exact = open_model(regression(tmp_path / "x"))
    runner = load_runner(exact)
    found = measure(exact, runner)
    assert (found.exactness, found.halo, found.period) == ("exact", 2, 1)


class Coarse:
    """A runner whose scores are rounded to six bits, coarser than bf16."""

    def __init__(self, runner: Any, precision: str) -> None:
        self.runner, self.precision, self.device = runner, precision, "cpu"

    def logits(self, x: Any) -> Any:
        bits = self.runner.logits(x).view(np.uint32)
        return ((bits + 0x20000) & 0xFFFC0000).view(np.float32)

    def __call__(self, pixels: Any, unscale: Any = None, probabilities: bool = False) -> Any:
        return predict(self.logits(pixels.astype(np.float32) / 255), self.runner._model, probabilities)


@pytest.mark.parametrize("kind", ["regression", "embedding"])
def test_precisions_are_judged_by_the_values_that_they_move(tmp_path: Path, kind: str) -> None:
    model = open_model((regression if kind == "regression" else embedding)(tmp_path / "m"))
    model = live.resolve(model, measure(model, runner := load_runner(model)))
    bench = trials.Bench(model, runner)
    assert bench.compare(runner) == (0.0, "")
    share, reason = bench.compare(Coarse(runner, "bf16"))  # type: ignore[arg-type]
    assert 0 < share < 1 and reason == ""
    _, reason = bench.compare(Coarse(runner, "fp32"))  # type: ignore[arg-type]
    assert "another value than the reference" in reason
    assert moat.fault(runner, model) == ""


def test_torch_finishes_on_the_device_as_numpy_does(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save

    from model_registry import architectures

    settings = {"in_channels": 3, "classes": 8, "base": 4, "depth": 2}
    torch.manual_seed(0)
    data = save(architectures.build("unet", settings).state_dict())
    fitted = fit_components([np.random.default_rng(1).normal(size=(500, 8))])
    shown = to_json(fitted)
    folder = embedding(tmp_path / "m", components={"href": "c.json", "checksum": checksum_of(shown)},
                       activation="sigmoid", value={"scale": 3, "offset": -1, "clip": [None, 1.5]})  # fmt: skip
    (folder / "c.json").write_bytes(shown)
    (folder / "model.onnx").rename(folder / "w.safetensors")
    (folder / "w.safetensors").write_bytes(data)

    def change(document: Any) -> None:
        document["serving"]["artifacts"] = [
            {"href": "w.safetensors", "format": "safetensors", "checksum": checksum_of(data), "size": len(data)}
        ]
        document["properties"].update(architecture="unet", hyperparameters=settings)

    model = open_model(edit(folder, change))
    run: Any = load_runner(model, threads=1)
    x = Noise(model, seed=1).raw((2, 3, 32, 32))
    wanted = run(x, probabilities=True)
    with run._session():
        scores = torch.from_numpy(run.logits(x.astype(np.float32) / 255))
        for everything in (True, False):
            got = run._values(scores, model.values, everything)
            np.testing.assert_allclose(got.components, wanted.components, atol=1e-5)
            assert (got.values is not None) == everything
            if got.values is not None:
                np.testing.assert_allclose(got.values, wanted.values, atol=1e-6)
        with pytest.raises(ContractError, match="not finite"):
            run._values(scores * torch.nan, model.values, True)
