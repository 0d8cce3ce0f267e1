"""From a network's scores to classes and probabilities, or to values; shared by all runtimes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_registry.components import Components, first_three, project
from model_registry.errors import ContractError, UnsupportedModel
from model_registry.manifest import Model
from model_registry.values import finished

Float32 = npt.NDArray[np.float32]


class Prediction(NamedTuple):
    """The answer for B windows.

    classes: uint8[B, H, W], indices into `Model.classes` (not their values); ties go to the lowest index. None for a
        model without classes.
    probabilities: float32[B, K, H, W] in the order of `Model.classes`, None unless asked for.
    values: float32[B, K, H, W] of a regression (K = 1), or of an embedding where all was asked for.
    components: float32[B, 3, H, W] of an embedding (`components`).
    """

    classes: npt.NDArray[np.uint8] | None
    probabilities: Float32 | None = None
    values: Float32 | None = None
    components: Float32 | None = None


def predict(scores: Float32, model: Model, probabilities: bool = False) -> Prediction:
    """Turn `scores` float32[B, K or 1, H, W] into a `Prediction`.

    With `probabilities` it has those, or all channels of an embedding.
    One score channel is binary: p = activation(score), class 1 where p >= threshold (0.5 unless given).
    Several: the largest score wins; where a threshold is given and the largest probability lies below it, class 0.

    Raises:
        UnsupportedModel: probabilities of a network that emits labels.
        ContractError: a label that no class of the manifest has, or scores that are not finite.
    """
    if model.values is not None:
        check_finite(scores)
        values = finished(scores, model.values, model.activation == "sigmoid")
        check_finite(values)
        if model.kind == "regression":
            return Prediction(None, values=values)
        shown = project(values, shown_components(model))
        return Prediction(None, values=values if probabilities else None, components=shown)
    if model.emits == "labels":
        return Prediction(_labels(scores, len(model.classes), probabilities), None)
    if scores.shape[1] == 1:
        check_finite(scores)
        p = _sigmoid(scores) if model.activation == "sigmoid" else scores
        classes = (p[:, 0] >= (0.5 if model.threshold is None else model.threshold)).astype(np.uint8)
        return Prediction(classes, np.concatenate([1 - p, p], axis=1) if probabilities else None)
    classes, largest = argmax(scores)
    check_finite(largest)
    shares = None
    if probabilities or model.threshold is not None:
        shares = activated(scores, model)
    if model.threshold is not None and shares is not None:
        classes[shares.max(axis=1) < model.threshold] = 0
    return Prediction(classes, shares if probabilities else None)


def shown_components(model: Model) -> Components:
    """Return what an embedding is shown by: its own components, or its first three channels."""
    assert model.values is not None, "only an embedding is shown by components"
    return model.values.components or first_three(model.values.channels, *model.values.range)


def argmax(scores: Float32) -> tuple[npt.NDArray[np.uint8], Float32]:
    """Return (index uint8[B, H, W] of the largest score, lowest where several are, and that score float32[B, H, W]).

    NaN anywhere among a pixel's scores makes its largest one NaN. Plane by plane: numpy's own argmax walks across the
    planes and takes 5 ms for 6 classes of 512 x 512, this 0.3 ms.
    """
    largest = scores[:, 0].copy()
    classes = np.zeros(largest.shape, dtype=np.uint8)
    for k in range(1, scores.shape[1]):
        greater = scores[:, k] > largest
        np.maximum(largest, scores[:, k], out=largest)
        # k only grows, so the largest k that was ever greater is the last one.
        np.maximum(classes, greater.view(np.uint8) * np.uint8(k), out=classes)
    return classes, largest


def check_finite(scores: Float32) -> None:
    """Raise a ContractError where a number is NaN or infinite: no class may be made of it."""
    if not np.isfinite(scores).all():
        share = 100 * float(np.mean(~np.isfinite(scores)))
        raise not_finite(share)


def not_finite(percent: float) -> ContractError:
    """The error of an answer of which so many percent are NaN or infinite."""
    return ContractError(
        f"{percent:.3g} % of the network's answers are not finite", "Check the scaling, the weights and the input"
    )


def _labels(scores: Float32, classes: int, probabilities: bool) -> npt.NDArray[np.uint8]:
    if probabilities:
        raise UnsupportedModel(
            "the network emits labels only, so there are no probabilities", "Export it without its final argmax"
        )
    labels = scores[:, 0]
    lowest, highest = float(labels.min()), float(labels.max())
    if not 0 <= lowest <= highest < classes:
        raise ContractError(
            f"the network answered labels from {lowest:g} to {highest:g}; the manifest has {classes} classes",
            f"Labels must be class numbers from 0 to {classes - 1}",
        )
    return labels.astype(np.uint8)


def activated(scores: Float32, model: Model) -> Float32:
    """Return `scores` [B, K, H, W] of a model with classes after its activation."""
    if model.activation == "softmax":
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        total: Float32 = shares / shares.sum(axis=1, keepdims=True)
        return total
    return _sigmoid(scores) if model.activation == "sigmoid" else scores


def _sigmoid(x: Float32) -> Float32:
    # exp of a non-positive number only, so that large scores neither overflow nor warn.
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(np.float32)
