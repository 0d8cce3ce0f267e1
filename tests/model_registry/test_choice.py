"""Which runtime and precision is taken: the decision as a pure function, then on real runners."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_registry import candidates, choice, live, moat, testing, trials
from model_registry.candidates import Candidate, wanted
from model_registry.choice import Choice, choose, decide, examine
from model_registry.errors import ContractError, UnsupportedModel
from model_registry.manifest import Model, PrecisionSpec, open_model
from model_registry.postprocess import Prediction
from model_registry.runtimes import _cpu, load_runner
from model_registry.trials import Trial

FIVE = list("abcde")
ORT, OV, OV16 = Candidate("onnxruntime", "fp32"), Candidate("openvino", "fp32"), Candidate("openvino", "bf16")
DEMO = Path(__file__).resolve().parents[2] / "tiler" / "demo" / "model"


def trial(candidate: Candidate, speed: float, moved: float = 0.0, **kwargs: Any) -> Trial:
    return Trial(*candidate, pixels_per_second=speed * 1e6, moved=moved, **kwargs)


# The decision


@pytest.mark.parametrize(
    ("tried", "policy", "limit", "expected"),
    [
        ([trial(ORT, 2), trial(OV, 3)], "fp32", 0.005, OV),
        ([trial(ORT, 2), trial(OV, 2.1)], "fp32", 0.005, ORT),  # not worth leaving the reference
        ([trial(ORT, 2), trial(OV, 3, dropped="wrong")], "fp32", 0.005, ORT),
        ([trial(ORT, 2), trial(OV, 3), trial(OV16, 9, moved=0.004)], "auto", 0.005, OV16),
        ([trial(ORT, 2), trial(OV, 3), trial(OV16, 9, moved=0.006)], "auto", 0.005, OV),
        ([trial(ORT, 2), trial(OV, 3), trial(OV16, 9, moved=1e-6)], "auto", 0.0, OV),
        ([trial(ORT, 2), trial(OV, 3), trial(OV16, 1, moved=0.0)], "auto", 0.005, OV),
        ([trial(ORT, 2), trial(OV, 3), trial(OV16, 9, moved=0.001, seams="seams")], "auto", 0.005, OV),
        ([trial(OV16, 9, moved=0.5)], "bf16", 0.005, OV16),  # the operator's own word
    ],
)
def test_the_fastest_right_one(tried, policy, limit, expected):
    assert decide(tried, policy, limit).candidate == expected


def test_reasons_name_what_was_refused_and_what_it_moves():
    got = decide([trial(ORT, 2), trial(OV, 3, dropped="wrong"), trial(OV16, 9, moved=0.02)], "auto", 0.005)
    text = "; ".join(got.reasons)
    assert "openvino fp32: wrong" in text and "openvino bf16: it moves 2 % of the pixels, 0.5 % are allowed" in text
    got = decide([trial(ORT, 2), trial(OV16, 9, moved=0.002)], "auto", 0.005)
    assert "bf16 moves 0.2 % of the pixels" in got.reasons[-1] and got.moved == 0.002


def test_nothing_right_is_an_error():
    with pytest.raises(UnsupportedModel, match="openvino fp32: wrong"):
        decide([trial(OV, 3, dropped="wrong")], "fp32", 0.005)


def test_seams_are_looked_for_from_the_fastest_down_until_one_has_none():
    asked = []

    def seams_of(t: Trial) -> str:
        asked.append(t.candidate)
        return "seams" if t.candidate == OV16 else ""

    tried = [trial(ORT, 2), trial(OV, 3), trial(OV16, 9)]
    found = examine(tried, "auto", 0.005, seams_of)
    assert asked == [OV16, OV] and [t.seams for t in found] == [None, "", "seams"]
    assert decide(found, "auto", 0.005).candidate == OV
    named = decide(examine([trial(OV16, 9)], "bf16", 0.005, seams_of), "bf16", 0.005)
    assert (named.candidate, named.seams) == (OV16, "seams"), "an operator's precision stays, and its seams are told"


# What a machine has


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A network with its window resolved."""
    window = {"multiple": 4, "period": 4, "halo": 12}
    return open_model(
        testing.write_model(tmp_path / "m", testing.strided_unet(2), classes=FIVE, window=window, exactness="exact")
    )


