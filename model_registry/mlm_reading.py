"""Read items of STAC's Machine Learning Model extension, 1.2 to 1.6, as they are found.

What an item says in another version's words is put into ours; what is plainly not meant for whole images (the shape of
a convolution's kernel, no spatial axes, a band listed twice) is left out, so that whoever adds the model is asked.
What would change pixels and cannot be carried over is refused: nothing here guesses a scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_registry import scaling
from model_registry.artifacts import check_checksum, checksum_of, locate, read_file
from model_registry.errors import ArtifactError, ManifestError, UnsupportedModel

# Words of earlier versions for what is `value_scaling` now.
_OLD_SCALING = ("norm", "norm_type", "norm_by_channel", "norm_clip", "norm_with_clip_values", "statistics")
_SYNONYMS = {"min": "minimum", "max": "maximum", "std": "stddev"}
_REMARKS = ("description", "name", "title")
# An input smaller than this is a kernel, not an image (stac-model's from_torch writes that of the first convolution).
_LEAST_EDGE = 16
_IMAGE_TASKS = ("classification", "scene-classification", "detection", "object-detection", "image-captioning")
_KEPT = (
    "name architecture tasks framework framework_version description license version hyperparameters attribution "
    "total_parameters memory_size batch_size_suggestion pretrained pretrained_source accelerator_summary "
    "providers keywords created updated sci:doi sci:citation source datetime".split()
)
_OURS_ONLY = ("classes", "tasks", "value_scaling", "license", "digest", "measured", "format")


def document_from_item(item: Mapping[str, Any], *, folder: Path | None = None) -> dict[str, Any]:
    """Return the model.yaml document that an MLM item amounts to.

    An item that `mlm.item_from_model` wrote gives a document of the same model. One from elsewhere gives what it says:
    `serving.resolution` only where it states one gsd, `serving.artifacts` only of formats that can be served, and no
    word on logits or probabilities, as MLM has none. What is missing must be asked for, or `read_folder` will name it.

    Args:
        item: the parsed JSON, or MLM's metadata-only form with `properties` alone.
        folder: where the item lies: checksums that it lacks are then taken of the files.

    Raises:
        ManifestError: no MLM item; a scaling in words that MLM gave up; sizes or numbers that contradict each other.
        UnsupportedModel: several inputs or outputs, another order of axes, code before or after the network, an input
            that is resized, an answer for the whole image.
        ArtifactError: the model lies elsewhere.
    """
    properties = item.get("properties") if isinstance(item, Mapping) else None
    if not isinstance(properties, Mapping):
        kind = item.get("type") if isinstance(item, Mapping) else type(item).__name__
        raise ManifestError(f"this is no STAC item but {kind!r}", "Give an item with the MLM extension")
    own = "serving:schema" in properties
    serving = {key.removeprefix("serving:"): v for key, v in properties.items() if key.startswith("serving:")}
    ours = {key: serving.pop(key, None) for key in _OURS_ONLY}
    serving = serving if own else {"schema": 1}
    document: dict[str, Any] = {"properties": properties_from_mlm(properties, own=own)}
    if own:
        _restore(document["properties"], ours)
    elif (gsd := _gsd(properties)) is not None:
        serving["resolution"] = {"value": gsd, "unit": "m"}
    artifacts = _artifacts(item.get("assets"), folder, own)
    whole = {**document, "serving": {**serving, **({"artifacts": artifacts} if artifacts else {})}}
    fresh: dict[str, Any] = _fresh(whole)
    return fresh


def properties_from_mlm(properties: Mapping[str, Any], own: bool = False) -> dict[str, Any]:
    """Return the block `properties:` of a model.yaml from an MLM item's; see `document_from_item`.

    own: it is an item that this package wrote, so that bands may repeat and a function before the network is ours.
    """
    plain = {str(key).removeprefix("mlm:"): value for key, value in properties.items()}
    found = {key: plain[key] for key in _KEPT if plain.get(key) is not None}
    if isinstance(title := plain.get("title"), str) and title:
        found["name"] = title
    if found.get("architecture") == "unknown":
        del found["architecture"]
    entry, output = (_only(plain.get(key), key) for key in ("input", "output"))
    tasks = [str(task) for task in output.get("tasks") or plain.get("tasks") or ()]
    fresh: dict[str, Any] = _fresh({**found, "input": [_input(entry, own)], "output": [_output(output, tasks)]})
    return fresh


def _only(entries: Any, what: str) -> Mapping[str, Any]:
    if isinstance(entries, Mapping):
        entries = [entries]
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, Mapping) for entry in entries):
        raise ManifestError(f"the item has no mlm:{what}", "Give an item with the MLM extension, 1.2 or later")
    if len(entries) != 1:
        raise UnsupportedModel(
            f"the model has {len(entries)} {what}s", "Export it with one image input and one map output"
        )
    only: Mapping[str, Any] = entries[0]
    return only


# Input.


def _input(entry: Mapping[str, Any], own: bool) -> dict[str, Any]:
    structure = entry.get("input") if isinstance(entry.get("input"), Mapping) else {}
    assert isinstance(structure, Mapping)
    shape, order = _shape(structure.get("shape")), _order(structure.get("dim_order"))
    bands = _bands(entry, own)
    channels = shape[1] if len(shape) == 4 else -1
    if bands and channels > 0 and len(bands) != channels:
        raise ManifestError(f"the item lists {len(bands)} bands for {channels} channels", "Correct the item")
    channels = channels if channels > 0 else len(bands) or -1
    if not own:
        _check_functions(entry)
    found: dict[str, Any] = {
        "name": str(entry.get("name") or "image"),
        "bands": bands,
        "input": {
            "shape": [-1, channels, *_edges(shape)],
            "dim_order": ["batch", "bands", "height", "width"] if order else [],
            "data_type": str(structure.get("data_type") or "float32"),
        },
    }
    if (scaled := _value_scaling(entry, max(channels, 1))) is not None:
        found["value_scaling"] = scaled
    return found


def _bands(entry: Mapping[str, Any], own: bool) -> list[str]:
    listed = entry.get("bands") or entry.get("variables") or ()
    if not isinstance(listed, list | tuple):
        raise ManifestError("the item's bands are no list", "Correct the item")
    names = []
    for band in listed:
        if isinstance(band, Mapping) and band.get("expression") is not None:
            raise UnsupportedModel(f"band {band.get('name')!r} is an expression", "Give the computed band as a raster")
        names.append(str(band.get("name") if isinstance(band, Mapping) else band))
    # Two dates of one scene, most likely: only whoever adds the model knows.
    return names if own or len(set(names)) == len(names) else []


def _shape(told: Any) -> list[int]:
    if not isinstance(told, list) or not all(isinstance(n, int | float) and n == int(n) for n in told):
        return []
    if len(told) not in (0, 4):
        raise UnsupportedModel(
            f"the input has {len(told)} axes: {told}", "Export the network for batch, bands, height, width"
        )
    return [int(n) for n in told]


def _order(told: Any) -> bool:
    """Tell whether the axes are named; refuse another order than batch, bands, height, width."""
    if not told:
        return False
    known = (("batch",), ("bands", "band", "channel", "channels"), ("height", "y"), ("width", "x"))
    if len(told) != 4 or any(axis not in names for axis, names in zip(told, known, strict=True)):
        raise UnsupportedModel(f"the input's dim_order is {told}", "Export it as batch, bands, height, width")
    return True


def _edges(shape: list[int]) -> list[int]:
    if len(shape) != 4 or min(shape[2:]) < _LEAST_EDGE:
        return [-1, -1]
    return shape[2:]


def _check_functions(entry: Mapping[str, Any]) -> None:
    if entry.get("pre_processing_function"):
        raise UnsupportedModel(
            "the input has a pre_processing_function, which is code",
            "Take it out and write its steps as value_scaling, or bake it into the network",
        )
    resize = entry.get("resize_type")
    if isinstance(resize, str) and resize not in ("crop", "pad"):
        raise UnsupportedModel(
            f"the input is resized ({resize}), which changes its ground resolution",
            "Take resize_type out, and give the resolution that the network sees",
        )


def _value_scaling(entry: Mapping[str, Any], bands: int) -> list[Any] | None:
    told = entry.get("value_scaling")
    if not told:
        old = [key for key in _OLD_SCALING if entry.get(key) not in (None, False, [], {}, "none", "null")]
        if old:
            raise ManifestError(
                f"the input's scaling is written as {', '.join(old)}, which MLM gave up: it does not tell the numbers",
                "Write value_scaling, e.g. [{type: z-score, mean: 0, stddev: 3000}], with those it was trained with",
            )
        return None
    entries = [told] if isinstance(told, Mapping) else told
    if not isinstance(entries, list | tuple):
        raise ManifestError("value_scaling is no list", 'Write e.g. [{"type": "scale", "value": 255}]')
    found = [_scaling_entry(one) for one in entries]
    scaling.read_value_scaling(found, max(bands, len(found)))  # says what is wrong with it
    return found


def _scaling_entry(entry: Any) -> Any:
    if not isinstance(entry, Mapping) or entry.get("type") is None:
        return None if isinstance(entry, Mapping) and not set(entry) - {"type"} else entry
    named = {_SYNONYMS.get(str(key), str(key)): value for key, value in entry.items()}
    return {key: value for key, value in named.items() if key not in _REMARKS}


# Output.


def _output(output: Mapping[str, Any], tasks: list[str]) -> dict[str, Any]:
    if output.get("post_processing_function"):
        raise UnsupportedModel(
            "the output has a post_processing_function, which is code",
            "Take it out, and write in model.yaml what the network emits (serving.output)",
        )
    told = output.get("result")
    result = dict(told) if isinstance(told, Mapping) else {}
    shape = result.get("shape")
    if not isinstance(shape, list) or len(shape) != 4:
        # No spatial axes. Written by tools that do not know better, or the truth about a network for whole images.
        if tasks and set(tasks) <= set(_IMAGE_TASKS):
            raise UnsupportedModel(
                f"the model gives one answer for a whole image ({', '.join(tasks)}; result {shape})",
                "Only networks that answer for every pixel can be shown as a map",
            )
        result = {}
    found: dict[str, Any] = {"name": str(output.get("name") or "scores"), "tasks": tasks, "result": result}
    listed = next((output[key] for key in _CLASSES if output.get(key)), None)
    if listed is not None:
        found["classification:classes"] = _classes(listed)
    return found


_CLASSES = ("classification:classes", "classification_classes", "classes")


def _classes(listed: Any) -> list[dict[str, Any]]:
    if not isinstance(listed, list) or not all(isinstance(item, Mapping) and "value" in item for item in listed):
        raise ManifestError("the item's classes are no list of {value, name}", "Correct the item")
    found = []
    for item in listed:
        named = {key: item[key] for key in ("value", "name", "title", "description") if item.get(key) is not None}
        if (hint := _hint(item.get("color_hint"))) is not None:
            named["color_hint"] = hint
        found.append(named)
    return found


def _hint(told: Any) -> str | None:
    """Return a colour as RRGGBB; some write [r, g, b]."""
    numbers = told if isinstance(told, list | tuple) else ()
    if len(numbers) in (3, 4) and all(isinstance(n, int) and 0 <= n < 256 for n in numbers):
        return bytes(numbers).hex().upper()
    return told if isinstance(told, str) else None


# The rest.


def _restore(properties: dict[str, Any], ours: Mapping[str, Any]) -> None:
    """Put back what MLM's words cannot hold."""
    if isinstance(ours["classes"], list):
        properties["output"][0]["classification:classes"] = ours["classes"]
    if isinstance(ours["tasks"], list):
        properties["tasks"] = properties["output"][0]["tasks"] = ours["tasks"]
    if ours["license"]:
        properties["license"] = ours["license"]
    properties["input"][0].pop("value_scaling", None)
    if ours["value_scaling"]:
        properties["input"][0]["value_scaling"] = ours["value_scaling"]


