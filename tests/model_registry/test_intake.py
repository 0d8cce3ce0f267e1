"""What people have becomes a model's folder, or one message says all that is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from model_registry import child, golden, live, testing, trust
from model_registry.artifacts import checksum_of
from model_registry.errors import ArtifactError, ContractError, ManifestError, ModelError, UnsupportedModel
from model_registry.intake import Answers, convert, describe, document_of, name_of, prepare, questions, write_manifest
from model_registry.intake.answers import read_classes, read_gsd, read_mapping, read_scaling
from model_registry.manifest import Model, open_model
from model_registry.runtimes import load_runner

SCALE = ({"type": "scale", "value": 255},)
CLASSES = tuple({"name": name} for name in "abcde")
ALL = Answers(classes=CLASSES, bands=("red", "green", "blue"), gsd=0.5, scaling=SCALE)


@pytest.fixture
def whole() -> None:
    """Asked for by the tests that go through a child process; the others save its start, and the import of torch."""


@pytest.fixture(autouse=True)
def child_or_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(function: str, arguments: dict, *, seconds: float, memory_bytes: int) -> object:
        module, _, name = function.partition(":")
        return json.loads(json.dumps(getattr(import_module(module), name)(**json.loads(json.dumps(arguments)))))

    if "whole" not in request.fixturenames:
        monkeypatch.setattr(child, "run", here)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some ONNX files, written once."""
    folder = tmp_path_factory.mktemp("files")
    chain = testing.conv_chain()
    (folder / "chain.onnx").write_bytes(chain.SerializeToString())
    keys = {
        "model_type": '"Segmentor"', "class_names": json.dumps({str(i): n for i, n in enumerate("abcde")}),
        "resolution": "50", "tile_size": "256", "tiles_overlap": "10", "seg_thresh": "0.4",
        "standardization_mean": "[0.4, 0.5, 0.6]", "standardization_std": "[0.2, 0.2, 0.3]",
    }  # fmt: skip
    (folder / "deepness.onnx").write_bytes(testing.with_metadata(chain, **keys).SerializeToString())
    sized = testing.conv_chain(size=(96, 64))
    (folder / "sized.onnx").write_bytes(sized.SerializeToString())
    multiple = testing.strided_unet()
    for info in (multiple.graph.input[0], multiple.graph.output[0]):
        for axis, name in zip(info.type.tensor_type.shape.dim[2:], ("4*h", "4*w"), strict=True):
            axis.dim_param = name
    (folder / "multiple.onnx").write_bytes(multiple.SerializeToString())
    return folder


def made(folder: Path) -> Model:
    """The model in a folder that was made, checked as a whole: its golden test too."""
    model = open_model(folder)
    assert not any(path.name.startswith(".") for path in folder.rglob("*"))
    runner = load_runner(model, threads=1)
    result = golden.run(model, runner)
    assert result is not None and result.passed
    runner.close()
    return model


def test_onnx_with_all_answers(whole: None, files: Path, staging: Path):
    answers = replace(ALL, title="Cover", license="MIT", attribution="(c) ann", threshold=0.25)
    prepare(files / "chain.onnx", staging, answers)
    model = made(staging)
    assert (model.title, model.license, model.attribution) == ("Cover", "MIT", "(c) ann")
    assert (model.emits, model.activation, model.threshold) == ("logits", "softmax", 0.25)
    assert (model.input_values, model.input_dtypes, model.resolution.value) == ("dn", ("uint8",), 0.5)
    assert [c.name for c in model.classes] == list("abcde") and model.bands == ("red", "green", "blue")
    assert (staging / "model.onnx").read_bytes() == (files / "chain.onnx").read_bytes()
    pixels = np.load(staging / "test" / "input.npy")
    assert pixels.shape == (1, 3, 128, 128) and pixels.dtype == np.uint8


def test_everything_that_is_missing_in_one_message(whole: None, files: Path, staging: Path):
    with pytest.raises(ManifestError) as caught:
        prepare(files / "chain.onnx", staging)
    for part in ("3 bands", "5 classes", "scaled", "resolution", "--bands 1,2,3", "--classes", "--scaling", "--gsd"):
        assert part in str(caught.value)
    assert list(staging.iterdir()) == []
    asked = questions(files / "chain.onnx", Answers(bands=("r", "g"), classes=CLASSES[:2], scaling=()))
    assert [item["field"] for item in asked] == ["bands", "classes", "dtypes", "gsd"]
    assert questions(files / "chain.onnx", ALL) == []


