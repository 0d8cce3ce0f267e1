"""The numbers of a confusion matrix: scikit-learn's, and None where there is nothing to divide by."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from tiler.confusion import MEASURES, matrix, measures, summary


@pytest.mark.parametrize("seed", range(5))
def test_they_are_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    # Some classes are never drawn, some never predicted, some neither.
    truth, predicted = random.choice([0, 1, 2, 5], 900), random.choice([0, 1, 3, 5], 900)
    counts = matrix(truth, predicted, 7)
    assert (counts == metrics.confusion_matrix(truth, predicted, labels=range(7))).all()
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        truth, predicted, labels=range(7), zero_division=np.nan
    )
    found = measures(counts)
    for name, wanted in (("precision", precision), ("recall", recall), ("f1", f1)):
        np.testing.assert_allclose(found[name], wanted, rtol=1e-14)
    np.testing.assert_allclose(
        found["iou"][[0, 1, 2, 3, 5]], metrics.jaccard_score(truth, predicted, average=None), rtol=1e-14
    )
    whole = summary(counts)
    assert whole["overall_accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert whole["kappa"] == pytest.approx(metrics.cohen_kappa_score(truth, predicted))
    assert whole["weighted"]["iou"] == pytest.approx(metrics.jaccard_score(truth, predicted, average="weighted"))


def test_nothing_to_judge_is_none_and_no_zero() -> None:
    whole = summary(np.zeros((3, 3), np.int64))
    assert whole["overall_accuracy"] is whole["kappa"] is whole["mean_iou"] is None
    assert set(whole["macro"]) == set(MEASURES) and set(whole["macro"].values()) == {None}


def test_one_class_alone_is_right_and_has_no_kappa() -> None:
    whole = summary(np.array([[9, 0], [0, 0]]))
    assert (whole["overall_accuracy"], whole["kappa"], whole["mean_iou"]) == (1.0, None, 1.0)


def test_counts_beyond_32_bits() -> None:
    """Square metres of a country."""
    whole = summary(np.array([[3, 1], [1, 3]], np.int64) * 10**11)
    assert whole["overall_accuracy"] == 0.75 and whole["kappa"] == pytest.approx(0.5)
