"""Legends: classes with their colours, or a ramp with its values and unit, or what the three colours stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from model_registry import LoadedModel, Model
from tiler.layer import Layer
from tiler.outputs import check_output, offered
from tiler.ramps import SPREAD, Color, ramp
from tiler.values import Output, hex_of

STOPS = 11  # colours of a ramp that a legend names, its ends among them
_SPREAD: dict[str, Any] = {"name": "spread", "unit": ""}


def classes_of(loaded: LoadedModel) -> list[dict[str, Any]]:
    """Legend entries: value, name, colour as #rrggbb and description; none for a model without classes."""
    return [
        {
            "value": item.value,
            "name": item.name,
            "color": hex_of(item.color),
            "description": item.description,
        }
        for item in loaded.model.classes
    ]


def legend_of(loaded: LoadedModel, output: Output | None = None) -> list[dict[str, Any]] | dict[str, Any]:
    """A list of classes, or an object that says what the colours of values, or of an ensemble's spread, stand for.

    Raises:
        RequestError: the spread of what is no ensemble.
    """
    model = loaded.model
    if output == "spread":
        check_output(model, output)
        return {"kind": model.kind, "value": _SPREAD | _stops(0.0, 1.0, SPREAD)}
    return classes_of(loaded) if model.values is None else {"kind": model.kind, **answer_of(model)}


def answer_of(model: Model) -> dict[str, Any]:
    """What TileJSON says of an answer without classes: `value` with ramp, or `components`; nothing for classes.

    Raises:
        MisfitError: the model names a ramp that there is not.
    """
    values = model.values
    if values is None:
        return {}
    told: dict[str, Any] = {"name": values.name, "unit": values.unit}
    if model.kind == "regression":
        return {"value": told | _stops(*values.range, values.ramp)}
    shown = values.components
    colors_of: list[dict[str, Any]]
    bands = zip(("red", "green", "blue"), range(3), strict=True)
    if shown is None:
        source = "its first three channels: no components were fitted"
        colors_of = [{"color": color, "name": f"channel {i + 1}", "range": list(values.range)} for color, i in bands]
    else:
        source = "three fixed components of its channels"
        colors_of = [
            {
                "color": color,
                "name": f"component {i + 1}",
                "range": [shown.low[i], shown.high[i]],
                "explained": shown.explained[i],
            }
            for color, i in bands
        ]
    return {"embedding": {**told, "channels": values.channels, "shown": source, "components": colors_of}}


def kind_of(model: Model) -> dict[str, Any]:
    """Kind and outputs, for every document that describes a model; of an ensemble also its members and spread."""
    told: dict[str, Any] = {"kind": model.kind, "outputs": list(offered(model))}
    if model.members:
        told["members"] = [
            {"model": member.model or model.name, "gsd": member.gsd, "weight": round(member.weight, 6)}
            for member in model.members
        ]
        told["spread"] = _SPREAD | _stops(0.0, 1.0, SPREAD)
    return told


def _stops(low: float, high: float, colors: str | Sequence[Color]) -> dict[str, Any]:
    """Range and colours of a ramp."""
    steps = ramp(colors)
    stops = [
        {"value": float(f"{low + share * (high - low):.6g}"), "color": hex_of(steps[round(share * 254)])}
        for share in np.linspace(0, 1, STOPS).tolist()
    ]
    return {"range": [low, high], "stops": stops}


def windows_of(layer: Layer) -> dict[str, Any]:
    """How windows of a model that is not exact are put together, and how far they differ; nothing for an exact one."""
    if layer.window_shape is None or layer.model.exactness == "exact":
        return {}
    loaded, grid = layer.loaded, layer.grid
    return {
        "windows": {
            "size": list(layer.window_shape),
            "cell": grid.cell,
            "overlap": 2 * grid.overlap,
            "blended": grid.overlap > 0,
            "redundancy": round(layer.redundancy, 2),
            "notes": [*loaded.probe.notes, *([loaded.choice.seams] if loaded.choice.seams else [])],
        }
    }