def machine_with(monkeypatch: pytest.MonkeyPatch, bf16: bool, openvino: bool = True) -> None:
    monkeypatch.setattr(_cpu, "has_bf16", lambda: bf16)
    monkeypatch.setattr(candidates, "installed", lambda package: openvino if package == "openvino" else True)


def test_candidates_follow_the_machine(model: Model, monkeypatch: pytest.MonkeyPatch):
    machine_with(monkeypatch, bf16=True)
    assert candidates.candidates(model) == [ORT, OV, OV16]
    assert candidates.candidates(model, "cuda") == [ORT]
    machine_with(monkeypatch, bf16=False)
    assert candidates.candidates(model) == [ORT, OV]
    machine_with(monkeypatch, bf16=True, openvino=False)
    assert candidates.candidates(model) == [ORT]


@pytest.mark.parametrize(
    ("capability", "policy", "expected"),
    [
        ((8, 0), "auto", ["fp32", "bf16"]),
        ((9, 0), "fp16", ["fp16"]),
        ((7, 5), "auto", ["fp32", "fp16"]),
        ((7, 5), "fp32", ["fp32"]),
    ],
)
def test_candidates_on_gpus(model: Model, monkeypatch: pytest.MonkeyPatch, capability, policy, expected):
    monkeypatch.setattr(candidates, "_capability", lambda device: capability)
    weights = replace(model, artifacts=(replace(model.artifacts[0], format="safetensors"),))
    assert [c.precision for c in wanted(weights, "cuda", policy, "auto")] == expected
    assert {c.runtime for c in wanted(weights, "cuda", policy, "auto")} == {"torch"}
    if capability < (8, 0):
        with pytest.raises(UnsupportedModel, match="precision bf16 cannot run this model on this machine's cuda"):
            wanted(weights, "cuda", "bf16", "auto")


def test_the_author_limits_auto_but_not_the_operator(model: Model, monkeypatch: pytest.MonkeyPatch):
    machine_with(monkeypatch, bf16=True)
    strict = replace(model, precision=PrecisionSpec(allowed=()))
    assert wanted(strict, "cpu", "auto", "auto") == [ORT, OV]
    assert wanted(strict, "cpu", "bf16", "auto") == [OV16]


def test_what_cannot_be_had_is_an_error_with_a_remedy(model: Model, monkeypatch: pytest.MonkeyPatch):
    machine_with(monkeypatch, bf16=False)
    with pytest.raises(UnsupportedModel, match="precision bf16 cannot .* Possible here: onnxruntime fp32, openvino"):
        wanted(model, "cpu", "bf16", "auto")
    machine_with(monkeypatch, bf16=True, openvino=False)
    with pytest.raises(UnsupportedModel, match=r"pip install titiler-inference\[openvino\]"):
        wanted(model, "cpu", "bf16", "auto")


