"""What `check` says of a model: figures, contradictions of its manifest, and the report that is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from model_registry import aside, candidates, check, child, live, testing
from model_registry import probe as probing
from model_registry.candidates import installed
from model_registry.errors import ArtifactError, ManifestError, ModelError
from model_registry.manifest import open_model
from tests.model_registry.networks import CLASSES, NETWORKS

# Each test starts whole models or children; the fast suite has their parts.
pytestmark = pytest.mark.slow

UNET = NETWORKS["unet nearest"].make()  # period 4, halo 12


def write(folder: Path, net: onnx.ModelProto = UNET, classes=CLASSES, **kwargs) -> Path:
    return testing.write_model(folder, net, classes=classes, **kwargs)


def findings(found: dict) -> dict[str, str]:
    return {finding["subject"]: finding["level"] for finding in found["findings"]}


def test_the_report_of_an_exact_network(tmp_path: Path):
    found = json.loads(json.dumps(check.check(str(write(tmp_path / "unet")))))
    assert (found["exactness"], found["period"], found["halo"], found["multiple"]) == ("exact", 4, 12, 4)
    assert found["error"] == {"window": None, "halo": 12, "moved": 0.0, "dprob": 0.0} and found["errors"] == []
    assert found["findings"] == [] and found["golden"] is None and found["model"] == "unet:1"
    windows = found["windows"]
    assert windows["batch_invariant"] and windows["size_invariant"] and windows["dynamic"]
    assert windows["moved_one_px_off"] > 0.002
    assert set(found["contract"]["seen"]) == set(CLASSES) and min(found["contract"]["seen"].values()) > 0
    ran = [(row["runtime"], row["precision"]) for row in found["speed"]]
    assert ran == [tuple(c) for c in candidates.candidates(open_model(tmp_path / "unet"))]
    assert all(row["mpx_per_s"] > 0 and row["cpu_s_per_mpx"] > 0 for row in found["speed"])
    assert [row["moved"] for row in found["drift"] if row["reference"]] == [0]
    assert 0 < found["cpu_seconds"] < 60


def test_the_report_of_a_network_that_is_not_exact(tmp_path: Path):
    found = check.check(str(write(tmp_path / "se", NETWORKS["squeeze-excite"].make())))
    assert found["exactness"] in ("bounded", "unsafe") and found["error"]["window"] == 512
    assert 0 < found["error"]["moved"] < 0.05 and found["error"]["halo"] == found["halo"] == 128
    # The error falls from no halo to the largest, in windows of both sizes.
    for window in (256, 512):
        curve = [row["moved"] for row in found["errors"] if row["window"] == window]
        assert curve[0] > 2 * curve[-1] and len(curve) >= 8
    assert not found["windows"]["size_invariant"]


def test_reduced_precision_has_its_drift(tmp_path: Path):
    found = check.check(str(write(tmp_path / "m")))
    bf16 = [row for row in found["drift"] if row["precision"] == "bf16"]
    if not bf16:
        pytest.skip("nothing here runs bf16")
    assert 0 < bf16[0]["moved"] < 0.2 and bf16[0]["on"] == "noise"


def test_samples_are_what_precisions_are_compared_on(tmp_path: Path):
    sample = np.random.default_rng(1).integers(0, 255, (3, 128, 128)).astype(np.uint8)
    found = check.check(str(write(tmp_path / "m")), samples=[sample])
    assert {row["on"] for row in found["drift"]} == {"the scene"}


@pytest.mark.parametrize(
    ("net", "serving", "subject", "level"),
    [
        ("unet nearest", {"window": {"halo": 8}}, "halo", "error"),
        ("unet nearest", {"window": {"halo": 8}, "exactness": "exact"}, "halo", "error"),
        ("unet nearest", {"window": {"halo": 8}, "exactness": "bounded"}, "halo", "warning"),
        ("unet nearest", {"window": {"period": 1}}, "period", "error"),
        ("unet nearest", {"window": {"multiple": 2}}, "multiple", "error"),
        ("unet nearest", {"window": {"multiple": 4, "period": 1, "halo": 12}, "exactness": "exact"}, "period", "error"),
        ("squeeze-excite", {"exactness": "exact"}, "exactness", "error"),
        ("group norm", {"exactness": "bounded"}, "exactness", "error"),
        (
            "squeeze-excite",
            {"window": {"multiple": 4, "period": 4, "halo": 32}, "exactness": "exact"},
            "exactness",
            "error",
        ),
    ],
)
def test_a_manifest_that_claims_more_than_was_measured(tmp_path: Path, net, serving, subject, level):
    found = check.check(str(write(tmp_path / "m", NETWORKS[net].make(), **serving)))
    assert findings(found) == {subject: level}, found["findings"]
    # What is told is what was measured, whatever the manifest says.
    assert (found["exactness"] == "exact") == (net == "unet nearest")
    assert found["period"] == 4 and found["speed"]


@pytest.mark.parametrize(
    "serving",
    [
        {"window": {"multiple": 4, "period": 4, "halo": 12}, "exactness": "exact"},
        {"window": {"multiple": 16, "period": 8, "halo": 20}},
        {"window": {"halo": 10}},  # rounded up to the period
        {"exactness": "unsafe"},
    ],
)
def test_a_manifest_may_be_stricter(tmp_path: Path, serving):
    found = check.check(str(write(tmp_path / "m", **serving)))
    assert found["findings"] == [] and (found["exactness"], found["halo"]) == ("exact", 12)
    model = live.load(tmp_path / "m").model
    window = model.window
    served = {"exactness": model.exactness, "halo": window.halo, "period": window.period, "multiple": window.multiple}
    assert found["served"] == served


def test_probabilities_that_are_called_logits(tmp_path: Path):
    net = softmaxed(UNET)
    found = check.check(str(write(tmp_path / "m", net)))
    assert findings(found) == {"answer": "error"} and "sum to 1" in found["findings"][0]["detail"]
    assert "emits: probabilities" in found["findings"][0]["remedy"]
    right = check.check(str(write(tmp_path / "n", net, output={"emits": "probabilities"})))
    assert right["findings"] == []


def softmaxed(net: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(net)
    (last,) = [node for node in copy.graph.node if "scores" in node.output]
    last.output[0] = "raw"
    copy.graph.node.append(onnx.helper.make_node("Softmax", ["raw"], ["scores"], axis=1))
    return copy


def test_labels_that_are_no_whole_numbers(tmp_path: Path):
    g = testing._Graph(1)
    half = g.add("Clip", g.add("Abs", g.conv("x", 3, 1)), g.weight(0), g.weight(3.4))
    net = g.finish(half, 3, 1)
    found = check.check(str(write(tmp_path / "m", net, output={"emits": "labels"})))
    assert findings(found) == {"answer": "error"} and "whole numbers" in found["findings"][0]["detail"]


def test_a_network_that_always_answers_the_same(tmp_path: Path):
    g = testing._Graph()
    net = g.finish(g.add("Mul", g.conv("x", 3, 5), g.weight(0)), 3, 5)
    assert findings(check.check(str(write(tmp_path / "m", net)))) == {"answer": "warning"}


def test_another_number_of_classes_is_a_finding_and_nothing_more_is_measured(tmp_path: Path):
    found = check.check(str(write(tmp_path / "m", classes=CLASSES[:4])))
    assert findings(found) == {"contract": "error"} and "5 channels" in found["findings"][0]["detail"]
    assert found["exactness"] is None and found["speed"] == [] and found["drift"] == []


def test_numbers_that_are_not_finite(tmp_path: Path):
    g = testing._Graph()
    net = g.finish(g.add("Mul", g.conv("x", 3, 5), g.weight(np.nan)), 3, 5)
    found = check.check(str(write(tmp_path / "m", net)))
    assert findings(found) == {"contract": "error"} and "not finite" in found["findings"][0]["detail"]


def test_what_was_measured_serves_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same probe is not made twice: the next load on this machine finds it."""
    folder = write(tmp_path / "m")
    check.check(str(folder))
    monkeypatch.setattr(probing, "measure", lambda *_: pytest.fail("measured again"))
    assert live.load(folder).model.window.halo == 12


