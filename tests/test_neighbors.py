"""Nearest rows by cosine."""

import numpy as np
import pytest

from rowwise.inspect import nearest

SQUARE = np.array([[1, 0], [2, 0.1], [0, 1], [-1, 0], [0, 0]], dtype=np.float32)


def test_the_nearest_come_first_and_length_does_not_count():
    ids, cosines = nearest(SQUARE, 0, k=4)
    assert ids.tolist() == [1, 2, 4, 3]
    np.testing.assert_allclose(cosines, [0.99875, 0, 0, -1], atol=1e-4)


def test_a_row_of_zeros_is_near_to_nothing():
    assert nearest(SQUARE, 4, k=2)[1].tolist() == [0, 0]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_very_short_and_very_long_vectors_have_the_same_neighbors(scale):
    ids, cosines = nearest(SQUARE * np.float32(scale), 0, k=4)
    assert ids.tolist() == [1, 2, 4, 3]
    np.testing.assert_allclose(cosines, [0.99875, 0, 0, -1], atol=1e-4)


def test_there_are_never_more_than_the_others():
    assert len(nearest(SQUARE, 0, k=99)[0]) == 4


def test_fewer_than_none_is_refused():
    with pytest.raises(ValueError, match="k=-1 is below 0"):
        nearest(SQUARE, 0, k=-1)


def test_a_row_that_is_not_there_is_named():
    with pytest.raises(IndexError, match=r"row 5 .* 5 vectors \(0\.\.4\)"):
        nearest(SQUARE, 5)
