"""The norm of numbers on several ranks: exact, so the same whatever lies where."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rowwise.sharded._norm import root, sum_of_squares

floats = hnp.arrays(
    np.float32,
    st.integers(0, 40),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(values=floats)
def test_the_norm_is_the_exact_one_rounded_once(values):
    exact = sum((Fraction(float(value)) ** 2 for value in values), Fraction(0))
    norm = root(sum_of_squares(values))
    ends = (math.nextafter(norm, 0), math.nextafter(norm, math.inf))
    below, above = (Fraction(end) + Fraction(norm) for end in ends)
    assert (below / 2) ** 2 <= exact <= (above / 2) ** 2


@given(values=floats, cut=st.integers(0, 40))
def test_sums_of_parts_are_the_sum(values, cut):
    parts = sum_of_squares(values[:cut]) + sum_of_squares(values[cut:])
    np.testing.assert_array_equal(parts, sum_of_squares(values[::-1]))


@pytest.mark.parametrize(
    ("value", "norm"), [(np.inf, math.inf), (-np.inf, math.inf), (np.nan, math.nan)]
)
def test_what_is_not_finite_shows(value, norm):
    np.testing.assert_equal(root(sum_of_squares(np.array([1, value]))), norm)
    both = sum_of_squares(np.array([value])) + sum_of_squares(np.array([np.nan]))
    assert math.isnan(root(both))
