from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_registry.errors import ContractError, UnsupportedModel
from model_registry.manifest import Model, ModelClass, make_model
from model_registry.postprocess import argmax, predict


def model(classes: int = 3, **fields: Any) -> Model:
    listed = tuple(ModelClass(i, str(i), (0, 0, 0, 255)) for i in range(classes))
    base: dict[str, Any] = {"name": "m", "version": "1", "title": "m", "folder": Path(), "artifacts": ()}
    return make_model(**base, bands=("a",), classes=listed, **fields)


def scores(*columns: list[float]) -> np.ndarray:
    """One row of pixels, one list of class scores each -> [1, K, 1, pixels]."""
    return np.array(columns, dtype=np.float32).T[None, :, None, :]


def test_ties_go_to_the_lowest_index():
    assert predict(scores([1, 1, 0], [0, 2, 2], [3, 3, 3]), model()).classes.tolist() == [[[0, 1, 0]]]


def test_softmax_by_hand():
    got = predict(scores([0, np.log(3), -1000], [1000, 999, 0]), model(), probabilities=True)
    assert got.classes.dtype == np.uint8 and got.classes.tolist() == [[[1, 0]]]
    np.testing.assert_allclose(got.probabilities[0, :, 0, 0], [0.25, 0.75, 0], atol=1e-6)
    np.testing.assert_allclose(got.probabilities[0, :2, 0, 1], [1 / (1 + np.exp(-1)), 1 / (1 + np.e)], atol=1e-6)
    assert got.probabilities.dtype == np.float32
    assert predict(scores([0, 1, 2]), model()).probabilities is None


def test_binary_sigmoid_and_threshold():
    x = scores([-2], [0], [2], [-1e4], [1e4])
    got = predict(x, model(2, activation="sigmoid"), probabilities=True)
    assert got.classes.tolist() == [[[0, 1, 1, 0, 1]]], "p >= 0.5 is the second class"
    np.testing.assert_allclose(got.probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(got.probabilities[0, 1, 0], [0.1192029, 0.5, 0.8807971, 0, 1], atol=1e-6)
    high = predict(x, model(2, activation="sigmoid", threshold=0.9))
    assert high.classes.tolist() == [[[0, 0, 0, 0, 1]]]


def test_probabilities_are_taken_as_they_are():
    x = scores([0.2, 0.5, 0.3])
    got = predict(x, model(emits="probabilities", activation="none"), probabilities=True)
    np.testing.assert_array_equal(got.probabilities, x)


def test_threshold_of_several_classes_falls_back_to_the_first():
    x = scores([0.2, 0.5, 0.3], [0.1, 0.1, 0.8])
    low = predict(x, model(emits="probabilities", activation="none", threshold=0.6))
    assert low.classes.tolist() == [[[0, 2]]]


def test_labels():
    labels = model(emits="labels", activation="none")
    assert predict(scores([0], [2], [1]), labels).classes.tolist() == [[[0, 2, 1]]]
    with pytest.raises(UnsupportedModel, match="labels only"):
        predict(scores([0]), labels, probabilities=True)
    with pytest.raises(ContractError, match="labels from 0 to 3; the manifest has 3 classes"):
        predict(scores([0], [3]), labels)
    with pytest.raises(ContractError, match="labels from nan"):
        predict(scores([np.nan]), labels)


@pytest.mark.parametrize("classes", [1, 2, 9, 256])
def test_argmax_is_numpys_with_ties(classes: int):
    x = np.random.default_rng(classes).integers(0, 6, (3, classes, 17, 11)).astype(np.float32)
    index, largest = argmax(x)
    np.testing.assert_array_equal(index, x.argmax(axis=1))
    np.testing.assert_array_equal(largest, x.max(axis=1))
    assert index.dtype == np.uint8


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_no_class_is_made_of_what_is_not_finite(where: int, number: float):
    x = scores([1, 2, 3], [3, 2, 1])
    x[0, where, 0, 1] = number
    with pytest.raises(ContractError, match="50 % of the network's answers are not finite"):
        predict(x, model())


def test_a_binary_answer_must_be_finite():
    with pytest.raises(ContractError, match="not finite"):
        predict(scores([np.nan], [0.0]), model(2, activation="sigmoid"))
