"""ONNX files: sizes read from the graph, everything else from Deepness' or GeoDeep's metadata keys where they are."""

from __future__ import annotations

from model_registry.artifacts import checksum_of
from model_registry.errors import UnsupportedModel
from model_registry.intake.found import Found
from model_registry.intake.writing import document_of
from model_registry.onnx_file import OnnxSummary, summarise
from model_registry.onnx_metadata import describes_itself, model_of
from model_registry.runtimes._shapes import channels_last, demands_of, refuse_external_data

_EMITS = {"Softmax": "probabilities", "Sigmoid": "probabilities", "ArgMax": "labels", "LogSoftmax": "logits"}


def read(data: bytes, name: str) -> Found:
    """Return what the ONNX file says.

    Raises:
        ArtifactError: not ONNX.
        ManifestError: metadata keys of Deepness or GeoDeep that are incomplete or unusable.
        UnsupportedModel: several inputs or outputs, weights in other files, or not an image in and a map out.
    """
    summary = summarise(data)
    refuse_external_data(summary)
    bands, channels = _bands(summary), _channels(summary)
    demands = demands_of([*summary.inputs[0][1]] if summary.inputs[0][1] else [None] * 4)
    found = Found(
        data,
        "onnx",
        bands=bands,
        channels=channels,
        fixed=demands.fixed if demands.fixed and min(demands.fixed) > 0 else None,
        multiple=demands.multiple,
        emits=_EMITS.get(summary.output_op),
    )
    if describes_itself(summary):
        model = model_of(data, name)
        found.document = document_of(model)
        found.document["serving"].pop("artifacts")
        found.document["properties"]["source"] = f"{name} (checksum {checksum_of(data)[4:20]})"
    return found


def _bands(summary: OnnxSummary) -> int | None:
    if len(summary.inputs) != 1 or len(summary.outputs) != 1:
        raise UnsupportedModel(
            f"the ONNX file has {len(summary.inputs)} inputs and {len(summary.outputs)} outputs",
            "Export it with one image as its input and one map as its output",
        )
    dims = summary.inputs[0][1]
    if dims is None:
        return None
    if len(dims) != 4:
        raise UnsupportedModel(f"the ONNX input has {len(dims)} axes", "It must be [batch, band, row, column]")
    if channels_last(dims):
        raise UnsupportedModel(
            f"the ONNX input is {list(dims)}: it looks like [batch, row, column, band]",
            "Export it with [batch, band, row, column] (tf2onnx: --inputs-as-nchw, --outputs-as-nchw)",
        )
    return dims[1] if isinstance(dims[1], int) and dims[1] > 0 else None


def _channels(summary: OnnxSummary) -> int | None:
    dims = summary.outputs[0][1]
    if dims is None or len(dims) == 3:
        return None if dims is None else 1
    if len(dims) != 4:
        raise UnsupportedModel(
            f"the ONNX output has {len(dims)} axes",
            "It must be [batch, class, row, column]: a map, not a list of boxes",
        )
    return dims[1] if isinstance(dims[1], int) and dims[1] > 0 else None