def test_check_measures_although_something_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write(tmp_path / "m")
    live.load(folder).close()
    measured = []
    real = probing.measure
    monkeypatch.setattr(probing, "measure", lambda *args: measured.append(1) or real(*args))
    check.check(str(folder))
    assert measured


def test_it_runs_in_a_child_process(tmp_path: Path):
    folder = write(tmp_path / "m")
    arguments = {"path": str(folder)}
    found = child.run("model_registry.check:check", arguments, seconds=120, memory_bytes=4 << 30)
    assert (found["exactness"], found["halo"]) == ("exact", 12)
    (folder / "model.onnx").write_bytes(b"\0" * 100)
    with pytest.raises(ArtifactError, match="bytes, the manifest says"):
        child.run("model_registry.check:check", arguments, seconds=120, memory_bytes=4 << 30)


# The report that is kept


def test_the_report_is_kept_beside_the_model(tmp_path: Path):
    folder = write(tmp_path / "m")
    found = {"version": check.VERSION, "digest": "d", "exactness": "exact"}
    assert check.write(folder, found) == folder / "probe.json"
    assert check.read(folder, "d") == found and check.read(folder, "another") is None
    assert (folder / "probe.json").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.yaml", "probe.json"]
    assert check.write(folder / "model.yaml", found) == folder / "probe.json"
    assert check.write(folder / "model.onnx", found) == folder / "model.probe.json"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 0}', "[" * 100_000])