def test_sizes_come_from_the_file(files: Path, tmp_path: Path):
    prepare(files / "sized.onnx", tmp_path / "a", ALL)
    assert made(tmp_path / "a").window.fixed == (96, 64)
    prepare(files / "multiple.onnx", tmp_path / "b", ALL)
    assert made(tmp_path / "b").window.multiple == 4


def test_deepness_metadata_becomes_a_manifest(files: Path, staging: Path):
    prepare(files / "deepness.onnx", staging, Answers(license="MIT", bands=("red", "green", "blue")))
    model, bare = made(staging), open_model(files / "deepness.onnx")
    assert replace(model, test=None, license=None, bands=bare.bands, digest="", folder=bare.folder) == replace(
        bare, digest="", artifacts=model.artifacts, name=model.name
    )
    assert model.artifacts[0].checksum == bare.artifacts[0].checksum


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        [{"type": "min-max", "minimum": 0, "maximum": 3000}],
        [{"type": "z-score", "mean": 1, "stddev": 9}, None, {"type": "scale", "value": 3}],
        [None, {"type": "clip", "minimum": 0, "maximum": 1}, None],
        [{"type": "z-score", "mean": i, "stddev": 9} for i in range(3)],
    ],
)
def test_a_model_written_and_read_again_is_the_same(tmp_path: Path, scaling: list | None):
    classes = [{"value": 3, "name": "é: #", "color_hint": "01020304"}, {"value": 9, "name": "no", "description": "d"}]
    folder = testing.write_model(
        tmp_path / "m", testing.conv_chain(classes=2), classes=classes, scaling=scaling, dtypes=["uint16", "int16"],
        window={"multiple": 2, "period": 2, "halo": 6, "preferred": 256, "max": 512, "cell": 48}, license="CC-BY-4.0",
        output={"emits": "logits", "activation": "softmax", "threshold": 0.3}, exactness="bounded",
        nodata={"fill": "mean", "mask": "all"}, precision={"default": "auto", "allowed": ["bf16"], "max_moved": 0.01},
    )  # fmt: skip
    model = open_model(folder)
    write_manifest(document_of(model), folder)
    again = open_model(folder)
    x = np.random.default_rng(0).integers(0, 4000, (1, 3, 32, 32)).astype(np.uint16)
    np.testing.assert_array_equal(load_runner(again)(x).classes, load_runner(model)(x).classes)
    if scaling is None or len(scaling) == 1 or None not in scaling:
        assert again == model
    assert replace(again, scaling=(), digest="") == replace(model, scaling=(), digest="")


def test_a_folder_is_taken_as_it_is_and_verified(tmp_path: Path, staging: Path):
    folder = testing.write_model(tmp_path / "cover", testing.conv_chain(), classes=list("abcde"), title="Cover")
    prepare(folder, staging, Answers(license="MIT"))
    model = made(staging)
    assert model.digest == open_model(folder).digest and (model.title, model.license) == ("Cover", "MIT")
    again = tmp_path / "again"
    prepare(staging, again)
    assert (again / "model.yaml").read_bytes() == (staging / "model.yaml").read_bytes()
    (again / "test" / "output.npy").write_bytes((again / "test" / "input.npy").read_bytes())
    with pytest.raises(ArtifactError, match="golden output"):
        prepare(again, tmp_path / "third")


def test_a_folder_without_a_manifest_gives_its_one_model(files: Path, tmp_path: Path, staging: Path):
    folder = tmp_path / "hers"
    folder.mkdir()
    with pytest.raises(ManifestError, match="no model file"):
        prepare(folder, staging, ALL)
    (folder / "a.onnx").write_bytes((files / "chain.onnx").read_bytes())
    prepare(folder, staging, ALL)
    made(staging)
    (folder / "b.onnx").write_bytes(b"x")
    with pytest.raises(ManifestError, match=r"several models: a\.onnx, b\.onnx"):
        prepare(folder, tmp_path / "s2", ALL)


