"""Which rank holds which row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowwise.sharded import Layout


@given(rows=st.integers(1, 20_000), ranks=st.integers(1, 9))
def test_every_row_has_one_place(rows, ranks):
    if (ranks - 1) * -(-rows // ranks) >= rows:
        with pytest.raises(ValueError, match="without a row"):
            Layout(rows, ranks)
        return
    layout = Layout(rows, ranks)
    ids = np.concatenate([layout.ids(rank) for rank in range(ranks)])
    np.testing.assert_array_equal(layout.positions(ids), np.arange(rows))
    np.testing.assert_array_equal(np.sort(ids), np.arange(rows))


def test_the_order_of_rows_does_not_depend_on_the_number_of_ranks():
    ids = np.arange(10_000)
    np.testing.assert_array_equal(
        Layout(10_000, 1).positions(ids), Layout(10_000, 7).positions(ids)
    )


@pytest.mark.parametrize("ranks", [2, 3, 8, 64])
@pytest.mark.parametrize("stride", [1, 2, 64, 1024])
def test_ids_by_frequency_load_all_ranks_alike(ranks, stride):
    # Zipf ids are in order of frequency; strides are ids of which low bits are never set.
    rng = np.random.default_rng(0)
    ids = (rng.zipf(1.05, 100_000) % 100_000) * stride
    distinct = np.unique(ids)
    layout = Layout(100_000 * stride, ranks)
    load = np.bincount(layout.positions(distinct) // layout.block, minlength=ranks)
    assert load.max() < 1.15 * load.mean()
