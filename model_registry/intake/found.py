"""What a file says of itself, a person's answers on top, and everything that is still missing in one message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model_registry import scaling
from model_registry.errors import ManifestError
from model_registry.intake.answers import Answers
from model_registry.manifest import ArtifactFormat
from model_registry.model_yaml import derive_rasters

Document = dict[str, Any]


@dataclass
class Found:
    """One network and what its source says.

    data: the artifact's bytes; they are what is checked, run and copied.
    document: model.yaml as far as the source tells it; `complete` where it is a finished one that needs no questions.
    bands, channels: how many the network takes and answers, None where the file does not tell.
    fixed, multiple, largest: window sizes in px that the file demands.
    emits: what its last operation tells.
    notes: what a person should know, one line each; told with what is missing.
    tests: file name -> bytes of a golden test that came with it.
    """

    data: bytes
    format: ArtifactFormat
    document: Document = field(default_factory=dict)
    complete: bool = False
    bands: int | None = None
    channels: int | None = None
    fixed: tuple[int, int] | None = None
    multiple: int | None = None
    largest: int | None = None
    emits: str | None = None
    notes: list[str] = field(default_factory=list)
    tests: Mapping[str, bytes] = field(default_factory=dict)


def finish(found: Found, answers: Answers, source: str) -> Document:
    """Return a whole model.yaml document, but for its artifacts, or say everything that is missing at once.

    Raises:
        ManifestError: what nobody has said, with the option for each; or an answer that the file contradicts.
    """
    document = _skeleton(found)
    _lay_over(document, answers)
    if not found.complete:
        missing = [
            *_bands(document, found),
            *_classes(document, found),
            *_scaling(document),
            *_resolution(document, answers),
        ]
        if missing:
            told = "; ".join(what for what, _ in missing)
            notes = "".join(f" ({note})" for note in found.notes)
            raise ManifestError(f"{source} does not say all that is needed: {told}{notes}", _options(missing))
        document["properties"].setdefault("name", source.rpartition(".")[0] or source)
        document["properties"].setdefault("source", source)
    return document


def _options(missing: list[tuple[str, str]]) -> str:
    return "Say it with " + " ".join(option for _, option in missing)


def _skeleton(found: Found) -> Document:
    properties = dict(found.document.get("properties") or {})
    serving = dict(found.document.get("serving") or {})
    first = (properties.get("input") or [None])[0]
    last = (properties.get("output") or [None])[0]
    entry = dict(first) if isinstance(first, Mapping) else {"name": "image"}
    result = dict(last) if isinstance(last, Mapping) else {"name": "classes"}
    if not found.complete:
        # Items in the wild give a layer's kernel, or nothing, as the input's size; the file itself knows better.
        entry["input"] = {
            "shape": [-1, found.bands or -1, *(found.fixed or (-1, -1))],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        }
        result.pop("result", None)
        entry.setdefault("bands", [])
        result.setdefault("tasks", ["semantic-segmentation"])
        window = {"multiple": "auto", "period": "auto", "halo": "auto", **(serving.get("window") or {})}
        if found.multiple and window["multiple"] == "auto":
            window["multiple"] = found.multiple
        if found.largest:
            window.setdefault("max", found.largest)
        serving = {**serving, "schema": 1, "window": window}
        if found.emits is not None:
            serving.setdefault("output", {"emits": found.emits})
        properties.setdefault("architecture", "")
        properties.setdefault("tasks", ["semantic-segmentation"])
    order = (
        "name",
        "architecture",
        "hyperparameters",
        "license",
        "attribution",
        "description",
        "source",
        "framework",
        "tasks",
    )
    sorted_properties = {key: properties[key] for key in order if key in properties}
    rest = {key: value for key, value in properties.items() if key not in (*order, "input", "output")}
    properties = {**sorted_properties, **rest, "input": [entry], "output": [result]}
    return {**found.document, "properties": properties, "serving": serving}


def _lay_over(document: Document, answers: Answers) -> None:
    properties, serving = document["properties"], document["serving"]
    entry, result = properties["input"][0], properties["output"][0]
    for key, value in (
        ("name", answers.title),
        ("license", answers.license),
        ("attribution", answers.attribution),
        ("description", answers.description),
        ("architecture", answers.architecture),
        ("hyperparameters", None if answers.hyperparameters is None else dict(answers.hyperparameters)),
    ):
        if value is not None:
            properties[key] = value
    if answers.bands is not None:
        entry["bands"] = list(answers.bands)
    if answers.scaling is not None:
        serving.pop("preprocess", None)
        steps = [dict(step) for step in answers.scaling]
        if len(steps) <= 1:
            entry["value_scaling"] = _per_band(steps[0]) if steps else None
        else:
            entry["value_scaling"] = None
            serving["preprocess"] = steps
    if answers.classes is not None:
        classes = [{"value": i, **dict(given)} for i, given in enumerate(answers.classes)]
        if len(classes) == 1 and "value" not in answers.classes[0]:
            classes[0]["value"] = 1  # one interesting class; 0 is the background
        result["classification:classes"] = classes
    if isinstance(answers.gsd, float | int):
        serving["resolution"] = {"value": answers.gsd, "unit": "m"}
    elif answers.gsd == "any":
        serving.pop("resolution", None)
    if answers.dtypes is not None or answers.values is not None:
        block = dict(serving.get("input") or {})
        block.update({"dtypes": list(answers.dtypes)} if answers.dtypes is not None else {})
        block.update({"values": answers.values} if answers.values is not None else {})
        serving["input"] = block
    for key, given in (("emits", answers.emits), ("activation", answers.activation), ("threshold", answers.threshold)):
        if given is not None:
            serving["output"] = {**(serving.get("output") or {}), key: given}


def _per_band(step: Mapping[str, Any]) -> list[dict[str, Any]]:
    """MLM has one number in each object: a list of them becomes one object for each band."""
    lengths = {len(value) for value in step.values() if isinstance(value, list)}
    if len(lengths) != 1:
        return [dict(step)]
    return [{k: v[i] if isinstance(v, list) else v for k, v in step.items()} for i in range(lengths.pop())]


def _bands(document: Document, found: Found) -> list[tuple[str, str]]:
    names = document["properties"]["input"][0]["bands"]
    if not names:
        count = f"{found.bands} bands" if found.bands else "the bands"
        example = ",".join(str(i + 1) for i in range(found.bands or 3))
        return [
            (f"the names of {count}, in the network's order", f"--bands {example} (names, or numbers in the scene)")
        ]
    if found.bands is not None and len(names) != found.bands:
        return [(f"{len(names)} bands were named, the network takes {found.bands}", "--bands with one name for each")]
    document["properties"]["input"][0]["input"]["shape"][1] = len(names)
    return []


def _classes(document: Document, found: Found) -> list[tuple[str, str]]:
    classes = document["properties"]["output"][0].get("classification:classes")
    labels = (document["serving"].get("output") or {}).get("emits") == "labels"
    wanted = None if labels else found.channels
    if not classes:
        count = f"{wanted} classes" if wanted and wanted > 1 else "the classes"
        return [(f"the names of {count}, in the order of the channels", "--classes name,name,...")]
    fits = wanted is None or len(classes) == wanted or (wanted == 1 and len(classes) == 2)
    if not fits:
        return [
            (f"{len(classes)} classes were named, the network answers {wanted}", "--classes with one name for each")
        ]
    return []


def _scaling(document: Document) -> list[tuple[str, str]]:
    entry, serving = document["properties"]["input"][0], document["serving"]
    if "value_scaling" not in entry and serving.get("preprocess") is None:
        return [
            (
                "how pixels are scaled before they go in",
                "--scaling none, scale=255, mean=...;std=... or min=...;max=...",
            )
        ]
    block = serving.get("input") or {}
    bands = len(entry["bands"])
    if not bands or block.get("dtypes") or block.get("values") == "physical":
        return []
    if serving.get("preprocess") is not None:
        ops = tuple(scaling.read_op(op, bands) for op in serving["preprocess"])
    else:
        ops = scaling.read_value_scaling(entry["value_scaling"], bands)
    try:
        values, dtypes = derive_rasters(ops, bands)
    except ManifestError:
        return [("which dtype of raster it is meant for", "--dtypes uint8 (or uint16, int16, float32)")]
    serving["input"] = {"values": block.get("values") or values, "dtypes": list(dtypes)}
    return []


def _resolution(document: Document, answers: Answers) -> list[tuple[str, str]]:
    if document["serving"].get("resolution") or answers.gsd is not None:
        return []
    return [("the ground resolution that it was trained at", "--gsd METRES (or any)")]