def with_activation(op: str) -> bytes:
    model = testing.conv_chain()
    axis = {"axis": 1} if op == "Softmax" else {}
    node = model.graph.node[-1]
    node.CopyFrom(onnx.helper.make_node(op, list(node.input), list(node.output), **axis))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("op", "said", "emits", "activation"),
    [
        ("Softmax", None, "probabilities", "none"),
        ("Sigmoid", None, "probabilities", "none"),
        ("Tanh", None, "logits", "softmax"),
        ("Tanh", "sigmoid", "logits", "sigmoid"),
    ],
)
def test_what_it_emits(tmp_path: Path, staging: Path, op: str, said: str | None, emits: str, activation: str):
    (tmp_path / "net.onnx").write_bytes(with_activation(op))
    prepare(tmp_path / "net.onnx", staging, replace(ALL, activation=said))
    model = made(staging)
    assert (model.emits, model.activation) == (emits, activation)


def test_what_it_emits_is_asked_where_numbers_leave_it_open(tmp_path: Path, staging: Path):
    (tmp_path / "net.onnx").write_bytes(with_activation("HardSigmoid"))
    with pytest.raises(ManifestError, match=r"logits, probabilities or labels.*--emits"):
        prepare(tmp_path / "net.onnx", staging, ALL)
    prepare(tmp_path / "net.onnx", staging, replace(ALL, emits="probabilities"))
    assert made(staging).emits == "probabilities"
    with pytest.raises(ContractError, match="which are no probabilities"):
        (tmp_path / "net.onnx").write_bytes(with_activation("Identity"))
        prepare(tmp_path / "net.onnx", tmp_path / "s2", replace(ALL, emits="probabilities"))


