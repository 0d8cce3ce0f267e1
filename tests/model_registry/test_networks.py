"""The probe against eleven kinds of networks: right on each, proven by passes over a whole image that it never saw."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from model_registry import probe, testing
from model_registry.candidates import installed
from model_registry.manifest import open_model
from model_registry.probe import Probe
from model_registry.runtimes import load_runner
from tests.model_registry.networks import CLASSES, NETWORKS, squeeze_excite, tolerant_unet, tripled, unet, vit

EXACT = [name for name, known in NETWORKS.items() if known.halo is not None]
OTHERS = [name for name in NETWORKS if name not in EXACT]
EDGE, CORE = 448, 256  # px of the whole image, and of the core that windows are compared on


@cache
def network(name: str) -> onnx.ModelProto:
    return NETWORKS[name].make()


def probed(folder: Path, net: onnx.ModelProto, **kwargs) -> Probe:
    model = open_model(testing.write_model(folder, net, classes=CLASSES, **kwargs))
    return probe.measure(model, load_runner(model))


@cache
def image() -> np.ndarray:
    """float32[1, 3, EDGE, EDGE] in 0..1, rough and smooth."""
    random = np.random.default_rng(77)
    coarse = random.random((1, 3, EDGE // 8, EDGE // 8)).repeat(8, axis=2).repeat(8, axis=3)
    return ((coarse + random.random((1, 3, EDGE, EDGE))) / 2).astype(np.float32)


class Direct:
    """ONNX Runtime as such: no code of ours between the network and the comparison."""

    def __init__(self, net: onnx.ModelProto) -> None:
        self.session = onnxruntime.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])

    def classes(self, x: np.ndarray) -> np.ndarray:
        (scores,) = self.session.run(None, {"x": np.ascontiguousarray(x)})
        return scores.argmax(axis=1)[0]

    def differing(self, halo: int, shift: int = 0, core: int = CORE) -> int:
        """Pixels of the core that a window with that halo gives another class than one pass over everything."""
        start = (EDGE - core) // 2 + shift
        window, inside = np.s_[start - halo : start + core + halo], np.s_[halo : halo + core]
        got = self.classes(image()[..., window, window])[inside, inside]
        place = np.s_[start : start + core]
        return int((got != self.classes(image())[place, place]).sum())


@pytest.mark.parametrize("name", EXACT)
def test_period_and_halo_are_those_that_the_layers_have(tmp_path: Path, name: str):
    found = probed(tmp_path / "m", network(name))
    known = NETWORKS[name]
    assert (found.exactness, found.period, found.multiple, found.halo) == (
        "exact", known.period, known.period, known.halo
    ), found.notes  # fmt: skip
    assert found.error is not None and found.error.moved == 0 and not found.errors


@pytest.mark.parametrize("name", EXACT)
def test_windows_with_the_measured_halo_equal_one_pass(tmp_path: Path, name: str):
    found = probed(tmp_path / "m", network(name))
    direct = Direct(network(name))
    assert len(np.unique(direct.classes(image()))) == len(CLASSES)
    assert direct.differing(found.halo) == 0
    less = int(0.75 * found.halo) // found.period * found.period
    assert less < found.halo and direct.differing(less) > 0, "a smaller halo would have done"
    if found.period > 1:
        assert direct.differing(found.halo, shift=1) > 0.002 * CORE**2, "windows off the period would have done"


@pytest.mark.parametrize("name", [name for name in EXACT if NETWORKS[name].period != 1])
def test_a_stated_period_of_one_pixel_is_found_wrong(tmp_path: Path, name: str):
    """A manifest that says windows may start anywhere would show a misalignment of 1 px as seams."""
    found = probed(tmp_path / "m", network(name), window={"period": 1})
    assert found.exactness != "exact" and "stated period of 1 px does not hold" in found.notes[0]


@pytest.mark.parametrize("name", OTHERS)
def test_networks_that_no_halo_makes_exact_are_recognised(tmp_path: Path, name: str):
    found = probed(tmp_path / "m", network(name))
    assert found.exactness in ("bounded", "unsafe")
    cause = "place in the window" if name == "align_corners" else "statistics over the window"
    assert cause in found.notes[0]
    # Off the grid of their own lowest level they would be worse still.
    assert found.period == {"vit": 8}.get(name, 4)
    # Nothing is good enough, so the halo is the largest that a window of 512 px affords; and the error is told.
    assert found.halo == 128 and {seam.window for seam in found.errors} == {256, 512}
    assert found.error is not None and found.error.window == 512 and found.error.moved > 0
    assert f"{100 * found.error.moved:.2g} % of the pixels" in " ".join(found.notes)


@pytest.mark.parametrize("name", OTHERS)
def test_they_are_not_exact_indeed(name: str):
    """What the probe says is so: no halo that fits makes a window's answer that of the whole image."""
    assert Direct(network(name)).differing(96, core=128) > 0


def test_statistics_over_the_window_are_unsafe(tmp_path: Path):
    assert probed(tmp_path / "m", network("group norm")).exactness == "unsafe"


def test_a_weak_gate_is_bounded_and_gets_the_smallest_halo_that_is_good_enough(tmp_path: Path):
    found = probed(tmp_path / "m", squeeze_excite(strength=2e-5))
    assert found.exactness == "bounded" and found.error is not None
    assert found.error.moved <= 10e-6 and found.error.dprob <= 1e-2
    worse = [seam for seam in found.errors if seam.window == 512 and seam.halo < found.halo]
    assert 0 < found.halo < 128 and all(seam.moved > 10e-6 or seam.dprob > 1e-2 for seam in worse)