def test_without_openvino_it_is_silently_absent_unless_named(model: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert candidates.candidates(model) == [ORT]
    loaded = live.load(model, threads=1)
    assert loaded.runner.runtime == "onnxruntime" and loaded.choice.trials == ()
    for how in (lambda: live.load(model, runtime="openvino"), lambda: load_runner(model, runtime="openvino")):
        with pytest.raises(UnsupportedModel, match=r"Run: pip install titiler-inference\[openvino\]"):
            how()


# On real runners

needs_openvino = pytest.mark.skipif(not candidates.installed("openvino"), reason="openvino is not installed")


@needs_openvino
def test_a_choice_is_measured_once_and_kept(model: Model, monkeypatch: pytest.MonkeyPatch, private_cache: Path):
    machine_with(monkeypatch, bf16=True)
    first = choose(model, "auto", threads=1, allowed_moved=1.0)
    assert [t.candidate for t in first.trials] == [ORT, OV, OV16] and all(t.pixels_per_second for t in first.trials)
    assert not [t.dropped for t in first.trials if t.dropped]
    monkeypatch.setattr(trials.Bench, "trial", lambda *_: pytest.fail("measured again"))
    assert choose(model, "auto", threads=1, allowed_moved=1.0) == first
    # Another policy judges the same measurements.
    refused = choose(model, "auto", threads=1, allowed_moved=0.0)
    assert refused.precision == "fp32" and refused.trials[2].moved > 0
    (kept,) = (private_cache / "titiler-inference" / "choice").iterdir()
    monkeypatch.undo()
    machine_with(monkeypatch, bf16=True)
    for text in ("", "{}", "[1]", '[{"runtime": "x"}]', kept.read_text().replace("bf16", "fp16")):
        kept.write_text(text)
        assert len(choose(model, "auto", threads=1).trials) == 3, "a spoilt cache is measured again"


@pytest.mark.slow
@needs_openvino
@pytest.mark.parametrize("change", ["threads", "samples", "version", "remeasure"])
def test_what_makes_a_measurement_old(model: Model, monkeypatch: pytest.MonkeyPatch, change: str):
    choose(model, threads=1)
    counted: list[Candidate] = []
    measure = trials.Bench.trial
    monkeypatch.setattr(trials.Bench, "trial", lambda self, c, *rest: counted.append(c) or measure(self, c, *rest))
    choose(model, threads=1)
    assert not counted
    if change == "version":
        monkeypatch.setattr(choice, "versions", lambda: "openvino=2099.1")
    samples = [np.zeros((3, 64, 64), dtype=np.uint8)] if change == "samples" else []
    choose(model, threads=2 if change == "threads" else 1, samples=samples, remeasure=change == "remeasure")
    assert counted == [ORT, OV]


class Wrong:
    """The reference, but every hundredth pixel gets the next class."""

    runtime, device, precision = "openvino", "cpu", "fp32"

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, pixels: Any, unscale: Any = None, probabilities: bool = False) -> Prediction:
        got = self.inner(pixels, unscale, probabilities)
        classes = got.classes.copy()
        classes[:, ::10, ::10] = (classes[:, ::10, ::10] + 1) % 5
        return got._replace(classes=classes)

    def close(self) -> None:
        self.inner.close()


@needs_openvino
def test_a_wrong_candidate_is_dropped(model: Model, monkeypatch: pytest.MonkeyPatch):
    load = trials.load_runner
    monkeypatch.setattr(trials, "load_runner", lambda m, d, t, *c: Wrong(load(m, d, t)))
    got = choose(model, "fp32", threads=1, remeasure=True)
    assert got.candidate == ORT and "another class than the reference" in got.trials[1].dropped
    assert got.trials[1].moved == pytest.approx(0.01, rel=0.1)
    with pytest.raises(UnsupportedModel, match="no runtime gives the right answer"):
        choose(model, "fp32", "openvino", threads=1, remeasure=True)


@needs_openvino
def test_a_candidate_that_fails_is_dropped(model: Model, monkeypatch: pytest.MonkeyPatch):
    def failing(*_: Any) -> Any:
        raise ContractError("no such operator")

    monkeypatch.setattr(trials, "load_runner", failing)
    got = choose(model, "fp32", threads=1)
    assert got.candidate == ORT and got.trials[1].dropped == "no such operator"


