"""Colours of what is no class: ramps of 256 steps, and which values their ends stand for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rio_tiler.colormap import cmap
from rio_tiler.errors import InvalidColorMapName

from model_registry import Model
from model_registry.postprocess import shown_components
from tiler.errors import MisfitError
from tiler.values import Style

Color = tuple[int, int, int, int]

# Of probabilities, and of how far an ensemble's members lie apart: not to be taken for each other.
PROBABILITIES, SPREAD = "viridis", "magma"
Rescale = tuple[tuple[float, float], ...]


def ramp(wanted: str | Sequence[Color]) -> dict[int, Color]:
    """256 colours: a colour map that TiTiler knows by name, or colours at equal distances.

    Raises:
        MisfitError: no colour map has that name.
    """
    if isinstance(wanted, str):
        try:
            found = cmap.get(wanted.lower())
        except InvalidColorMapName:
            raise MisfitError(
                f"the model's ramp {wanted!r} is not a colour map",
                "Use a name that colormap_name= takes, e.g. viridis, magma or ylgn, or write colours (RRGGBB)",
            ) from None
        return {int(step): (color[0], color[1], color[2], color[3]) for step, color in found.items()}  # type: ignore[union-attr]
    at = np.linspace(0, len(wanted) - 1, 256)
    planes = [np.interp(at, np.arange(len(wanted)), [color[part] for color in wanted]) for part in range(4)]
    red, green, blue, alpha = (np.rint(plane).astype(int).tolist() for plane in planes)
    return dict(enumerate(zip(red, green, blue, alpha, strict=True)))


def rescale_of(model: Model, style: Style) -> Rescale:
    """(low, high) of what is shown, once for all bands or once per band: what gets the first and the last colour."""
    if model.values is None:
        return ((0.0, 1.0),)
    if style.output != "rgb":
        return (model.values.range,)
    shown = shown_components(model)
    return tuple(zip(shown.low, shown.high, strict=True))