def test_learned_positions_in_a_fixed_window(tmp_path: Path):
    found = probed(tmp_path / "m", vit(size=(128, 128)))
    assert found.exactness == "unsafe" and found.halo == 32
    assert {seam.window for seam in found.errors} == {128}


def test_a_size_that_is_merely_accepted_is_no_period(tmp_path: Path):
    """Like networks that enlarge to the size of their skip connection: any size goes in, only some come out right."""
    net = tolerant_unet()
    assert Direct(net).classes(image()[..., :51, :49]).shape == (51, 49)
    found = probed(tmp_path / "m", net)
    assert (found.exactness, found.period, found.multiple, found.halo) == ("exact", 8, 8, 24), found.notes


def test_a_period_that_is_no_power_of_two(tmp_path: Path):
    found = probed(tmp_path / "m", tripled())
    assert (found.exactness, found.period, found.halo) == ("exact", 3, 3), found.notes


def test_window_sizes_that_cannot_be_run_are_told(tmp_path: Path):
    model = open_model(testing.write_model(tmp_path / "m", network("squeeze-excite"), classes=CLASSES))
    runner = load_runner(model)
    small = runner.logits

    def logits(x: np.ndarray) -> np.ndarray:
        if min(x.shape[2:]) >= 512:
            raise MemoryError("no memory left")
        return small(x)

    runner.logits = logits  # type: ignore[method-assign]
    found = probe.measure(model, runner)
    assert any("windows of 512 px cannot be run" in note for note in found.notes)
    assert found.halo == 128 and {seam.window for seam in found.errors} == {256}


def test_out_of_time_the_full_windows_are_left_out(tmp_path: Path):
    model = open_model(testing.write_model(tmp_path / "m", network("squeeze-excite"), classes=CLASSES))
    found = probe.measure(model, load_runner(model), budget_s=0)
    assert any("take too long" in note for note in found.notes) and {s.window for s in found.errors} == {256}


def test_errors_survive_the_cache(tmp_path: Path):
    model = open_model(testing.write_model(tmp_path / "m", network("squeeze-excite"), classes=CLASSES))
    runner = load_runner(model)
    first = probe.measure_or_recall(model, runner)
    runner.logits = lambda x: pytest.fail("measured again")  # type: ignore[method-assign]
    assert probe.measure_or_recall(model, runner) == first and first.errors


@pytest.mark.parametrize("name", ["unet transposed", "unet bilinear", "max-pool", "dilated"])
def test_openvino_needs_the_same_windows(tmp_path: Path, name: str):
    """The probe through another runtime: what it finds is the network's, not the runtime's."""
    if not installed("openvino"):
        pytest.skip("openvino is not installed")
    model = open_model(testing.write_model(tmp_path / "m", network(name), classes=CLASSES))
    found = probe.measure(model, load_runner(model, runtime="openvino"))
    assert (found.exactness, found.period, found.halo) == ("exact", NETWORKS[name].period, NETWORKS[name].halo)


def test_a_torch_unet_as_torch_and_as_exported_onnx_is_the_same(tmp_path: Path):
    """The built-in architecture from safetensors in PyTorch, and what PyTorch's exporter makes of it."""
    torch = pytest.importorskip("torch")
    import io
    import warnings

    import yaml
    from safetensors.torch import save

    from model_registry import architectures
    from model_registry.artifacts import checksum_of

    sizes = {"in_channels": 3, "classes": 5, "base": 4, "depth": 2}
    torch.manual_seed(3)
    net = architectures.build("unet", sizes)
    with torch.no_grad():
        for _ in range(5):
            net.train()(torch.rand(2, 3, 64, 64))
    net.eval()
    axes = {0: "n", 2: "h", 3: "w"}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, torch.zeros(1, 3, 64, 64), file, dynamo=False, input_names=["x"], output_names=["scores"],
            dynamic_axes={"x": axes, "scores": axes},
        )  # fmt: skip
    exported = probed(tmp_path / "onnx", onnx.load_from_string(file.getvalue()))
    folder = testing.write_model(tmp_path / "torch", network("plain"), classes=CLASSES)
    (folder / "model.onnx").unlink()
    data = save(net.state_dict())
    (folder / "w.safetensors").write_bytes(data)
    document = yaml.safe_load((folder / "model.yaml").read_text())
    document["serving"]["artifacts"] = [
        {"href": "w.safetensors", "format": "safetensors", "checksum": checksum_of(data), "size": len(data)}
    ]
    document["properties"] |= {"architecture": "unet", "hyperparameters": sizes}
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    model = open_model(folder)
    native = probe.measure(model, load_runner(model))
    # Two convolutions a level, on blocks of 4 px: 2 px and so 1 at half size, + 2 = 3 and so 2 at a quarter, + 2 = 4,
    # which are 8 at half size, + 2 = 10, which are 20 at full size, + 2 = 22.
    assert (exported.exactness, exported.period, exported.halo) == ("exact", 4, 24)
    assert (native.exactness, native.period, native.halo) == ("exact", 4, 24)


def test_a_deep_bilinear_unet_is_probed_in_little_time(tmp_path: Path):
    """Depth 4, the size that is common: period 16; the lowest level reaches 16 px further than by nearest."""
    found = probed(tmp_path / "m", unet("half_pixel", depth=4))
    assert (found.exactness, found.period) == ("exact", 16) and 48 < found.halo <= 80
