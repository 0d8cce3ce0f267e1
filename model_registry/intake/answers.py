"""What a person says about a model whose file does not say it. Nothing here is ever guessed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from model_registry import palette
from model_registry.artifacts import read_file
from model_registry.errors import ManifestError
from model_registry.scaling import KINDS, PARAMETERS
from model_registry.yaml_text import read_yaml

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_TEXT = 1 << 20
_LISTED = re.compile(r"\s*,\s*")


@dataclass(frozen=True)
class Answers:
    """What is said; None is "not said", and only that is looked for in the file.

    classes: {"name", optionally "value", "color_hint" (RRGGBB), "description"} each, in the order of the channels.
    bands: one name for each input channel, in order; "1", "2", ... are the scene's bands by number.
    gsd: metres per pixel, "any" for a network that takes any.
    scaling: MLM operations in order, {"type": ..., numbers}; () is "none": the network takes raw values.
    dtypes: raster dtypes that the scaling is meant for.
    values: "dn" for the raster's own numbers, "physical" for those after its scale and offset.
    kind, value: "regression" or "embedding" instead of classes, and {name, unit, range, ...} of its numbers.
    emits, activation, threshold: see `manifest.Model`.
    architecture, hyperparameters: which network the weights of a .safetensors file or a checkpoint belong to.
    test_input, test_output: .npy files: raw pixels [C, H, W], and the right answer to them (scores [K, H, W] or class
    numbers [H, W]); without them the golden test is made by running the model once.
    """

    title: str | None = None
    classes: tuple[Mapping[str, Any], ...] | None = None
    bands: tuple[str, ...] | None = None
    gsd: float | Literal["any"] | None = None
    scaling: tuple[Mapping[str, Any], ...] | None = None
    dtypes: tuple[str, ...] | None = None
    values: str | None = None
    kind: str | None = None
    value: Mapping[str, Any] | None = None
    emits: str | None = None
    activation: str | None = None
    threshold: float | None = None
    license: str | None = None
    attribution: str | None = None
    description: str | None = None
    architecture: str | None = None
    hyperparameters: Mapping[str, Any] | None = None
    test_input: str | None = None
    test_output: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what is said, as JSON can hold it."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Answers:
        """Read what `to_json` returned."""
        lists = {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in {**given, **lists}.items() if key in known})


def read_classes(text: str, colors: str | None = None) -> tuple[dict[str, Any], ...]:
    """Read "water,forest", or a file: a YAML list, or a line for each class ("name", "value,name,RRGGBB").

    colors: "0000FF,00FF00", one for each class.

    Raises:
        ManifestError: nothing in it, a colour that is none, or another number of colours.
    """
    path = Path(text)
    if "," not in text and path.suffix and path.is_file():
        classes = _classes_of_file(read_file(path.parent, path.name, _MAX_TEXT), path.name)
    else:
        classes = [{"name": name} for name in _split(text)]
    if not classes:
        raise ManifestError(
            "no class is named", "Give their names in the order of the channels: --classes water,forest"
        )
    if colors is not None:
        hints = _split(colors)
        if len(hints) != len(classes):
            raise ManifestError(
                f"{len(hints)} colours for {len(classes)} classes", "Give one each: --colors 0000FF,..."
            )
        classes = [{**entry, "color_hint": hint.lstrip("#")} for entry, hint in zip(classes, hints, strict=True)]
    for entry in classes:
        hint = entry.get("color_hint")
        if hint is not None and palette.parse_hex(str(hint)) is None:
            raise ManifestError(f"colour {hint!r} of class {entry['name']!r}", "Write RRGGBB")
    return tuple(classes)


def _classes_of_file(data: bytes, name: str) -> list[dict[str, Any]]:
    if name.endswith((".yaml", ".yml", ".json")):
        listed = read_yaml(data, name)
        if not isinstance(listed, list):
            raise ManifestError(f"{name} is no list of classes", "Write one entry for each class")
        return [_class_of_entry(entry, name) for entry in listed]
    classes: list[dict[str, Any]] = []
    for line in data.decode("utf-8", "replace").splitlines():
        parts = _split(line)
        if not parts:
            continue
        if parts[0].isdigit() and len(parts) > 1:
            entry: dict[str, Any] = {"value": int(parts[0]), "name": parts[1]}
            classes.append(entry | ({"color_hint": parts[2].lstrip("#")} if len(parts) > 2 else {}))
        else:
            classes.append({"name": parts[0]} | ({"color_hint": parts[1].lstrip("#")} if len(parts) > 1 else {}))
    return classes


def _class_of_entry(entry: Any, name: str) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"name": entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise ManifestError(f"{name} has the class {str(entry)[:80]!r}", "Write a name, or {value, name, color_hint}")
    return {key: entry[key] for key in ("value", "name", "color_hint", "description") if key in entry}


def read_scaling(text: str) -> tuple[dict[str, Any], ...]:
    """Read a scaling: "none", steps such as "scale=255 | mean=0.485,0.456,0.406 std=0.229,0.224,0.225", or MLM's YAML.

    Steps are separated by "|" and done in order. A step is `mean= std=` (z-score), `min= max=` (min-max), `scale=` or
    `offset=` or `clip=low,high`, with one number or one for each band.

    Raises:
        ManifestError: anything else.
    """
    if text.strip().lower() == "none":
        return ()
    if text.strip().startswith(("[", "{")):
        listed = read_yaml(text, "--scaling")
        entries = listed if isinstance(listed, list) else [listed]
        if not all(isinstance(entry, Mapping) and entry.get("type") in PARAMETERS for entry in entries):
            raise ManifestError(
                f"scaling {text[:80]!r}", f"Write a list of {{type: ...}} with one of {', '.join(KINDS)}"
            )
        return tuple(dict(entry) for entry in entries)
    return tuple(_step(part.strip()) for part in text.split("|"))


_STEPS = {
    ("mean", "std"): ("z-score", ("mean", "stddev")),
    ("min", "max"): ("min-max", ("minimum", "maximum")),
    ("scale",): ("scale", ("value",)),
    ("offset",): ("offset", ("value",)),
}
_HOW = "Write none, scale=255, mean=1,2;std=3,4, min=0;max=3000 or clip=0,1, with | between steps, or MLM's {type: ...}"


def _step(text: str) -> dict[str, Any]:
    given = {}
    for key, values in re.findall(r"([a-z]+)\s*=\s*([^=;]*?)\s*(?=;|[\s]+[a-z]+\s*=|$)", text):
        given[key] = [_number(value, text) for value in _split(values)]
    rest = re.sub(r"([a-z]+)\s*=\s*([^=;]*?)\s*(?=;|[\s]+[a-z]+\s*=|$)", "", text).strip(" ;")
    if not rest and set(given) == {"clip"} and len(given["clip"]) == 2:
        return {"type": "clip", "minimum": given["clip"][0], "maximum": given["clip"][1]}
    for names, (kind, parameters) in _STEPS.items():
        if not rest and set(given) == set(names) and all(given.values()):
            numbers = [given[name][0] if len(given[name]) == 1 else given[name] for name in names]
            return {"type": kind, **dict(zip(parameters, numbers, strict=True))}
    raise ManifestError(f"scaling step {text[:80]!r}", _HOW)


def _number(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ManifestError(f"{value[:40]!r} in the scaling {text[:80]!r} is no number", _HOW)
    return number


def read_gsd(text: str) -> float | Literal["any"]:
    """Read metres per pixel, or "any"."""
    if text.strip().lower() == "any":
        return "any"
    try:
        value = float(text.strip().removesuffix("m"))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ManifestError(f"--gsd {text[:40]!r}", "Write the metres per pixel that it was trained at, or any")
    return value


def read_mapping(text: str, option: str) -> dict[str, Any]:
    """Read "in_channels=4,classes=3", JSON or YAML of one object."""
    if text.strip().startswith("{"):
        found = read_yaml(text, option)
    else:
        pairs = [part.partition("=") for part in _split(text)]
        if not all(equals and key for key, equals, _ in pairs):
            raise ManifestError(
                f"{option} {text[:80]!r}", f'Write {option} in_channels=4,classes=3 or {option} "{{...}}"'
            )
        found = {key.strip(): _plain(value) for key, _, value in pairs}
    if not isinstance(found, dict):
        raise ManifestError(f"{option} {text[:80]!r} is no object", f"Write {option} in_channels=4,classes=3")
    return {str(key): value for key, value in found.items()}


def _plain(text: str) -> Any:
    low, dots, high = text.partition("..")
    if dots:
        return [_plain(low), _plain(high)]
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()


def _split(text: str) -> Sequence[str]:
    return [part for part in _LISTED.split(text.strip()) if part]


def read_list(text: str) -> tuple[str, ...]:
    """Read "B04,B03,B02"."""
    return tuple(_split(text))
