"""The arithmetic of value_scaling against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_registry import scaling
from model_registry.errors import ManifestError
from model_registry.manifest import Nodata

PIXELS = np.array([[[[0, 50]], [[100, 300]]]], dtype=np.float32)  # [1, 2 bands, 1 row, 2 columns]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"type": "min-max", "minimum": 50, "maximum": 250}, [[-0.25, 0], [0.25, 1.25]]),
        ({"type": "z-score", "mean": 100, "stddev": 50}, [[-2, -1], [0, 4]]),
        ({"type": "clip", "minimum": 20, "maximum": 200}, [[20, 50], [100, 200]]),
        ({"type": "clip-min", "minimum": 60}, [[60, 60], [100, 300]]),
        ({"type": "clip-max", "maximum": 60}, [[0, 50], [60, 60]]),
        ({"type": "offset", "value": 10}, [[-10, 40], [90, 290]]),
        ({"type": "scale", "value": 100}, [[0, 0.5], [1, 3]]),
    ],
)
def test_each_operation(entry, expected):
    ops = scaling.read_value_scaling([entry], 2)
    np.testing.assert_array_equal(scaling.apply(ops, PIXELS)[0, :, 0], np.float32(expected))


def test_one_per_band_and_null():
    entries = [{"type": "scale", "value": 100}, None]
    np.testing.assert_array_equal(
        scaling.apply(scaling.read_value_scaling(entries, 2), PIXELS)[0, :, 0], [[0, 0.5], [100, 300]]
    )
    entries = [{"type": "z-score", "mean": 0, "stddev": 10}, {"type": "clip", "minimum": 0, "maximum": 150}]
    np.testing.assert_array_equal(
        scaling.apply(scaling.read_value_scaling(entries, 2), PIXELS)[0, :, 0], [[0, 5], [100, 150]]
    )


def test_same_kind_with_numbers_of_its_own_for_each_band():
    entries = [{"type": "z-score", "mean": 0, "stddev": 10}, {"type": "z-score", "mean": 100, "stddev": 100}]
    (op,) = scaling.read_value_scaling(entries, 2)
    assert op.numbers == ((0, 100), (10, 100))
    np.testing.assert_array_equal(scaling.apply((op,), PIXELS)[0, :, 0], [[0, 5], [0, 2]])


def test_operations_are_chained_in_order():
    chain = [{"type": "offset", "value": 1000}, {"type": "clip-min", "minimum": 0}, {"type": "scale", "value": [10, 5]}]
    ops = tuple(scaling.read_op(entry, 2) for entry in chain)
    x = np.array([[[[900, 1100]], [[1000, 1050]]]], dtype=np.float32)
    np.testing.assert_array_equal(scaling.apply(ops, x)[0, :, 0], [[0, 10], [0, 10]])
    assert x[0, 0, 0, 0] == 900, "the caller's array was changed"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "processing", "format": "python", "expression": "x"}, "serving.preprocess"),
        ({"type": "norm"}, "unknown scaling type 'norm'"),
        ({"type": "min-max", "min": 0, "max": 1}, "unknown key 'max'"),
        ({"type": "min-max", "minimum": 3, "maximum": 3}, "divides by zero"),
        ({"type": "z-score", "mean": 0, "stddev": 0}, "divides by zero"),
        ({"type": "clip", "minimum": 2, "maximum": 1}, "minimum > maximum"),
        ({"type": "scale", "value": None}, "finite number"),
        ({"type": "scale", "value": float("nan")}, "finite number"),
        ({"type": "scale", "value": [1, 2, 3]}, "3 numbers for 2 bands"),
        ("z-score", "not an object"),
    ],
)
def test_refusals_name_the_fault(entry, message):
    with pytest.raises(ManifestError, match=message):
        scaling.read_op(entry, 2)


def test_wrong_number_of_entries():
    with pytest.raises(ManifestError, match="2 entries for 3 bands"):
        scaling.read_value_scaling([{"type": "scale", "value": 1}] * 2, 3)


@given(st.floats(-1e4, 1e4), st.floats(0.1, 1e4), st.floats(0.1, 100))
def test_mean_fill_scales_to_zero(mean, deviation, divisor):
    ops = tuple(
        scaling.read_op(entry, 1)
        for entry in ({"type": "scale", "value": divisor}, {"type": "z-score", "mean": mean, "stddev": deviation})
    )
    fill = scaling.fill_values(Nodata("mean"), ops, 1)
    zero = scaling.apply(ops, fill.reshape(1, 1, 1, 1))
    assert abs(float(zero[0, 0, 0, 0])) < 1e-5 * (1 + abs(mean) / deviation)


def test_number_fill_is_raw():
    assert scaling.fill_values(Nodata(7.0), (), 3).tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("chain", "low", "high"),
    [
        ([{"type": "min-max", "minimum": 10, "maximum": 20}], 10, 20),
        ([{"type": "z-score", "mean": 100, "stddev": 30}], 40, 220),
        ([{"type": "z-score", "mean": 1, "stddev": 30}], 0, 121),
        ([{"type": "clip-max", "maximum": 3000}, {"type": "scale", "value": 3000}], 0, 3000),
        ([{"type": "offset", "value": 1000}, {"type": "scale", "value": 10000}], 1000, 11000),
        ([{"type": "scale", "value": 255}, {"type": "z-score", "mean": 0.5, "stddev": 0.1}], 0, 255),
    ],
)
def test_raw_range(chain, low, high):
    ops = tuple(scaling.read_op(entry, 2) for entry in chain)
    found = scaling.raw_range(ops, 2)
    assert found is not None
    np.testing.assert_allclose(found, [[low, low], [high, high]])


def test_raw_range_of_nothing():
    assert scaling.raw_range((), 2) is None
    assert scaling.raw_range((scaling.read_op({"type": "offset", "value": 3}, 2),), 2) is None
