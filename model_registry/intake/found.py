"""What a file says of itself, a person's answers on top, and everything that is still missing in one message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from model_registry import scaling
from model_registry.errors import ManifestError
from model_registry.intake.answers import Answers
from model_registry.manifest import ArtifactFormat
from model_registry.model_yaml import derive_rasters

Document = dict[str, Any]


class Missing(NamedTuple):
    """Something that nobody has said, or that was said wrongly: which answer, what it is, how the option is written."""

    field: str
    what: str
    option: str


@dataclass
class Found:
    """One network and what its source says.

    data: the artifact's bytes; they are what is checked, run and copied.
    document: model.yaml as far as the source tells it; `complete` where it is a finished one that needs no questions.
    bands, channels: how many the network takes and answers, None where the file does not tell.
    fixed, multiple, largest: window sizes in px that the file demands.
    emits: what its last operation tells.
    notes: what a person should know, one line each; told with what is missing.
    tests: bytes of the files of a golden test that came with it, by "input" and "output".
    beside: bytes of other files that the document names, by their href.
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
    beside: Mapping[str, bytes] = field(default_factory=dict)


def finish(found: Found, answers: Answers, source: str) -> Document:
    """Return a whole model.yaml document, but for its artifacts, or say everything that is missing at once.

    Raises:
        ManifestError: what nobody has said, with the option for each; or an answer that the file contradicts.
    """
    document = _skeleton(found)
    _lay_over(document, answers)
    if found.complete:
        return document
    missing = _missing(document, found, answers)
    if missing:
        told = "; ".join(item.what for item in missing)
        notes = "".join(f" ({note})" for note in found.notes)
        options = "; ".join(item.option for item in missing)
        raise ManifestError(f"{source} does not say all that is needed: {told}{notes}", f"Say it with {options}")
    document["properties"].setdefault("name", source.rpartition(".")[0] or source)
    document["properties"].setdefault("source", source)
    return document


def questions(found: Found, answers: Answers) -> list[Missing]:
    """Return everything that is still to be said; an empty list once `finish` has all that it needs."""
    document = _skeleton(found)
    _lay_over(document, answers)
    return [] if found.complete else _missing(document, found, answers)


def _missing(document: Document, found: Found, answers: Answers) -> list[Missing]:
    asked = [*_bands(document, found), *_classes(document, found), *_scaling(document), *_resolution(document, answers)]
    return asked


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
    properties = {**properties, "input": [entry], "output": [result]}
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
    for key, given in (
        ("kind", answers.kind),
        ("value", answers.value),
        ("emits", answers.emits),
        ("activation", answers.activation),
        ("threshold", answers.threshold),
    ):
        if given is not None:
            serving["output"] = {**(serving.get("output") or {}), key: given}


def _per_band(step: Mapping[str, Any]) -> list[dict[str, Any]]:
    """MLM has one number in each object: a list of them becomes one object for each band."""
    lengths = {len(value) for value in step.values() if isinstance(value, list)}
    if len(lengths) != 1:
        return [dict(step)]
    return [{k: v[i] if isinstance(v, list) else v for k, v in step.items()} for i in range(lengths.pop())]


def _bands(document: Document, found: Found) -> list[Missing]:
    names = document["properties"]["input"][0]["bands"]
    if not names:
        count = f"{found.bands} bands" if found.bands else "the bands"
        example = ",".join(str(i + 1) for i in range(found.bands or 3))
        return [
            Missing(
                "bands",
                f"the names of {count}, in the network's order",
                f"--bands {example} (names, or numbers in the scene)",
            )
        ]
    if found.bands is not None and len(names) != found.bands:
        return [
            Missing(
                "bands",
                f"{len(names)} bands were named, the network takes {found.bands}",
                "--bands with one name for each",
            )
        ]
    document["properties"]["input"][0]["input"]["shape"][1] = len(names)
    return []


def _classes(document: Document, found: Found) -> list[Missing]:
    output = document["serving"].get("output") or {}
    if output.get("kind") in ("regression", "embedding"):
        return _values(document["properties"]["output"][0], output, found)
    classes = document["properties"]["output"][0].get("classification:classes")
    labels = (document["serving"].get("output") or {}).get("emits") == "labels"
    wanted = None if labels else found.channels
    if not classes:
        count = f"{wanted} classes" if wanted and wanted > 1 else "the classes"
        return [Missing("classes", f"the names of {count}, in the order of the channels", "--classes name,name,...")]
    fits = wanted is None or len(classes) == wanted or (wanted == 1 and len(classes) == 2)
    if not fits:
        return [
            Missing(
                "classes",
                f"{len(classes)} classes were named, the network answers {wanted}",
                "--classes with one name for each",
            )
        ]
    return []


def _values(result: Document, output: Mapping[str, Any], found: Found) -> list[Missing]:
    """A number or a vector instead of classes: how many channels it has, and which numbers its colours stand for."""
    result["tasks"] = [output["kind"]]
    if found.channels:
        result["result"] = {
            "shape": [-1, found.channels, -1, -1],
            "dim_order": ["batch", "channel", "height", "width"],
            "data_type": "float32",
        }
    if output["kind"] == "regression" and not (output.get("value") or {}).get("range"):
        return [
            Missing("value", "which values its colours stand for", "--value 'name=canopy height,unit=m,range=0..40'")
        ]
    return []


def _scaling(document: Document) -> list[Missing]:
    entry, serving = document["properties"]["input"][0], document["serving"]
    if "value_scaling" not in entry and serving.get("preprocess") is None:
        return [
            Missing(
                "scaling",
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
        return [
            Missing("dtypes", "which dtype of raster it is meant for", "--dtypes uint8 (or uint16, int16, float32)")
        ]
    serving["input"] = {"values": block.get("values") or values, "dtypes": list(dtypes)}
    return []


def _resolution(document: Document, answers: Answers) -> list[Missing]:
    if document["serving"].get("resolution") or answers.gsd is not None:
        return []
    return [Missing("gsd", "the ground resolution that it was trained at", "--gsd METRES (or any)")]
