"""Read a bare .onnx file that describes itself with the metadata keys of Deepness or GeoDeep.

Keys and meaning are those of the two projects' documentation and readers (PUTvision/qgis-plugin-deepness:
docs/source/creators/creators_add_metadata_to_model.rst and its model base class; uav4geo/GeoDeep:
geodeep/inference.py).
All values are JSON:

    model_type            "Segmentor" (others are detectors, regressors, ...: refused)
    class_names           {"0": name, "1": name, ...}, one per output channel
    resolution            ground sampling distance in centimetres per pixel
    tiles_size, tile_size edge of the tiles in pixels: our preferred window
    tiles_overlap         overlap of neighbouring tiles in percent: says how far their authors trust a tile's edge; our
                          halo is measured instead
    standardization_mean, standardization_std   per band, applied after dividing by 255
    seg_thresh            a score below it counts as 0 before the largest is chosen: class 0 where none reaches it;
                          a probability: logits (a graph without final softmax or sigmoid) are activated first
    seg_small_segment     removal of small polygons (Deepness) or patches (GeoDeep's sieve) afterwards: no pixel of
                          ours depends on it

Both feed uint8 pixels divided by 255. `det_*` and `reg_*` keys belong to other model types and decide nothing here.
Keys outside this list are of no consequence if they are an exporter's own (author, date, ...), so only keys that look
like ours are refused (`seg_*`, `standardization_*`, `tile*`, `class*`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_registry import palette
from model_registry.artifacts import checksum_of, read_file
from model_registry.errors import ManifestError, UnsupportedModel
from model_registry.manifest import Artifact, Model, ModelClass, Op, Resolution, WindowSpec, make_model
from model_registry.model_yaml import slug
from model_registry.onnx_file import OnnxSummary, summarise

_REQUIRED = ("model_type", "class_names", "resolution")
_KNOWN = {
    *_REQUIRED,
    "tiles_size", "tile_size", "tiles_overlap", "seg_thresh", "seg_small_segment",
    "standardization_mean", "standardization_std",
}  # fmt: skip
_OURS = ("seg_", "standardization_", "tile", "class")
_HOW = "Add it with onnx's metadata_props (values in JSON), or write a model.yaml beside the file"


def read_onnx(path: Path) -> Model:
    """Read the model that the .onnx file at `path` describes.

    Raises:
        ManifestError: a key is missing, unknown or unusable; the message names it.
        UnsupportedModel: not a segmentation model, or weights in other files.
        ArtifactError: the file may not be opened, or is not ONNX.
    """
    return model_of(read_file(path.parent, path.name), path.name, path.parent)


def describes_itself(summary: OnnxSummary) -> bool:
    """Whether the file carries the keys of Deepness and GeoDeep; `model_type` alone is written by others too."""
    return {"model_type", "class_names"} <= set(summary.metadata)


def model_of(data: bytes, file_name: str, folder: Path = Path()) -> Model:
    """Return the model that the bytes of an .onnx file describe; errors as in `read_onnx`."""
    path = folder / file_name
    summary = summarise(data)
    values = _values(summary.metadata)
    if str(values["model_type"]).lower() != "segmentor":
        raise UnsupportedModel(f"model_type is {values['model_type']!r}", "Only 'Segmentor' answers a class map")
    bands, fixed = _input(summary)
    size = _whole(values, "tiles_size", _whole(values, "tile_size", fixed[0] if fixed else 512))
    _overlap(values)
    emits, activation = _answer(summary, len(values["class_names"]))
    return make_model(
        name=slug(path.stem),
        version="1",
        title=path.stem,
        folder=folder,
        artifacts=(Artifact(path.name, "onnx", checksum_of(data), len(data)),),
        bands=tuple(str(i + 1) for i in range(bands)),
        input_values="dn",
        input_dtypes=("uint8",),
        scaling=_scaling(values, bands),
        resolution=Resolution(_number(values, "resolution") / 100),
        window=WindowSpec(fixed=fixed, preferred=size),
        emits=emits,
        activation=activation,
        threshold=_threshold(values),
        classes=_classes(values["class_names"]),
    )


def _values(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata with its JSON read; refuse what is missing and what looks like ours but is unknown."""
    for key in _REQUIRED:
        if key not in metadata:
            raise ManifestError(f"the ONNX metadata lacks the key {key!r}", _HOW)
    for key in metadata:
        if key not in _KNOWN and key.startswith(_OURS):
            raise ManifestError(f"the ONNX metadata has the unknown key {key!r}", f"Known: {', '.join(sorted(_KNOWN))}")
    values = {}
    for key in _KNOWN & set(metadata):
        try:
            values[key] = json.loads(metadata[key])
        except (ValueError, RecursionError):
            raise ManifestError(f"the ONNX metadata key {key!r} is not JSON: {metadata[key][:60]!r}", _HOW) from None
    return values