@needs_openvino
def test_the_moved_share_is_counted_on_the_samples(model: Model, monkeypatch: pytest.MonkeyPatch):
    machine_with(monkeypatch, bf16=True)
    samples = [np.random.default_rng(s).integers(0, 256, (3, 100, 83), dtype=np.uint8) for s in range(2)]
    got = choose(model, "bf16", threads=1, samples=samples)
    assert got.candidate == OV16 and got.reasons[-1].endswith("of the pixels of the scene")
    fp32, bf16 = load_runner(model, threads=1), load_runner(model, "cpu", 1, "openvino", "bf16")
    windows = np.stack([s[:, :100, :80] for s in samples])  # cut down to multiples of 4
    assert got.moved == np.mean(fp32(windows).classes != bf16(windows).classes) > 0
    with pytest.raises(ContractError, match=r"Give windows \[3, row, column\]"):
        choose(model, "bf16", threads=1, samples=[np.zeros((4, 64, 64), dtype=np.uint8)])


@needs_openvino
def test_load_runs_what_was_chosen_and_auto_refuses_what_moves_too_much(tmp_path: Path, monkeypatch, private_cache):
    machine_with(monkeypatch, bf16=True)
    # Speeds are this machine's own; here the decision must not depend on them.
    monkeypatch.setattr(trials.Bench, "speed", lambda self, runner: 9e6 if runner.precision == "bf16" else 1e6)
    block = {"default": "auto", "allowed": ["bf16"], "max_moved": 1.0}
    folder = testing.write_model(tmp_path / "m", testing.strided_unet(2), classes=FIVE, precision=block)
    loaded = live.load(folder, threads=1)
    assert (loaded.runner.runtime, loaded.runner.precision) == ("openvino", "bf16") == loaded.choice.candidate
    assert loaded.model.exactness == "exact" and loaded.choice.moved > 0
    loaded.warm([(64, 64), (32, 96)])
    with pytest.raises(ContractError):
        loaded.warm([(63, 64)])
    assert live.load(folder, threads=1, policy="fp32").runner.precision == "fp32"
    assert live.load(folder, threads=1, allowed_moved=1e-9).runner.precision == "fp32"
    monkeypatch.setattr(moat, "fault", lambda runner, model: "its windows show")
    for kept in (private_cache / "titiler-inference" / "choice").iterdir():
        kept.unlink()
    assert live.load(folder, threads=1).runner.precision == "fp32"
    named = live.load(folder, threads=1, policy="bf16")
    assert (named.runner.precision, named.model.exactness, named.choice.seams) == (
        "bf16",
        "bounded",
        "its windows show",
    )


@needs_openvino
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_windows_of_openvino_show_no_seams_at_the_probed_halo(model: Model, precision):
    runner = load_runner(model, "cpu", 1, "openvino", precision)
    assert moat.fault(runner, model) == ""
    narrow = replace(model, window=replace(model.window, halo=8))
    assert "beyond the halo of 8 px" in moat.fault(runner, narrow)


def test_one_candidate_is_not_measured(model: Model, monkeypatch: pytest.MonkeyPatch, private_cache: Path):
    monkeypatch.setattr(trials, "Bench", lambda *_: pytest.fail("measured"))
    assert choose(model, "fp32", "onnxruntime") == Choice(*ORT, reasons=("nothing else to choose from",))
    assert not list(private_cache.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not (DEMO / "model.yaml").is_file(), reason="the demo's model is absent")
def test_the_demo_network_is_the_same_in_every_runtime():
    pytest.importorskip("torch")
    model = open_model(DEMO)
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (3, 24, 24)), np.ones((8, 8))).astype(np.uint8)[None]
    wanted = load_runner(model)(image, probabilities=True)
    two = np.sort(wanted.probabilities, axis=1)
    for candidate in candidates.candidates(model)[1:]:
        got = load_runner(model, "cpu", None, *candidate)(image).classes
        moved = got != wanted.classes
        if candidate.precision == "fp32":
            assert not (moved & (two[:, -1] - two[:, -2] > 1e-4)).any()
        else:
            assert moved.mean() < 0.01
