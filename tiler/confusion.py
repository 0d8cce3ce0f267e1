"""How right a prediction is: a confusion matrix, and the numbers that follow from it. numpy only.

Rows are the truth, columns the prediction. With tp the pixels of a class that are predicted as it, `support` those of
the class and `predicted` those predicted as it:

    precision = tp / predicted     recall = tp / support
    f1 = 2 tp / (support + predicted)     iou = tp / (support + predicted - tp)

A number whose denominator is 0 is None and left out of means, as scikit-learn does with `zero_division=numpy.nan`.
Kappa is Cohen's (Educational and Psychological Measurement 20, 1960).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]

MEASURES = ("precision", "recall", "f1", "iou")


def matrix(truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Counts:
    """Confusion matrix int64 [classes, classes] of two arrays of one shape, values 0 .. classes - 1."""
    pairs = truth.astype(np.int64).ravel() * classes + predicted.ravel()
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def measures(counts: Counts) -> dict[str, Numbers]:
    """`MEASURES` of each class, float64 [classes]; NaN where one is not defined."""
    right, support, predicted = _sums(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": right / predicted,
            "recall": right / support,
            "f1": 2 * right / (support + predicted),
            "iou": right / (support + predicted - right),
        }


def summary(counts: Counts) -> dict[str, Any]:
    """Overall accuracy, kappa, mean IoU, and means of each measure: over classes, and weighted by support."""
    right, support, predicted = _sums(counts)
    total = float(support.sum())
    each = measures(counts)
    observed = right.sum() / total if total else math.nan
    chance = float((support * predicted).sum()) / total**2 if total else math.nan
    kappa = (observed - chance) / (1 - chance) if chance < 1 else math.nan
    return {
        "overall_accuracy": number(observed),
        "kappa": number(kappa),
        "mean_iou": number(_mean(each["iou"], np.ones_like(support))),
        "macro": {name: number(_mean(each[name], np.ones_like(support))) for name in MEASURES},
        "weighted": {name: number(_mean(each[name], support)) for name in MEASURES},
    }


def number(value: float) -> float | None:
    """For JSON, which knows no NaN."""
    return float(value) if math.isfinite(value) else None


def _sums(counts: Counts) -> tuple[Numbers, Numbers, Numbers]:
    """(right, support, predicted) of each class."""
    return (
        np.diag(counts).astype(np.float64),
        counts.sum(axis=1).astype(np.float64),
        counts.sum(axis=0).astype(np.float64),
    )


def _mean(values: Numbers, weights: Numbers) -> float:
    known = np.isfinite(values)
    total = float(weights[known].sum())
    return float((values[known] * weights[known]).sum()) / total if total else math.nan