def _gsd(properties: Mapping[str, Any]) -> float | None:
    """Return the one ground sampling distance that the item states, None where it states none or several."""
    bands = [b for key in ("bands", "eo:bands") if isinstance(properties.get(key), list) for b in properties[key]]
    stated = [properties.get("gsd")]
    if stated == [None]:
        stated = [band.get("gsd") for band in bands if isinstance(band, Mapping)]
    numbers = {float(n) for n in stated if isinstance(n, int | float) and n > 0}
    return numbers.pop() if len(numbers) == 1 and None not in stated else None


def _artifacts(assets: Any, folder: Path | None, own: bool) -> list[dict[str, Any]]:
    """Return the artifacts among an item's assets: all of an own item's, else the one that can be served best."""
    listed = [a for a in assets.values() if isinstance(a, Mapping)] if isinstance(assets, Mapping) else []
    if own:
        return [_artifact(asset, str(asset["serving:format"]), folder) for asset in listed if "serving:format" in asset]
    models = [a for a in listed if "mlm:model" in (a.get("roles") or ())]
    models = models or [a for a in listed if "mlm:artifact_type" in a or "artifact_type" in a]
    kinds = {kind: asset for asset in reversed(models) if (kind := _format(asset)) is not None}
    best = next((kind for kind in ("onnx", "safetensors", "pt2", "torchscript") if kind in kinds), None)
    return [] if best is None else [_artifact(kinds[best], best, folder)]