def _classes(names: Any) -> tuple[ModelClass, ...]:
    if not isinstance(names, Mapping) or sorted(names, key=str) != sorted((str(i) for i in range(len(names))), key=str):
        raise ManifestError(
            f"the ONNX metadata key 'class_names' is {str(names)[:80]!r}", 'Write {"0": "first", "1": "second", ...}'
        )
    # A binary network may name its one interesting class only.
    listed = [str(names[str(i)]) for i in range(len(names))]
    if len(listed) == 1:
        return (ModelClass(0, "background", palette.TRANSPARENT), ModelClass(1, listed[0], palette.color(0)))
    return tuple(ModelClass(i, name, palette.color(i)) for i, name in enumerate(listed))


def _input(summary: OnnxSummary) -> tuple[int, tuple[int, int] | None]:
    dims = summary.inputs[0][1] if len(summary.inputs) == 1 else None
    if dims is None or len(dims) != 4 or not isinstance(dims[1], int):
        raise UnsupportedModel(
            f"the ONNX inputs are {[(name, dims) for name, dims in summary.inputs]}",
            "Export one input [batch, band, row, column] with a fixed number of bands",
        )
    _, bands, height, width = dims
    # A size of 0 is an unset dimension in the protobuf.
    sized = isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0
    return int(bands), (int(height), int(width)) if sized else None


def _answer(summary: OnnxSummary, classes: int) -> tuple[str, str]:
    """Return (emits, activation): what ends the graph tells whether an activation is still to be applied."""
    if summary.output_op in ("Softmax", "Sigmoid"):
        return "probabilities", "none"
    if summary.output_op == "LogSoftmax":
        return "logits", "softmax"
    if summary.output_op in ("ArgMax", "Cast"):
        return "labels", "none"
    dims = summary.outputs[0][1]
    single = classes == 1 or (dims is not None and len(dims) == 4 and dims[1] == 1)
    return "logits", "sigmoid" if single else "softmax"


def _scaling(values: Mapping[str, Any], bands: int) -> tuple[Op, ...]:
    every = tuple(range(bands))
    ops = [Op("scale", ((255.0,) * bands,), every)]
    given = [key for key in ("standardization_mean", "standardization_std") if key in values]
    if len(given) == 1:
        missing = "std" if given[0].endswith("mean") else "mean"
        raise ManifestError(f"the ONNX metadata has {given[0]!r} but not 'standardization_{missing}'", _HOW)
    if given:
        mean, deviation = (_numbers(values, key, bands) for key in given)
        if 0 in deviation:
            raise ManifestError("the ONNX metadata key 'standardization_std' holds a 0", "Correct it")
        ops.append(Op("z-score", (mean, deviation), every))
    return tuple(ops)


def _threshold(values: Mapping[str, Any]) -> float | None:
    threshold = _number(values, "seg_thresh") if "seg_thresh" in values else None
    if threshold is not None and not 0 <= threshold <= 1:
        raise ManifestError(f"the ONNX metadata key 'seg_thresh' is {threshold}", "Write a probability from 0 to 1")
    return threshold


def _overlap(values: Mapping[str, Any]) -> None:
    overlap = _number(values, "tiles_overlap") if "tiles_overlap" in values else 0.0
    if not 0 <= overlap < 100:
        raise ManifestError(f"the ONNX metadata key 'tiles_overlap' is {overlap}", "Write percent, 0 to 99")


def _whole(values: Mapping[str, Any], key: str, default: int) -> int:
    number = _number(values, key) if key in values else float(default)
    if number < 1 or number != int(number):
        raise ManifestError(f"the ONNX metadata key {key!r} is {number:g}", "Write a whole number of pixels")
    return int(number)


def _number(values: Mapping[str, Any], key: str) -> float:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ManifestError(f"the ONNX metadata key {key!r} is {value!r}", "Write a number")
    return float(value)


def _numbers(values: Mapping[str, Any], key: str, bands: int) -> tuple[float, ...]:
    value = values[key]
    items = value if isinstance(value, list) else [value] * bands
    if len(items) != bands:
        raise ManifestError(
            f"the ONNX metadata key {key!r} has {len(items)} numbers for {bands} bands", "Give one each"
        )
    return tuple(_number({key: item}, key) for item in items)
