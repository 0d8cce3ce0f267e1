"""Test-time augmentation against numpy's own flips, and the probe's view of an augmented network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from model_registry import load, open_model, testing
from model_registry.augment import TURNS, AugmentedRunner, passes
from model_registry.errors import ContractError, ManifestError
from model_registry.probe import measure
from model_registry.runtimes import load_runner

# [B, C, H, W] -> [B, C, H, W], and what undoes it; written out, where the product counts quarter turns.
FLIPS = [
    (lambda x: x, lambda x: x),
    (lambda x: x[:, :, ::-1], lambda x: x[:, :, ::-1]),
    (lambda x: x[..., ::-1], lambda x: x[..., ::-1]),
    (lambda x: x[:, :, ::-1, ::-1], lambda x: x[:, :, ::-1, ::-1]),
]


def turned(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 1, 3, 2)


VIEWS: dict[str, Any] = {
    "flips": FLIPS,
    "rotations": [
        FLIPS[0],
        FLIPS[3],
        (lambda x: turned(x)[:, :, ::-1], lambda x: turned(x[:, :, ::-1])),
        (lambda x: turned(x)[..., ::-1], lambda x: turned(x[..., ::-1])),
    ],
    "d4": [
        *FLIPS,
        *[(lambda x, f=f: turned(f(x)), lambda x, b=b: b(turned(x))) for f, b in FLIPS],
    ],
}


def written(folder: Path, net: onnx.ModelProto, augment: str, **options: Any) -> Path:
    return testing.write_model(folder, net, augment=augment, **options)


def mean_of(folder: Path, pixels: np.ndarray, augment: str, finish: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    scaled = pixels.astype(np.float32) / 255
    answers = []
    for view, back in VIEWS[augment]:
        (scores,) = session.run(None, {"x": np.ascontiguousarray(view(scaled))})
        answers.append(back(finish(np.asarray(scores, np.float64))))
    return np.mean(answers, axis=0)


def softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def pixels(height: int = 32, width: int = 48, bands: int = 3) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (2, bands, height, width), dtype=np.uint8)


@pytest.mark.parametrize("augment", list(VIEWS))
def test_classes_are_of_the_mean_probability(tmp_path: Path, augment: str) -> None:
    folder = written(tmp_path / "m", testing.strided_unet(2), augment, classes=list("abcde"))
    answer = load_runner(open_model(folder))(pixels(), probabilities=True)
    expected = mean_of(folder, pixels(), augment, softmax)
    assert answer.probabilities is not None and answer.classes is not None
    np.testing.assert_allclose(answer.probabilities, expected, atol=2e-6)
    assert (answer.classes == expected.argmax(axis=1)).mean() > 0.9999
    plain = load_runner(open_model(testing.write_model(tmp_path / "p", testing.strided_unet(2), classes=list("abcde"))))
    assert np.abs(answer.probabilities - plain(pixels(), probabilities=True).probabilities).max() > 0.05


def test_a_mask_is_cut_where_the_mean_reaches_the_threshold(tmp_path: Path) -> None:
    options: dict[str, Any] = {"classes": ["no", "yes"], "output": {"activation": "sigmoid", "threshold": 0.4}}
    folder = written(tmp_path / "m", testing.conv_chain(classes=1), "flips", **options)
    loaded = load(folder)
    expected = mean_of(folder, pixels(), "flips", lambda scores: 1 / (1 + np.exp(-scores)))[:, 0]
    sure = np.abs(expected - 0.4) > 1e-5
    assert loaded.binary
    assert (loaded.runner(pixels()).classes == (expected >= 0.4))[sure].all()


def test_finished_values_are_averaged_each_cut_at_its_limits(tmp_path: Path) -> None:
    value = {"name": "height", "unit": "m", "range": [0, 9], "scale": 5, "offset": 2, "clip": [0, None]}
    folder = written(tmp_path / "m", testing.conv_chain(classes=1), "d4", tasks=["regression"], output={"value": value})
    expected = mean_of(folder, pixels(), "d4", lambda scores: np.maximum(scores * 5 + 2, 0))
    answer = load_runner(open_model(folder))(pixels())
    np.testing.assert_allclose(answer.values, expected, atol=1e-4)
    cut_after = np.maximum(mean_of(folder, pixels(), "d4", lambda scores: scores * 5 + 2), 0)
    assert np.abs(cut_after - expected).max() > 0.1


def test_an_embedding_is_averaged_and_shown_by_its_components(tmp_path: Path) -> None:
    net = testing.conv_chain(classes=6)
    folder = written(tmp_path / "m", net, "rotations", tasks=["feature-extraction"], channels=6)
    expected = mean_of(folder, pixels(), "rotations", lambda scores: scores)
    answer = load_runner(open_model(folder))(pixels(), probabilities=True)
    np.testing.assert_allclose(answer.values, expected, atol=1e-5)
    assert answer.components is not None
    np.testing.assert_allclose(answer.components, expected[:, :3], atol=1e-5)


@pytest.mark.parametrize(("net", "period", "halo"), [
    (testing.conv_chain(kernel=3, layers=3), 1, 3),
    (testing.strided_unet(2), 4, 12),
    (testing.strided_unet(3), 8, 24),
])  # fmt: skip
def test_the_probe_sees_the_augmented_network(tmp_path: Path, net: onnx.ModelProto, period: int, halo: int) -> None:
    model = open_model(written(tmp_path / "m", net, "d4", classes=list("abcde")))
    found = measure(model, load_runner(model))
    assert (found.exactness, found.period, found.halo) == ("exact", period, halo), found.notes


def one_sided(reach: int) -> onnx.ModelProto:
    """Every pixel sees `reach` pixels to its right, and none elsewhere."""
    g = testing._Graph(2)
    x = g.add("Pad", "x", g.weight([0, 0, 0, 0, 0, 0, 0, reach], np.int64))
    weights = g.weight(np.random.default_rng(0).normal(0, 1, (5, 3, 1, reach + 1)))
    return g.finish(g.add("Conv", x, weights, kernel_shape=[1, reach + 1]), 3, 5)


@pytest.mark.parametrize(("augment", "rows"), [("flips", 0), ("rotations", 11)])
def test_turned_views_look_where_the_network_does_not(tmp_path: Path, augment: str, rows: int) -> None:
    folder = written(tmp_path / "m", one_sided(11), augment, classes=list("abcde"))
    model = open_model(folder)
    runner = load_runner(model)
    found = measure(model, runner)
    assert (found.exactness, found.halo) == ("exact", 11)
    # A pixel changed in the middle: which others change with it.
    x = pixels(64, 64)[:1]
    other = x.copy()
    other[..., 32, 32] ^= 0xFF
    before, after = (runner(item, probabilities=True).probabilities for item in (x, other))
    assert before is not None and after is not None
    changed = np.argwhere(np.abs(after - before).max(axis=(0, 1)) > 1e-7)
    assert changed.min(axis=0).tolist() == [32 - rows, 21]
    assert changed.max(axis=0).tolist() == [32 + rows, 43]


def test_statistics_over_the_window_stay_what_they_are(tmp_path: Path) -> None:
    model = open_model(written(tmp_path / "m", testing.global_mean(), "flips", classes=list("abcd")))
    assert measure(model, load_runner(model)).exactness == "unsafe"


@pytest.mark.parametrize("augment", ["flips", "rotations", "d4"])
def test_each_view_is_one_forward_pass(tmp_path: Path, augment: str) -> None:
    runner = load_runner(open_model(written(tmp_path / "m", testing.conv_chain(), augment, classes=list("abcde"))))
    assert isinstance(runner, AugmentedRunner)
    calls: list[Any] = []
    real = runner._runner.logits
    runner._runner.logits = lambda x: calls.append(x.tobytes()) or real(x)  # type: ignore[method-assign, func-returns-value]
    runner(pixels())
    assert len(calls) == len(set(calls)) == passes(augment) == len(TURNS[augment]) == len(VIEWS[augment])


def test_it_decides_pixels_and_none_changes_no_digest(tmp_path: Path) -> None:
    made = {
        augment: open_model(written(tmp_path / augment, testing.conv_chain(), augment, classes=list("abcde"))).digest
        for augment in TURNS
    }
    assert len(set(made.values())) == len(TURNS)
    unsaid = open_model(testing.write_model(tmp_path / "unsaid", testing.conv_chain(), classes=list("abcde")))
    assert unsaid.digest == made["none"]


def test_what_cannot_be_averaged_or_turned_is_refused(tmp_path: Path) -> None:
    labels = {"classes": [str(n) for n in range(9)], "bands": ["x"], "scaling": None, "output": {"emits": "labels"}}
    with pytest.raises(ManifestError, match="cannot be averaged"):
        open_model(written(tmp_path / "labels", testing.passthrough(), "flips", **labels))
    with pytest.raises(ManifestError, match="serving.augment"):
        open_model(written(tmp_path / "odd", testing.conv_chain(), "mirrors", classes=list("abcde")))
    oblong = testing.conv_chain(size=(64, 96))
    with pytest.raises(ContractError, match="64 x 96 px only"):
        load_runner(open_model(written(tmp_path / "turned", oblong, "d4", classes=list("abcde"))))
    load_runner(open_model(written(tmp_path / "flipped", oblong, "flips", classes=list("abcde")))).close()


def test_openvino_gives_the_same_answer(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = open_model(written(tmp_path / "m", testing.strided_unet(2), "d4", classes=list("abcde")))
    ours, theirs = (load_runner(model, runtime=name)(pixels()).classes for name in ("onnxruntime", "openvino"))
    assert (ours == theirs).mean() > 0.999
