"""What a model answered of a window -> scores, in the forms that cells are kept in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from model_registry import Model, Prediction
from tiler.errors import DeviceError
from tiler.values import PRECISE, Floats, Halves, Mask, Scores

# Probabilities need no more than float16. Nor do components, which are shown in 256 steps: beyond its range they are at
# the end of any scale. Values are kept as float32: metres above the sea would lose their decimals.
HALF_MAX = float(np.finfo(np.float16).max)


def scores_of(model: Model, answer: Prediction, number: int, valid: Mask, precise: bool = False) -> Scores:
    """The scores of one window of a batch.

    Args:
        model: who answered.
        answer: of the batch.
        number: the window's place in it.
        valid: bool [rows, cols] of the window.
        precise: whether probabilities are kept as they are.

    Raises:
        DeviceError: numbers that are not finite.
    """
    classes = None
    if answer.classes is not None:
        classes = np.asarray([item.value for item in model.classes], np.uint8)[answer.classes[number]]
    # Values were looked at by whoever made them; an embedding's are many.
    for plane in (answer.probabilities, answer.components):
        if plane is not None and not np.isfinite(plane[number]).all():
            raise DeviceError(
                f"model {model.name!r} answered numbers that are not finite",
                "Check its scaling and the scene's values with `tiler info`",
            )
    return Scores(
        classes=classes,
        valid=valid,
        probabilities=answer.probabilities[number]
        if precise and answer.probabilities is not None
        else _half(answer.probabilities, number),
        values=None if answer.values is None else answer.values[number],
        components=_half(answer.components, number),
    )


def rounded(scores: Scores) -> Scores:
    """Scores whose probabilities may be precise -> what `scores_of` makes of the same answer otherwise."""
    found = scores.probabilities
    return scores if found is None or found.dtype == np.float16 else replace(scores, probabilities=half(found))


def nothing(model: Model, valid: Mask, everything: int) -> Scores:
    """The scores of a window without any data, which no model has to see.

    Args:
        model: who would have answered.
        valid: bool [rows, cols], all False.
        everything: whether probabilities (`Key`), or an embedding's channels, were asked for.
    """
    if model.values is None:
        dtype = np.float32 if everything == PRECISE else np.float16
        planes = np.zeros((len(model.classes), *valid.shape), dtype) if everything else None
        return Scores(np.zeros(valid.shape, np.uint8), valid, planes)
    embedding = model.kind == "embedding"
    wanted = bool(everything) or not embedding
    return Scores(
        None,
        valid,
        values=np.zeros((model.values.channels, *valid.shape), np.float32) if wanted else None,
        components=np.zeros((3, *valid.shape), np.float16) if embedding else None,
    )


def half(planes: Floats | Halves) -> Halves:
    """Planes as they are kept."""
    return np.clip(planes, -HALF_MAX, HALF_MAX).astype(np.float16)


def _half(planes: Floats | None, number: int) -> Halves | None:
    return None if planes is None else half(planes[number])
