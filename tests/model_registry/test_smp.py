"""Networks of segmentation_models_pytorch. Needs torchvision made for the installed torch: elsewhere skips by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from model_registry import architectures
from model_registry.architectures import smp
from model_registry.errors import ContractError, ManifestError
from model_registry.intake import Answers, convert, prepare
from model_registry.manifest import open_model
from model_registry.runtimes import load_runner

ANSWERS = Answers(
    classes=tuple({"name": name} for name in "abc"), bands=("B04", "B03", "B02", "B08"), gsd=10.0,
    scaling=({"type": "scale", "value": 10000},), dtypes=("uint16",), values="dn",
)  # fmt: skip
OPTIONS = {"encoder_name": "resnet18", "in_channels": 4, "classes": 3}


@pytest.fixture(scope="module")
def library():
    """The library itself; `architectures.smp` is what is tested."""
    pytest.importorskip("torch")
    try:
        return smp.import_smp()
    except ValueError as error:
        pytest.skip(str(error))


# What needs no library: the allow-list.


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("smp.DPT", OPTIONS, "is not one of"),
        ("smp.__class__", OPTIONS, "is not one of"),
        ("smp.Unet", OPTIONS | {"encoder_name": "tu-resnet18"}, "needs? no download"),
        ("smp.Unet", OPTIONS | {"encoder_name": "../x"}, "needs? no download"),
        ("smp.Unet", {"in_channels": 4, "classes": 3}, "needs? no download"),
        ("smp.Unet", OPTIONS | {"aux_params": {"classes": 3}}, "second answer"),
        ("smp.Unet", OPTIONS | {"pretrained_cfg": {"url": "x"}}, "unknown option 'pretrained_cfg'"),
        ("smp.Unet", OPTIONS | {"classes": 10**9}, "larger than any network"),
        ("smp.Unet", OPTIONS | {"decoder_channels": [2**40] * 5}, "larger than any network"),
        ("smp.Unet", OPTIONS | {"decoder_channels": [16] * 10**4}, "has 10000 entries"),
        ("smp.Unet", OPTIONS | {"decoder_channels": [[16]]}, "decoder_channels is"),
        ("smp.Unet", OPTIONS | {"in_channels": "4"}, "in_channels must be a number"),
    ],
)
def test_what_is_not_on_the_list(name: str, options: dict, told: str):
    with pytest.raises(ValueError, match=told):
        smp.checked(name, options)


def test_weights_of_imagenet_are_never_asked_for():
    assert "encoder_weights" not in smp.checked("smp.Unet", OPTIONS | {"encoder_weights": "imagenet"})


def test_the_list_names_what_the_library_has(library):
    from segmentation_models_pytorch.encoders import encoders

    assert set(encoders) >= smp.ENCODERS
    assert all(hasattr(library, name) for name in smp.CLASSES)


@pytest.fixture
def saved(library, tmp_path: Path) -> Path:
    import torch

    torch.manual_seed(0)
    net = library.Unet(**OPTIONS, encoder_weights=None).eval()
    net.save_pretrained(str(tmp_path / "saved"))
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    # What a trained model's config says, and what the library would download before it loads the real weights.
    (tmp_path / "saved" / "config.json").write_text(json.dumps({**config, "encoder_weights": "imagenet"}))
    return tmp_path / "saved"


def test_a_saved_folder_becomes_a_model(library, saved: Path, tmp_path: Path):
    import torch

    prepare(saved, tmp_path / "staging", ANSWERS)
    model = open_model(tmp_path / "staging")
    assert model.architecture == "smp.Unet" and model.hyperparameters["encoder_name"] == "resnet18"
    assert "encoder_weights" not in model.hyperparameters and model.emits == "logits"
    x = np.random.default_rng(0).integers(0, 10000, (1, 4, 64, 64)).astype(np.uint16)
    before = os.environ.get("HF_HUB_OFFLINE")
    run = load_runner(model, threads=1)
    assert os.environ.get("HF_HUB_OFFLINE") == before
    net = library.Unet(**OPTIONS, encoder_weights=None).eval()
    net.load_state_dict(__import__("safetensors.torch").torch.load_file(saved / "model.safetensors"))
    with torch.no_grad():
        wanted = net(torch.from_numpy(x.astype(np.float32) / np.float32(10000))).numpy()
    np.testing.assert_allclose(run.logits(x.astype(np.float32) / np.float32(10000)), wanted, atol=1e-4)


def test_its_activation_is_part_of_it(library, tmp_path: Path):
    net = library.Unet(**OPTIONS, activation="softmax2d", encoder_weights=None)
    net.save_pretrained(str(tmp_path / "saved"))
    prepare(tmp_path / "saved", tmp_path / "staging", ANSWERS)
    model = open_model(tmp_path / "staging")
    assert (model.emits, model.activation) == ("probabilities", "none")


def test_another_encoder_than_the_weights(library, saved: Path, tmp_path: Path):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "encoder_name": "resnet34"}))
    with pytest.raises(ContractError, match="missing"):
        prepare(saved, tmp_path / "staging", ANSWERS)
    (saved / "config.json").write_text(json.dumps({**config, "encoder_name": "tu-resnet34"}))
    with pytest.raises(ManifestError, match=r"config\.json: encoder_name 'tu-resnet34'"):
        prepare(saved, tmp_path / "staging", ANSWERS)


def test_a_checkpoint_of_it(library, saved: Path, tmp_path: Path):
    import safetensors.torch
    import torch

    state = safetensors.torch.load_file(saved / "model.safetensors")
    torch.save({"state_dict": {f"model.{k}": v for k, v in state.items()}}, tmp_path / "c.ckpt")
    convert(tmp_path / "c.ckpt", tmp_path / "c.safetensors", "smp.Unet", OPTIONS)
    got = safetensors.torch.load_file(tmp_path / "c.safetensors")
    assert set(got) == set(state) and all((got[key] == state[key]).all() for key in got)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(smp.CLASSES))
def test_every_class_on_the_list_runs(library, name: str):
    import torch

    encoder = "mit_b0" if name == "Segformer" else "resnet18"
    net = architectures.build(smp.PREFIX + name, OPTIONS | {"encoder_name": encoder}).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 4, 128, 128)).shape == (1, 3, 128, 128)
