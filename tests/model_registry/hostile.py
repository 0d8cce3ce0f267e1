"""Broken and hostile model files. Each is written by a function of its own, called with an empty folder and a marker.

The code in them is harmless: it makes the folder `marker` (or a file of that name). `CORPUS` lists them with what the
refusal must say.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper

from model_registry import testing
from model_registry.intake import Answers

ALL = Answers(
    classes=tuple({"name": name} for name in "abcde"),
    bands=("red", "green", "blue"),
    gsd=0.5,
    scaling=({"type": "scale", "value": 255},),
)
FOUR = {"classes": [{"name": name} for name in "abcd"]}
UNET = {"architecture": "unet", "hyperparameters": {"in_channels": 3, "classes": 4, "base": 4, "depth": 2}, **FOUR}
Write = Callable[[Path, Path], Path]


class Hostile(NamedTuple):
    """One file: who writes it, what the refusal says (a regular expression), answers beside `ALL`, whether torch is
    needed to write or to read it."""

    write: Write
    told: str
    answers: dict
    torch: bool


CORPUS: dict[str, Hostile] = {}


def hostile(told: str, torch: bool = False, **answers) -> Callable[[Write], Write]:
    def keep(write: Write) -> Write:
        CORPUS[write.__name__] = Hostile(write, told, answers, torch)
        return write

    return keep


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def chain() -> onnx.ModelProto:
    return testing.conv_chain(layers=1)


def saved(folder: Path, data: bytes, name: str = "net.onnx") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def graph(nodes: list, outputs: list, weights: list | None = None, opsets: list | None = None) -> bytes:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    net = helper.make_graph(nodes, "net", [image], outputs, weights or [])
    opsets = opsets or [helper.make_opsetid("", 17)]
    return helper.make_model(net, opset_imports=opsets, ir_version=8).SerializeToString()


def scores(channels: int = 5, axes: list | None = None):
    return helper.make_tensor_value_info("scores", TensorProto.FLOAT, axes or ["n", channels, "h", "w"])


# Files that are not what they seem.


@hostile("the file is empty")
def empty(folder: Path, marker: Path) -> Path:
    return saved(folder, b"")


@hostile("none of ONNX, safetensors")
def noise(folder: Path, marker: Path) -> Path:
    return saved(folder, np.random.default_rng(0).bytes(5000))


@hostile("none of ONNX, safetensors|not an ONNX|cannot load")
def onnx_cut_off(folder: Path, marker: Path) -> Path:
    return saved(folder, chain().SerializeToString()[:-700])


@hostile("HDF5 file")
def keras_called_onnx(folder: Path, marker: Path) -> Path:
    return saved(folder, b"\x89HDF\r\n\x1a\n" + b"\0" * 100)


@hostile("a program or library")
def program_called_onnx(folder: Path, marker: Path) -> Path:
    return saved(folder, b"\x7fELF" + b"\0" * 100)


@hostile("the file is a script")
def script_called_onnx(folder: Path, marker: Path) -> Path:
    return saved(folder, f"#!/bin/sh\nmkdir {marker}\n".encode())


@hostile("zip file is none of")
def some_zip(folder: Path, marker: Path) -> Path:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../escaped.txt", "x")
    return saved(folder, file.getvalue(), "net.pt2")


@hostile("not a complete zip archive")
def zip_cut_off(folder: Path, marker: Path) -> Path:
    return saved(folder, zipped({"a/archive_format": b"pt2"})[:-30], "net.pt2")


@hostile("says that it unpacks to")
def zip_bomb(folder: Path, marker: Path) -> Path:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a/archive_format", b"pt2")
        archive.writestr("a/models/model.json", b"0" * (65 << 20))
    return saved(folder, file.getvalue(), "net.pt2")


@hostile("two files of one name")
def zip_with_one_name_twice(folder: Path, marker: Path) -> Path:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"x")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile says what we mean to do
            archive.writestr("a/data.pkl", b"y")
    return saved(folder, file.getvalue(), "net.pth")


# Pickles.


@hostile("cannot be read as weights only", torch=True, **UNET)
def bare_pickle(folder: Path, marker: Path) -> Path:
    return saved(folder, pickle.dumps(Bomb(marker), protocol=2), "net.pth")


@hostile("cannot be read as weights only", torch=True, **UNET)
def pickle_called_onnx(folder: Path, marker: Path) -> Path:
    return saved(folder, pickle.dumps({"state_dict": Bomb(marker)}, protocol=4), "net.onnx")


@hostile("cannot be read as weights only", torch=True, **UNET)
def pickle_in_a_zip(folder: Path, marker: Path) -> Path:
    import torch

    torch.save({"state_dict": {"a": Bomb(marker)}}, folder / "net.pt")
    return folder / "net.pt"


@hostile("weights without a network")
def pickle_without_a_question(folder: Path, marker: Path) -> Path:
    return saved(folder, pickle.dumps(Bomb(marker), protocol=2), "net.ckpt")


@hostile("no weights by name", torch=True, **UNET)
def checkpoint_of_nothing(folder: Path, marker: Path) -> Path:
    import torch

    torch.save({"epoch": 3}, folder / "net.pt")
    return folder / "net.pt"


# Programs.


@hostile(r"a \.pt2 file can run code .* is not trusted", torch=True)
def pt2_with_a_pickle(folder: Path, marker: Path) -> Path:
    def change(data: bytes) -> bytes:
        import torch

        file = io.BytesIO()
        torch.save(Bomb(marker), file)
        return file.getvalue()

    return saved(folder, changed_pt2({"data/sample_inputs/model.pt": change}), "net.pt2")


@hostile("is not trusted", torch=True)
def pt2_with_code_in_a_size(folder: Path, marker: Path) -> Path:
    def change(data: bytes) -> bytes:
        program = json.loads(data)
        for tensor in program["graph_module"]["graph"]["tensor_values"].values():
            for size in tensor["sizes"]:
                if "as_expr" in size:
                    text = size["as_expr"]["expr_str"]
                    size["as_expr"]["expr_str"] = f"__import__('os').makedirs({str(marker)!r}, exist_ok=True) or {text}"
        return json.dumps(program).encode()

    return saved(folder, changed_pt2({"models/model.json": change}), "net.pt2")


@hostile("is not trusted", torch=True)
def pt2_with_code_in_a_guard(folder: Path, marker: Path) -> Path:
    def change(data: bytes) -> bytes:
        program = json.loads(data)
        code = f"__import__('os').makedirs({str(marker)!r}, exist_ok=True) is None"
        program["guards_code"] = [code, *program["guards_code"]]
        return json.dumps(program).encode()

    return saved(folder, changed_pt2({"models/model.json": change}), "net.pt2")


@hostile("AOTInductor package")
def pt2_with_machine_code(folder: Path, marker: Path) -> Path:
    data = zipped({"a/archive_format": b"pt2", "a/data/aotinductor/model/m.wrapper.so": b"\x7fELF"})
    return saved(folder, data, "net.pt2")


@hostile(r"program in the \.pt2 file cannot be read")
def pt2_nested_deeply(folder: Path, marker: Path) -> Path:
    return saved(folder, zipped({"a/archive_format": b"pt2", "a/models/model.json": b"[" * 200_000}), "net.pt2")


@hostile("a TorchScript file can run code .* is not trusted", torch=True)
def torchscript_that_writes_a_file(folder: Path, marker: Path) -> Path:
    import torch

    class Writes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = str(marker)
            self.conv = torch.nn.Conv2d(3, 5, 1)

        def forward(self, x):
            t = torch.from_file(self.place, shared=True, size=8)
            t.fill_(1.0)
            return self.conv(x) + t[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        torch.jit.save(torch.jit.script(Writes()), str(folder / "net.pt"))
    return folder / "net.pt"


def changed_pt2(changes: dict[str, Callable[[bytes], bytes]]) -> bytes:
    from tests.model_registry import torch_files

    source = zipfile.ZipFile(io.BytesIO(torch_files.pt2()))
    return zipped(
        {
            entry.filename: changes.get(entry.filename.partition("/")[2], bytes)(source.read(entry))
            for entry in source.infolist()
        }
    )


def zipped(entries: dict[str, bytes | str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


# ONNX that reaches outside, or is too much.


def outside(location: str) -> bytes:
    """A network whose weights lie in the file at `location`."""
    net = chain()
    weight = net.graph.initializer[0]
    weight.data_location = TensorProto.EXTERNAL
    weight.ClearField("raw_data")
    for key, value in (("location", location), ("offset", "0"), ("length", "864")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    return net.SerializeToString()


@hostile("keeps weights in other files")
def onnx_data_above(folder: Path, marker: Path) -> Path:
    return saved(folder, outside("../../../../etc/passwd"))


@hostile("keeps weights in other files")
def onnx_data_absolute(folder: Path, marker: Path) -> Path:
    return saved(folder, outside("/etc/passwd"))


@hostile("keeps weights in other files")
def onnx_data_through_a_link(folder: Path, marker: Path) -> Path:
    (folder / "w.bin").symlink_to("/etc/passwd")
    return saved(folder, outside("w.bin"))


@hostile("keeps weights in other files")
def onnx_data_through_a_hard_link(folder: Path, marker: Path) -> Path:
    (folder / "secret").write_bytes(b"s" * 864)
    os.link(folder / "secret", folder / "w.bin")
    return saved(folder, outside("w.bin"))


@hostile("cannot load the file|is not a registered")
def onnx_with_operations_of_its_own(folder: Path, marker: Path) -> Path:
    node = helper.make_node("Evil", ["x"], ["scores"], domain="evil.example")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil.example", 1)]
    return saved(folder, graph([node], [scores()], opsets=opsets))


@hostile("cannot load the file|memory")
def onnx_with_a_weight_of_a_petabyte(folder: Path, marker: Path) -> Path:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 28], raw_data=b"1234")
    return saved(folder, graph([helper.make_node("Conv", ["x", "w"], ["scores"])], [scores()], [weight]))


@hostile("no memory|of memory were needed|fails on an input|cannot load the file|crashed")
def onnx_that_asks_for_a_terabyte(folder: Path, marker: Path) -> Path:
    size = helper.make_tensor("size", TensorProto.INT64, [4], [1, 5, 1 << 19, 1 << 19])
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Expand", ["m", "size"], ["scores"]),
    ]
    return saved(folder, graph(nodes, [scores()], [size]))


@hostile("has 1 inputs and 2 outputs")
def onnx_with_two_answers(folder: Path, marker: Path) -> Path:
    nodes = [helper.make_node("Identity", ["x"], ["scores"]), helper.make_node("Identity", ["x"], ["other"])]
    other = helper.make_tensor_value_info("other", TensorProto.FLOAT, None)
    return saved(folder, graph(nodes, [scores(3), other]))


@hostile("ONNX output has 2 axes")
def onnx_that_answers_boxes(folder: Path, marker: Path) -> Path:
    node = helper.make_node("ReduceMean", ["x"], ["scores"], axes=[2, 3], keepdims=0)
    return saved(folder, graph([node], [scores(axes=["n", 3])]))


@hostile(
    "answers 3 channels of 64 x 64 for an input of 128 x 128", emits="logits", classes=[{"name": n} for n in "abc"]
)
def onnx_that_answers_half_the_size(folder: Path, marker: Path) -> Path:
    node = helper.make_node("MaxPool", ["x"], ["scores"], kernel_shape=[2, 2], strides=[2, 2])
    return saved(folder, graph([node], [scores(3, ["n", 3, "a", "b"])]))


@hostile("are not finite")
def onnx_with_weights_that_are_nan(folder: Path, marker: Path) -> Path:
    net = chain()
    weight = net.graph.initializer[0]
    array = onnx.numpy_helper.to_array(weight).copy()
    array.flat[0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    return saved(folder, net.SerializeToString())


@hostile("not an ONNX model|none of ONNX")
def onnx_nested_deeply(folder: Path, marker: Path) -> Path:
    inner = b""
    for _ in range(3000):  # GraphProto.node -> NodeProto.attribute -> AttributeProto.g -> GraphProto.node ...
        for field in (6, 5, 1):
            inner = bytes([field << 3 | 2]) + _varint(len(inner)) + inner
    return saved(folder, bytes([7 << 3 | 2]) + _varint(len(inner)) + inner)


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


@hostile("'class_names' is not JSON|'class_names' is")
def onnx_with_deep_metadata(folder: Path, marker: Path) -> Path:
    keys = {"model_type": '"Segmentor"', "class_names": "[" * 100_000, "resolution": "10"}
    return saved(folder, testing.with_metadata(chain(), **keys).SerializeToString())


# safetensors.


def tensors(header: dict | bytes, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


@hostile("header says 104857600 bytes")
def safetensors_with_a_huge_header(folder: Path, marker: Path) -> Path:
    return saved(folder, tensors(b"{" + b" " * 1000, size=100 << 20), "w.safetensors")


@hostile("not valid safetensors", torch=True, **UNET)
def safetensors_that_overlap(folder: Path, marker: Path) -> Path:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    return saved(folder, tensors({"a": entry, "b": entry}, b"\0" * 16), "w.safetensors")


@hostile("not valid safetensors", torch=True, **UNET)
def safetensors_cut_off(folder: Path, marker: Path) -> Path:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    return saved(folder, tensors({"a": entry}, b"\0" * 7), "w.safetensors")


@hostile("not valid safetensors", torch=True, **UNET)
def safetensors_of_a_petabyte(folder: Path, marker: Path) -> Path:
    entry = {"dtype": "F32", "shape": [1 << 24, 1 << 24], "data_offsets": [0, 1 << 50]}
    return saved(folder, tensors({"a": entry}, b"\0" * 16), "w.safetensors")


@hostile("unknown architecture 'os.system'", torch=True, architecture="os.system", **FOUR)
def safetensors_with_code_as_architecture(folder: Path, marker: Path) -> Path:
    return saved(folder, tensors({}, b""), "w.safetensors")


@hostile("needs no download|no download")
def smp_that_would_download(folder: Path, marker: Path) -> Path:
    config = {"_model_class": "Unet", "encoder_name": "tu-resnet18", "in_channels": 3, "classes": 5}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(tensors({}))
    return folder


@hostile("is not one of smp")
def smp_with_another_class(folder: Path, marker: Path) -> Path:
    (folder / "config.json").write_text(json.dumps({"_model_class": "__init__.os.system", "encoder_name": "resnet18"}))
    (folder / "model.safetensors").write_bytes(tensors({}))
    return folder


# Folders.


def written(folder: Path, change: Callable[[dict], object] = lambda document: None) -> Path:
    testing.write_model(folder, chain(), classes=list("abcde"))
    document = yaml.safe_load((folder / "model.yaml").read_text())
    change(document)
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    return folder


def _at(href: str, told: str, name: str) -> None:
    def write(folder: Path, marker: Path) -> Path:
        return written(folder, lambda document: document["serving"]["artifacts"][0].update(href=href))

    write.__name__ = name
    hostile(told)(write)


_at("../net.onnx", "does not lie inside", "artifact_above")
_at("x/../../net.onnx", "does not lie inside", "artifact_above_in_disguise")
_at("/etc/passwd", "does not lie inside", "artifact_absolute")
_at("file:///etc/passwd", "does not lie inside", "artifact_by_url")
_at("..\\net.onnx", "does not lie inside", "artifact_above_on_windows")
_at("gone.onnx", "is missing", "artifact_missing")
_at(".", "is missing|not lie inside|not a regular file|cannot be opened", "artifact_that_is_the_folder")


def _instead(told: str, name: str, change: Callable[[Path], object]) -> None:
    def write(folder: Path, marker: Path) -> Path:
        written(folder)
        (folder / "model.onnx").rename(folder.parent / f"{name}.real")
        change(folder / "model.onnx")
        return folder

    write.__name__ = name
    hostile(told)(write)


_instead("is a symbolic link", "artifact_linked", lambda path: path.symlink_to("/etc/passwd"))
_instead(
    "has 2 hard links", "artifact_hard_linked",
    lambda path: os.link(path.parent.parent / "artifact_hard_linked.real", path),
)  # fmt: skip
_instead("not a regular file", "artifact_that_is_a_pipe", os.mkfifo)
_instead("not a regular file|cannot be opened", "artifact_that_is_a_folder", Path.mkdir)
_instead(
    "has the checksum", "artifact_altered",
    lambda path: path.write_bytes((path.parent.parent / "artifact_altered.real").read_bytes()[:-1] + b"\0"),
)  # fmt: skip
_instead("bytes, the manifest says", "artifact_of_another_size", lambda path: path.write_bytes(b"x"))


@hostile("is not a sha256 multihash")
def checksum_of_another_kind(folder: Path, marker: Path) -> Path:
    return written(folder, lambda document: document["serving"]["artifacts"][0].update(checksum="1114" + "0" * 40))


@hostile("has an alias")
def yaml_bomb(folder: Path, marker: Path) -> Path:
    written(folder)
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    text = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(bomb + text.replace("architecture: ''", "hyperparameters: {a: *a11}"))
    return folder


@hostile("is not valid YAML")
def yaml_that_makes_an_object(folder: Path, marker: Path) -> Path:
    written(folder)
    text = (folder / "model.yaml").read_text()
    code = f"!!python/object/apply:os.mkdir ['{marker}']"
    (folder / "model.yaml").write_text(text.replace("architecture: ''", f"architecture: {code}"))
    return folder


@hostile("is not valid YAML")
def yaml_nested_deeply(folder: Path, marker: Path) -> Path:
    written(folder)
    (folder / "model.yaml").write_text("[" * 50_000)
    return folder


@hostile("more than the limit of")
def yaml_too_long(folder: Path, marker: Path) -> Path:
    written(folder)
    (folder / "model.yaml").write_text("#" * (2 << 20))
    return folder


@hostile("is a symbolic link")
def manifest_linked(folder: Path, marker: Path) -> Path:
    (folder / "model.yaml").symlink_to("/etc/passwd")
    return folder


@hostile("unknown key 'serving.trusted'")
def manifest_that_trusts_itself(folder: Path, marker: Path) -> Path:
    return written(folder, lambda document: document["serving"].update(trusted=True))


@hostile("'input.npy' is no array of numbers")
def golden_test_with_a_pickle(folder: Path, marker: Path) -> Path:
    from model_registry.artifacts import checksum_of

    file = io.BytesIO()
    np.save(file, np.array([Bomb(marker)], dtype=object), allow_pickle=True)
    sums = {f"{key}_checksum": checksum_of(file.getvalue()) for key in ("input", "output")}
    names = {key: f"{key}.npy" for key in ("input", "output")}
    written(folder, lambda document: document["serving"].update(test=names | sums))
    for name in names.values():
        (folder / name).write_bytes(file.getvalue())
    return folder


@hostile("not a regular file")
def a_pipe(folder: Path, marker: Path) -> Path:
    os.mkfifo(folder / "net.onnx")
    return folder / "net.onnx"


@hostile("not a regular file")
def a_device(folder: Path, marker: Path) -> Path:
    (folder / "net.onnx").symlink_to("/dev/zero")
    return folder / "net.onnx"


@hostile("is not JSON")
def item_nested_deeply(folder: Path, marker: Path) -> Path:
    return saved(folder, b"[" * 200_000, "item.json")


@hostile("does not lie inside|lies elsewhere")
def item_whose_model_lies_above(folder: Path, marker: Path) -> Path:
    asset = {"href": "../../etc/passwd", "roles": ["mlm:model"]}
    item = {"stac_version": "1.0.0", "properties": {}, "assets": {"model": asset}}
    return saved(folder, json.dumps(item).encode(), "item.json")