def test_a_regression_has_a_range_instead_of_classes(tmp_path: Path, staging: Path):
    (tmp_path / "height.onnx").write_bytes(testing.conv_chain(classes=1).SerializeToString())
    answers = replace(ALL, classes=None, kind="regression")
    with pytest.raises(ManifestError, match="which values its colours stand for"):
        prepare(tmp_path / "height.onnx", staging, answers)
    value = read_mapping("name=canopy height, unit=m, range=0..40", "--value")
    prepare(tmp_path / "height.onnx", staging, replace(answers, value=value))
    model = made(staging)
    assert model.kind == "regression" and model.values is not None
    assert (model.values.name, model.values.unit, model.values.range) == ("canopy height", "m", (0, 40))


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("kind", ["scores", "classes"])
def test_a_given_test_proves_the_scaling(files: Path, tmp_path: Path, staging: Path, kind: str, wrong: bool):
    import onnxruntime

    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 48), dtype=np.uint8)
    session = onnxruntime.InferenceSession(files / "chain.onnx")
    scores = session.run(None, {"x": pixels[None].astype(np.float32) / (1 if wrong else 255)})[0][0]
    answer = scores if kind == "scores" else scores.argmax(axis=0).astype(np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    np.save(tmp_path / "y.npy", answer)
    answers = replace(ALL, test_input=str(tmp_path / "x.npy"), test_output=str(tmp_path / "y.npy"))
    if wrong:
        with pytest.raises(ContractError, match="% differ. Check the scaling"):
            prepare(files / "chain.onnx", staging, answers)
        assert list(staging.iterdir()) == []
    else:
        prepare(files / "chain.onnx", staging, answers)
        made(staging)
        np.testing.assert_array_equal(np.load(staging / "test" / "output.npy"), answer)


# What PyTorch writes: one child with torch takes two seconds, so each is asked much at once.


@pytest.fixture(scope="module")
def torch_files():
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from tests.model_registry import torch_files

    return torch_files


FOUR = replace(ALL, classes=CLASSES[:4])


def test_safetensors_needs_its_architecture(torch_files, tmp_path: Path, staging: Path):
    (tmp_path / "w.safetensors").write_bytes(torch_files.safetensors())
    with pytest.raises(ManifestError, match=r"weights without a network. Name it with --architecture \(smp"):
        prepare(tmp_path / "w.safetensors", staging, FOUR)
    named = replace(FOUR, architecture="unet", hyperparameters=torch_files.HYPERPARAMETERS)
    prepare(tmp_path / "w.safetensors", staging, named)
    model = made(staging)
    assert (model.architecture, model.hyperparameters) == ("unet", torch_files.HYPERPARAMETERS)
    # Absurd sizes are compared before memory is taken for them.
    huge = replace(named, hyperparameters={**torch_files.HYPERPARAMETERS, "base": 1 << 20})
    with pytest.raises(ContractError, match="the architecture wants"):
        prepare(tmp_path / "w.safetensors", tmp_path / "s2", huge)


def lightning(net: object) -> dict:
    state = {f"model.net.{k}": v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    return {"state_dict": {**state, "loss.weight": next(iter(state.values())).new_ones(3)}, "epoch": 3, "lr": [0.1]}


@pytest.mark.parametrize(
    "wrapped",
    [
        pytest.param(lambda net: net.state_dict(), id="plain"),
        pytest.param(lightning, id="lightning"),
        pytest.param(lambda net: {"model": {f"module.{k}": v for k, v in net.state_dict().items()}}, id="parallel"),
    ],
)
def test_a_checkpoint_becomes_safetensors(torch_files, tmp_path: Path, wrapped: Callable):
    import safetensors.torch

    (tmp_path / "c.ckpt").write_bytes(torch_files.checkpoint(wrapped(torch_files.network())))
    convert(tmp_path / "c.ckpt", tmp_path / "c.safetensors", "unet", torch_files.HYPERPARAMETERS)
    got = safetensors.torch.load_file(tmp_path / "c.safetensors")
    wanted = torch_files.network().state_dict()
    assert {k for k in wanted if "num_batches" not in k} <= set(got) <= set(wanted)
    assert all((got[key] == wanted[key]).all() for key in got)
    assert {path.name for path in tmp_path.iterdir()} == {"c.ckpt", "c.safetensors"}


def test_a_checkpoint_with_two_networks_or_none(torch_files, tmp_path: Path, staging: Path):
    state = torch_files.network().state_dict()
    twice = {f"{prefix}.{k}": v for prefix in ("student", "teacher") for k, v in state.items()}
    (tmp_path / "c.pth").write_bytes(torch_files.checkpoint(twice))
    named = replace(FOUR, architecture="unet", hyperparameters=torch_files.HYPERPARAMETERS)
    with pytest.raises(ContractError, match=r"2 times \('student\.', 'teacher\.'\)"):
        prepare(tmp_path / "c.pth", staging, named)
    (tmp_path / "c.pth").write_bytes(
        torch_files.checkpoint({f"net.{k}": v for k, v in state.items() if "stem" not in k})
    )
    with pytest.raises(ContractError, match=r"lacks 'stem"):
        prepare(tmp_path / "c.pth", staging, named)


METADATA = """
$schema: https://stac-extensions.github.io/mlm/v1.6.0/schema.json
properties:
  name: Boundaries
  architecture: U-Net
  tasks: [semantic-segmentation]
  input:
  - name: x
    bands: [red, green, blue]
    input: {shape: [-1, 3, 3, 3], dim_order: [batch, bands, height, width], data_type: float32}
    value_scaling: [{type: z-score, mean: 100.0, stddev: 40.0}]
  output:
  - name: y
    tasks: [semantic-segmentation]
    result: {shape: [-1, 4], dim_order: [batch, class], data_type: float32}
    classification:classes:
    - {value: 0, name: none}
    - {value: 1, name: field}
    - {value: 2, name: edge, color_hint: A00000}
    - {value: 3, name: road}
"""


@pytest.mark.slow
def test_pt2_with_the_metadata_of_stac_model(torch_files, tmp_path: Path, staging: Path):
    path = tmp_path / "b.pt2"
    path.write_bytes(torch_files.pt2(largest=128, metadata=METADATA))
    with pytest.raises(UnsupportedModel, match="is not trusted"):
        prepare(path, staging, Answers(gsd=10.0))
    found = describe(path)
    assert (found["kind"], found["findings"]) == ("pt2", []) and found["size"] == path.stat().st_size
    trust.trust(found["sha256"])
    with pytest.raises(ManifestError) as caught:
        prepare(path, staging)
    assert str(caught.value).startswith("b.pt2 does not say all that is needed: the ground resolution")
    prepare(path, staging, Answers(gsd=10.0))
    model = made(staging)
    assert (model.title, model.bands, model.resolution.value) == ("Boundaries", ("red", "green", "blue"), 10)
    assert [c.name for c in model.classes] == ["none", "field", "edge", "road"]
    assert (model.window.multiple, model.window.max, model.window.fixed) == (4, 512, None)
    assert model.input_dtypes == ("uint8",) and model.scaling[0].numbers == ((100.0,) * 3, (40.0,) * 3)


@pytest.mark.slow
def test_torchscript(torch_files, tmp_path: Path, staging: Path):
    path = tmp_path / "cover.pt"
    path.write_bytes(torch_files.torchscript())
    trust.trust(checksum_of(torch_files.torchscript()))
    asked = questions(path, Answers())
    assert [item["what"] for item in asked][:2] == [
        "the names of 3 bands, in the network's order",
        "the names of 4 classes, in the order of the channels",
    ]
    prepare(path, staging, FOUR)
    assert made(staging).artifacts[0].href == "model.torchscript"
    loaded = live.load(staging, threads=1)
    assert loaded.model.exactness == "exact"
    loaded.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["w.safetensors", "w.ckpt", "w.pt2", "w.pt"])
def test_all_of_them_in_a_child(torch_files, whole: None, tmp_path: Path, staging: Path, kind: str):
    state = torch_files.network().state_dict()
    data = {
        "w.safetensors": torch_files.safetensors, "w.pt2": torch_files.pt2, "w.pt": torch_files.torchscript,
        "w.ckpt": lambda: torch_files.checkpoint(state),
    }[kind]()  # fmt: skip
    (tmp_path / kind).write_bytes(data)
    trust.trust(checksum_of(data))
    weights = kind in ("w.safetensors", "w.ckpt")
    named = replace(FOUR, architecture="unet", hyperparameters=torch_files.HYPERPARAMETERS) if weights else FOUR
    prepare(tmp_path / kind, staging, named)
    made(staging)


# Other places.

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_the_hub_needs_a_commit(staging: Path):
    for ref in ("main", "v1.0", COMMIT[:7]):
        with pytest.raises(ManifestError, match="is no commit"):
            prepare(f"someone/cover@{ref}", staging, ALL)


def test_the_hub_offline_from_its_cache(files: Path, tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch):
    hub = pytest.importorskip("huggingface_hub")
    cache = tmp_path / "hub"
    home = cache / "models--someone--cover"
    for folder in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (home / folder).mkdir(parents=True)
    (home / "blobs" / "aaa").write_bytes((files / "chain.onnx").read_bytes())
    (home / "refs" / "main").write_text(COMMIT)
    (home / "snapshots" / COMMIT / "net.onnx").symlink_to("../../blobs/aaa")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    source = f"someone/cover@{COMMIT}"
    prepare(source, staging, ALL)
    made(staging)
    assert yaml.safe_load((staging / "model.yaml").read_text())["properties"]["source"] == source
    assert not (staging / "model.onnx").is_symlink() and name_of(source) == "cover"
    with pytest.raises(ModelError, match="cannot be fetched"):
        prepare(f"someone/else@{COMMIT}", tmp_path / "s2", ALL)
    (home / "snapshots" / COMMIT / "net.onnx").unlink()
    (home / "snapshots" / COMMIT / "net.onnx").symlink_to(files / "chain.onnx")
    with pytest.raises(ArtifactError, match="not one of its files"):
        prepare(source, tmp_path / "s3", ALL)


def test_an_mlm_item(files: Path, tmp_path: Path, staging: Path):
    data = (files / "chain.onnx").read_bytes()
    (tmp_path / "net.onnx").write_bytes(data)
    item = {
        "stac_version": "1.0.0", "type": "Feature", "id": "cover", "geometry": None, "links": [],
        "stac_extensions": ["https://stac-extensions.github.io/mlm/v1.5.0/schema.json"],
        "properties": {
            "datetime": None, "mlm:name": "Cover", "mlm:architecture": "CNN", "mlm:tasks": ["semantic-segmentation"],
            "mlm:input": [{
                "name": "x", "bands": ["red", "green", "blue"], "value_scaling": [{"type": "scale", "value": 255}],
                "input": {"shape": [-1, 3, -1, -1], "dim_order": ["batch", "bands", "height", "width"],
                          "data_type": "float32"},
            }],
            "mlm:output": [{
                "name": "y", "tasks": ["semantic-segmentation"],
                "result": {"shape": [-1, 5, -1, -1], "dim_order": ["batch", "class", "height", "width"],
                           "data_type": "float32"},
                "classification:classes": [{"value": i, "name": n} for i, n in enumerate("abcde")],
            }],
        },
        "assets": {"model": {"href": "./net.onnx", "roles": ["mlm:model"], "mlm:artifact_type": "onnx",
                             "file:checksum": checksum_of(data)}},
    }  # fmt: skip
    (tmp_path / "item.json").write_text(json.dumps(item))
    prepare(tmp_path / "item.json", staging, Answers(gsd=10.0))
    model = made(staging)
    assert model.title == "Cover" and [c.name for c in model.classes] == list("abcde")
    scaling = item["properties"]["mlm:input"][0].pop("value_scaling")
    (tmp_path / "item.json").write_text(json.dumps(item))
    assert [asked["field"] for asked in questions(tmp_path / "item.json", Answers())] == ["scaling", "gsd"]
    item["properties"]["mlm:input"][0]["value_scaling"] = scaling
    item["assets"]["model"]["file:checksum"] = checksum_of(b"another")
    (tmp_path / "item.json").write_text(json.dumps(item))
    with pytest.raises(ArtifactError, match="not the one that the item has the checksum of"):
        prepare(tmp_path / "item.json", tmp_path / "s2", Answers(gsd=10.0))


# How answers are written.


@pytest.mark.parametrize(
    ("text", "ops"),
    [
        ("none", ()),
        ("scale=255", ({"type": "scale", "value": 255},)),
        ("mean=1,2 std=3,4", ({"type": "z-score", "mean": [1, 2], "stddev": [3, 4]},)),
        ("scale=10000 | clip=0,1", ({"type": "scale", "value": 10000}, {"type": "clip", "minimum": 0, "maximum": 1})),
        ("min=0; max=3000", ({"type": "min-max", "minimum": 0, "maximum": 3000},)),
        ("{type: offset, value: 1000}", ({"type": "offset", "value": 1000},)),
    ],
)
def test_scalings(text: str, ops: tuple):
    assert read_scaling(text) == ops


@pytest.mark.parametrize(
    "text", ["", "255", "mean=1", "scale=", "scale=a", "scale=nan", "scale=1 2", "[1]", "{type: processing}"]
)
def test_what_is_no_scaling(text: str):
    with pytest.raises(ManifestError):
        read_scaling(text)


def test_classes_of_a_file(tmp_path: Path):
    (tmp_path / "c.txt").write_text("0,water,0000FF\n\n5,forest\n")
    (tmp_path / "c.csv").write_text("water\nforest,#00FF00\n")
    (tmp_path / "c.yaml").write_text("- water\n- {value: 5, name: forest, color_hint: 00FF00}\n")
    water, forest = {"value": 0, "name": "water", "color_hint": "0000FF"}, {"value": 5, "name": "forest"}
    assert read_classes(str(tmp_path / "c.txt")) == (water, forest)
    assert read_classes(str(tmp_path / "c.csv")) == ({"name": "water"}, {"name": "forest", "color_hint": "00FF00"})
    assert read_classes(str(tmp_path / "c.yaml")) == ({"name": "water"}, {**forest, "color_hint": "00FF00"})
    assert read_classes("water, forest", "#0000FF,00FF00")[1] == {"name": "forest", "color_hint": "00FF00"}
    for text, colors in (("a,b", "00FF00"), ("a,b", "red,green"), ("", None)):
        with pytest.raises(ManifestError):
            read_classes(text, colors)


def test_resolutions():
    assert (read_gsd("10"), read_gsd("0.3m"), read_gsd("any")) == (10, 0.3, "any")
    for text in ("0", "-1", "ten", "inf"):
        with pytest.raises(ManifestError):
            read_gsd(text)


def test_names():
    assert name_of("/x/My Cover.onnx") == "my-cover" and name_of("/x/cover/model.onnx") == "cover"
    assert name_of("../..") and "/" not in name_of("a/../../b")
