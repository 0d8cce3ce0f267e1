"""What a .pt2 file (torch.export) says of itself, read from its JSON without torch and without unpickling anything.

It tells the input's and output's sizes, whether native code is packed in (AOTInductor), and carries the metadata that
stac-model writes (`extra/mlm-metadata`, MLM's YAML). Expressions of sizes are matched against a few known forms, never
evaluated: torch itself hands them to sympy's `sympify`, which is `eval`.

`suspicions` names what an honest export does not have. It is a tripwire to look at before trusting a file, not a
boundary: a file without any can still run code (facts: sample inputs are unpickled when a .pt2 is loaded).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model_registry.errors import ArtifactError, UnsupportedModel
from model_registry.zip_file import TorchZip

Dim = int | str  # a number, "h" for a free axis, "16*h" for multiples of 16

_METADATA = "extra/mlm-metadata"
_DTYPES = {6: "float16", 7: "float32", 8: "float64", 13: "bfloat16"}  # torch._export.serde.schema.ScalarType
_SYMBOL = r"Symbol\('(\w+)'(?:, (?:positive|integer|nonnegative)=True)*\)"
_FREE = re.compile(_SYMBOL)
_TIMES = re.compile(rf"Mul\(Integer\((\d+)\), {_SYMBOL}\)")
_HARMLESS = re.compile(r"(?:\b(?:Symbol|Integer|Mul|Add|Pow|Max|Min|Mod|FloorDiv|CleanDiv|positive|integer|nonnegative"
                       r"|True|evaluate|False|s\d+|u\d+)\b|[\s\d()*+,=/'-])*")  # fmt: skip
_GUARD = re.compile(r"[\w\s\[\]()'\".*+,/<>=!%:-]*")  # one class of characters: nothing to backtrack over


@dataclass(frozen=True, slots=True)
class Pt2Summary:
    """Sizes of the one input and the one output, dtype of the input, largest edge (px), metadata's text, torch version.

    transforms: whether the file holds a second program, for the input's scaling, which is not run here.
    """

    input_dims: tuple[Dim, ...]
    output_dims: tuple[Dim, ...]
    input_dtype: str
    largest: int | None
    metadata: str | None
    torch_version: str
    transforms: bool


def summarise(data: bytes) -> Pt2Summary:
    """Return the summary of a .pt2 file given as bytes.

    Raises:
        ArtifactError: not a .pt2 file, damaged, or one that unpacks to far more than it is.
        UnsupportedModel: an AOTInductor package, several programs, inputs or outputs.
    """
    archive = TorchZip(data)
    if "archive_format" not in archive.names or archive.read("archive_format", 64).strip() != b"pt2":
        raise ArtifactError("the file is not a .pt2 archive", "Save it with torch.export.save")
    if any(name.startswith("data/aotinductor") for name in archive.names):
        raise UnsupportedModel(
            "the .pt2 file is an AOTInductor package, compiled machine code",
            "Give the exported program instead: torch.export.save(program, 'model.pt2')",
        )
    if "models/model.json" not in archive.names:
        raise UnsupportedModel("the .pt2 file has no program named 'model'", "Save it with torch.export.save")
    try:
        program = json.loads(archive.read("models/model.json"))
        return _summary(program, archive)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ArtifactError(
            "the program in the .pt2 file cannot be read", "Export it with torch 2.10 or newer"
        ) from None


def _summary(program: Mapping[str, Any], archive: TorchZip) -> Pt2Summary:
    graph, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
    inputs = [spec["user_input"]["arg"] for spec in signature["input_specs"] if "user_input" in spec]
    outputs = [spec["user_output"]["arg"] for spec in signature["output_specs"] if "user_output" in spec]
    tensors = [[arg["as_tensor"]["name"] for arg in args if "as_tensor" in arg] for args in (inputs, outputs)]
    if [len(inputs), len(outputs), *map(len, tensors)] != [1, 1, 1, 1]:
        raise UnsupportedModel(
            f"the .pt2 program has {len(inputs)} inputs and {len(outputs)} outputs",
            "Export it with one image as its input and one map as its output",
        )
    values = graph["tensor_values"]
    first, last = (values[names[0]] for names in tensors)
    dims = tuple(_dim(size) for size in first["sizes"])
    metadata = archive.read(_METADATA, 1 << 20).decode("utf-8", "replace") if _METADATA in archive.names else None
    return Pt2Summary(
        input_dims=dims,
        output_dims=tuple(_dim(size) for size in last["sizes"]),
        input_dtype=_DTYPES.get(first["dtype"], str(first["dtype"])),
        largest=_largest(dims[-2:], program.get("range_constraints", {})),
        metadata=metadata,
        torch_version=str(program.get("torch_version", ""))[:40],
        transforms="models/transforms.json" in archive.names,
    )


def _dim(size: Mapping[str, Any]) -> Dim:
    if "as_int" in size:
        return int(size["as_int"])
    text = str(size["as_expr"]["expr_str"])
    if found := _TIMES.fullmatch(text):
        return f"{found[1]}*{found[2]}"
    return found[1] if (found := _FREE.fullmatch(text)) else "?"


def _largest(axes: tuple[Dim, ...], ranges: Mapping[str, Any]) -> int | None:
    """The smaller of the two axes' upper ends, in pixels; None where the export set none."""
    ends = []
    for axis in axes:
        factor, _, symbol = str(axis).rpartition("*")
        end = ranges.get(symbol, {}).get("max_val")
        if isinstance(end, int):
            ends.append(end * int(factor or 1))
    # torch writes "no limit" as null, older versions as a huge number.
    return min((end for end in ends if end < 1 << 30), default=None)


def suspicions(data: bytes) -> list[str]:
    """Return what an honest export does not have, one line each; an empty list clears nothing.

    Raises:
        ArtifactError: not a .pt2 file.
    """
    archive = TorchZip(data)
    found = [
        f"native code: {name.rsplit('/')[-1]!r}"
        for name in sorted(archive.names)
        if name.endswith((".so", ".dll", ".cubin"))
    ]
    for name in sorted(archive.names):
        if name.endswith(".json"):
            try:
                found += list(_suspicious(json.loads(archive.read(name)), ""))
            except (ValueError, RecursionError):
                found.append(f"{name!r} is no JSON")
    return sorted(set(found))


def _suspicious(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if key == "range_constraints" and not _HARMLESS.fullmatch(str(name)):
                yield f"a size that is no plain formula: {str(name)[:60]!r}"
            yield from _suspicious(item, str(name))
    elif isinstance(value, list):
        for item in value:
            if key == "guards_code" and not (isinstance(item, str) and _guards_sizes(item)):
                yield f"a guard that is no comparison of sizes: {str(item)[:60]!r}"
            yield from _suspicious(item, key)
    elif key == "expr_str" and not _HARMLESS.fullmatch(str(value)):
        yield f"a size that is no plain formula: {str(value)[:60]!r}"
    elif key == "use_pickle" and value is True:
        yield "a payload stored as a pickle"
    elif key == "target" and isinstance(value, str) and value and not _TARGET.match(value):
        yield f"an operation that is not PyTorch's own: {value[:60]!r}"


_TARGET = re.compile(
    r"(?:torch\.ops\.(?:aten|higher_order|prims|quantized_decomposed)\.|_operator\.|math\.|operator\.|torch\.)"
)


def _guards_sizes(text: str) -> bool:
    return bool(_GUARD.fullmatch(text)) and not re.search(r"__|import|exec|eval|open|system|\bos\b", text)