def _format(asset: Mapping[str, Any]) -> str | None:
    """Return the format of a model's file, None where it is none that can be served (a pickle, a web page)."""
    href = str(asset.get("href") or "").partition("?")[0].lower()
    kind = str(asset.get("mlm:artifact_type") or asset.get("artifact_type") or "").lower()
    told = f"{kind} {asset.get('type') or ''}".lower()
    if href.endswith(".onnx") or "onnx" in told:
        return "onnx"
    if href.endswith(".safetensors") or "safetensors" in told:
        return "safetensors"
    if kind.startswith("torch.jit"):
        return "torchscript"
    if href.endswith(".pt2") or kind.startswith("torch.export"):
        return "pt2"
    return None


def _artifact(asset: Mapping[str, Any], kind: str, folder: Path | None) -> dict[str, Any]:
    href = str(asset.get("href") or "").removeprefix("./")
    if "://" in href:
        raise ArtifactError(
            "the item's model lies elsewhere", "Fetch it beside the item, and write its name as the asset's href"
        )
    found: dict[str, Any] = {"href": href, "format": kind}
    locate(folder or Path(), href)
    checksum = asset.get("file:checksum") or asset.get("checksum:multihash")
    if checksum is not None:
        found["checksum"] = check_checksum(str(checksum))
    elif folder is not None:
        found["checksum"] = checksum_of(read_file(folder, href))
    if isinstance(size := asset.get("file:size"), int):
        found["size"] = size
    return found


def _fresh(value: Any) -> Any:
    """Copy lists and mappings: what occurs twice would be written as an alias in YAML."""
    if isinstance(value, Mapping):
        return {str(key): _fresh(inner) for key, inner in value.items()}
    return [_fresh(inner) for inner in value] if isinstance(value, list | tuple) else value
