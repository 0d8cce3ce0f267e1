"""Which kind of model a file is, told by its content: endings are wishes."""

from __future__ import annotations

from typing import Literal

from model_registry.errors import ArtifactError, UnsupportedModel
from model_registry.onnx_file import summarise
from model_registry.runtimes.torchscript import is_torchscript
from model_registry.zip_file import TorchZip

Kind = Literal["onnx", "safetensors", "pt2", "torchscript", "checkpoint"]

_HEADER = 100_000_000  # bytes: what safetensors itself allows
_OTHERS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)"),
    (b"GGUF", "a GGUF file"),
    (b"\x7fELF", "a program or library"),
    (b"MZ", "a program or library"),
    (b"#!", "a script"),
    (b"\x1f\x8b", "a gzip archive"),
)


def kind_of(data: bytes) -> Kind:
    """Return the kind of a model file.

    Raises:
        ArtifactError: empty, damaged, or not a model at all.
        UnsupportedModel: a format that is not read here.
    """
    if data.startswith(b"PK"):
        return _kind_of_zip(TorchZip(data))
    if data[:1] == b"\x80" and len(data) > 2 and data[1] in range(2, 6):
        return "checkpoint"  # a bare pickle, as torch.save wrote before 1.6
    header = int.from_bytes(data[:8], "little")
    if len(data) > 9 and data[8:9] == b"{" and 2 <= header:
        if header > min(_HEADER, len(data) - 8):
            raise ArtifactError(
                f"the safetensors header says {header} bytes, the file has {len(data)}", "Save the weights again"
            )
        return "safetensors"
    for magic, what in _OTHERS:
        if data.startswith(magic):
            raise UnsupportedModel(f"the file is {what}", "Export the network to ONNX")
    if not data:
        raise ArtifactError("the file is empty", "Export the network again")
    try:
        summarise(data)
    except ArtifactError:
        raise ArtifactError(
            "the file is none of ONNX, safetensors, .pt2, TorchScript and PyTorch checkpoint, or it is damaged",
            "Export the network to ONNX again",
        ) from None
    return "onnx"


def _kind_of_zip(archive: TorchZip) -> Kind:
    if "archive_format" in archive.names:
        return "pt2"
    if is_torchscript(archive):
        return "torchscript"
    if "data.pkl" in archive.names:
        return "checkpoint"
    raise UnsupportedModel(
        "the zip file is none of .pt2, TorchScript and PyTorch checkpoint", "Unpack it and give the model itself"
    )
