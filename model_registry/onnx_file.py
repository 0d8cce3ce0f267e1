"""What an ONNX file says of itself, read from the protobuf wire format without loading a network.

Needed before a runtime sees the bytes: weights kept in other files ("external data") must be refused first, since a
runtime that loads from memory resolves those names against the working directory. Field numbers are those of
onnx/onnx.proto; unknown fields are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from model_registry.errors import ArtifactError

Dim = int | str  # a number, or the name of a dynamic axis ("" when it has none)


@dataclass(frozen=True, slots=True)
class OnnxSummary:
    """Inputs and outputs as (name, dims or None), metadata keys, whether weights lie outside, what ends the graph."""

    inputs: tuple[tuple[str, tuple[Dim, ...] | None], ...]
    outputs: tuple[tuple[str, tuple[Dim, ...] | None], ...]
    metadata: dict[str, str]
    external_data: bool
    output_op: str


def summarise(data: bytes) -> OnnxSummary:
    """Return the summary of an ONNX model given as bytes.

    Raises:
        ArtifactError: the bytes are not an ONNX model.
    """
    try:
        return _summarise(memoryview(data))
    except (ValueError, IndexError, RecursionError, TypeError):
        raise ArtifactError("the file is not an ONNX model", "Export the network to ONNX again") from None


def _summarise(data: memoryview) -> OnnxSummary:
    graph: memoryview | None = None
    metadata: dict[str, str] = {}
    external = False
    for number, value in _fields(data):
        if number == 7:  # ModelProto.graph
            graph = _block(value)
            external = external or _graph_is_external(graph)
        elif number == 14:  # ModelProto.metadata_props
            entry = dict(_fields(_block(value)))
            metadata[_text(entry.get(1, b""))] = _text(entry.get(2, b""))
        elif number == 25:  # ModelProto.functions; FunctionProto.node is 7
            external = external or any(_node_is_external(_block(v)) for n, v in _fields(_block(value)) if n == 7)
    if graph is None:
        raise ValueError("no graph")
    inputs, outputs = [], []
    weights: set[str] = set()
    makers: dict[str, str] = {}
    for number, value in _fields(graph):
        if number == 1:  # GraphProto.node: op_type is 4, outputs are 2
            node = list(_fields(_block(value)))
            op = next((_text(v) for n, v in node if n == 4), "")
            makers.update({_text(v): op for n, v in node if n == 2})
        elif number == 5:  # GraphProto.initializer: name is 8
            weights.update(_text(v) for n, v in _fields(_block(value)) if n == 8)
        elif number == 11:
            inputs.append(_value_info(_block(value)))
        elif number == 12:
            outputs.append(_value_info(_block(value)))
    if not outputs:
        raise ValueError("no outputs")
    return OnnxSummary(
        # Before IR version 4 every weight was listed as an input too.
        inputs=tuple(i for i in inputs if i[0] not in weights),
        outputs=tuple(outputs),
        metadata=metadata,
        external_data=external,
        output_op=makers.get(outputs[0][0], ""),
    )


def _value_info(data: memoryview) -> tuple[str, tuple[Dim, ...] | None]:
    """ValueInfoProto: name 1, type 2 -> tensor_type 1 -> shape 2 -> dim 1 -> dim_value 1 or dim_param 2."""
    fields = dict(_fields(data))
    tensor = dict(_fields(_block(dict(_fields(_block(fields[2])))[1])))
    dims: list[Dim] = []
    if 2 not in tensor:
        return _text(fields[1]), None
    for number, value in _fields(_block(tensor[2])):
        if number == 1:
            dim = dict(_fields(_block(value)))
            size = dim.get(1)
            dims.append(size if isinstance(size, int) else _text(dim.get(2, b"")))
    return _text(fields[1]), tuple(dims)


def _graph_is_external(graph: memoryview) -> bool:
    """GraphProto: node 1, initializer 5, sparse_initializer 15 (whose values 1 and indices 2 are tensors)."""
    for number, value in _fields(graph):
        if number == 1 and _node_is_external(_block(value)):
            return True
        if number == 5 and _tensor_is_external(_block(value)):
            return True
        if number == 15 and _sparse_is_external(_block(value)):
            return True
    return False


def _node_is_external(node: memoryview) -> bool:
    """NodeProto: attribute 5; AttributeProto: t 5, g 6, tensors 10, graphs 11, sparse_tensor 22, sparse_tensors 23."""
    for number, value in _fields(node):
        if number != 5:
            continue
        for inner, content in _fields(_block(value)):
            if inner in (5, 10) and _tensor_is_external(_block(content)):
                return True
            if inner in (6, 11) and _graph_is_external(_block(content)):
                return True
            if inner in (22, 23) and _sparse_is_external(_block(content)):
                return True
    return False


def _sparse_is_external(sparse: memoryview) -> bool:
    return any(number in (1, 2) and _tensor_is_external(_block(value)) for number, value in _fields(sparse))


def _tensor_is_external(tensor: memoryview) -> bool:
    """TensorProto: external_data 13, data_location 14 (1 = external)."""
    return any(number == 13 or (number == 14 and value == 1) for number, value in _fields(tensor))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of one protobuf message: an int, or the bytes of a longer value."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("unknown wire type")
        if number == 0 or at + size > len(data):
            raise ValueError("truncated")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("varint too long")


def _block(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("number where a message was expected")
    return value


def _text(value: int | memoryview | bytes) -> str:
    return bytes(value).decode("utf-8") if not isinstance(value, int) else ""