def test_a_spoilt_report_is_none(tmp_path: Path, text: str):
    (tmp_path / "probe.json").write_text(text)
    assert check.read(tmp_path, "d") is None


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write(tmp_path / "m")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(aside.tempfile, "mkstemp", refuse)
    assert check.write(folder, {}) is None
    assert check.read(folder, "d") is None


def test_a_write_that_fails_leaves_the_old_report_and_nothing_else(tmp_path: Path):
    folder = write(tmp_path / "m")
    check.write(folder, {"version": check.VERSION, "digest": "d"})
    with pytest.raises(TypeError):
        check.write(folder, {"version": object()})
    assert check.read(folder, "d") is not None
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.yaml", "probe.json"]


def test_a_report_knows_model_machine_and_measurement(monkeypatch: pytest.MonkeyPatch):
    keys = {check.key("a", "cpu", 2), check.key("b", "cpu", 2), check.key("a", "cpu", 4)}
    monkeypatch.setattr(probing, "VERSION", probing.VERSION + 1)
    keys.add(check.key("a", "cpu", 2))
    monkeypatch.setattr(candidates, "versions", lambda: "onnxruntime=99")
    keys.add(check.key("a", "cpu", 2))
    assert len(keys) == 5


def test_no_model_is_an_error(tmp_path: Path):
    with pytest.raises(ManifestError):
        check.check(str(tmp_path))
    folder = write(tmp_path / "m")
    (folder / "model.onnx").write_bytes(b"not a network")
    with pytest.raises(ModelError):
        check.check(str(folder))


def test_a_wrong_runtime_is_told_and_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if not installed("openvino"):
        pytest.skip("openvino is not installed")
    real = check.load_runner

    def load(model, device="cpu", threads=None, runtime=None, precision="fp32"):
        runner = real(model, device, threads, runtime, precision)
        if runtime == "openvino":
            answer = runner.__call__

            class Wrong:
                def __getattr__(self, name):
                    return getattr(runner, name)

                def __call__(self, *args, **kwargs):
                    found = answer(*args, **kwargs)
                    return found._replace(classes=np.roll(found.classes, 1, axis=2))

            return Wrong()
        return runner

    monkeypatch.setattr(check, "load_runner", load)
    found = check.check(str(write(tmp_path / "m")))
    row = next(row for row in found["drift"] if row["runtime"] == "openvino" and row["precision"] == "fp32")
    assert row["moved"] > 0.1 and "another class than the reference" in row["why_not"]


def test_one_class_of_noise_is_no_reason_for_a_small_halo(tmp_path: Path):
    """A network whose answer to noise is one class moves no pixel; its halo must not be 0 for that."""
    g = testing._Graph(3)
    x = g.add("Relu", g.conv("x", 3, 8))
    gate = g.add("Mul", g.add("GlobalAveragePool", x), g.weight(0.5))
    scores = g.add("Add", g.conv(g.add("Add", x, gate), 8, 5), g.weight(np.array([50, 0, 0, 0, 0]).reshape(1, 5, 1, 1)))
    found = check.check(str(write(tmp_path / "m", g.finish(scores, 3, 5))))
    assert found["halo"] == 128 and any("one class" in note for note in found["notes"])
    assert findings(found) == {"answer": "warning"}


def test_fixed_windows_are_told(tmp_path: Path):
    net = testing.strided_unet(2, size=(128, 128))
    found = check.check(str(write(tmp_path / "m", net)))
    assert list(found["fixed"]) == [128, 128] and not found["windows"]["dynamic"]
    wrong = write(tmp_path / "n", net)
    document = yaml.safe_load((wrong / "model.yaml").read_text())
    document["properties"]["input"][0]["input"]["shape"] = [-1, 3, 64, 64]
    (wrong / "model.yaml").write_text(yaml.safe_dump(document))
    assert findings(check.check(str(wrong))) == {"contract": "error"}


def test_the_manifests_claims_are_not_taken_for_granted(tmp_path: Path):
    """A manifest that states all four numbers is believed by `load`; `check` is what finds it out."""
    stated = {"window": {"multiple": 1, "period": 1, "halo": 0}, "exactness": "exact"}
    folder = write(tmp_path / "m", **stated)
    found = check.check(str(folder))
    assert {"multiple", "period", "halo"} == set(findings(found)) and set(findings(found).values()) == {"error"}
    assert (found["period"], found["halo"]) == (4, 12)
