"""Starting values of rows, in a new table or anew."""

from statistics import NormalDist

import numpy as np
import pytest

import rowwise
from helpers.oracle import Dense, slots_of
from helpers.rules import every_family
from rowwise import _native


@pytest.mark.parametrize("init", ["uniform", "normal"])
@pytest.mark.parametrize("dim", [1, 3, 4, 50])
def test_a_row_starts_alike_from_the_beginning_and_added_later(init, dim):
    whole = rowwise.Table(500, dim, init=init, seed=7).to_numpy()
    grown = rowwise.Table(20, dim, init=init, seed=7)
    grown.grow(130, init=init, seed=7)
    grown.grow(500, init=init, seed=7)
    np.testing.assert_array_equal(grown.to_numpy(), whole)
    ids = np.array([499, 3, 77])
    some = np.empty((3, dim), np.float32)
    if init == "uniform":
        _native.fill_uniform(some, 7, -0.05, 0.05, ids=ids)
    else:
        _native.fill_normal(some, 7, 0.0, 0.05, ids=ids)
    np.testing.assert_array_equal(some, whole[ids])


def test_starts_have_the_same_bits_for_any_number_of_threads():
    threads = rowwise.get_num_threads()
    try:
        rowwise.set_num_threads(1)
        one = rowwise.Table(20_000, 10, init="normal", seed=1).to_numpy()
        rowwise.set_num_threads(3)
        np.testing.assert_array_equal(
            rowwise.Table(20_000, 10, init="normal", seed=1).to_numpy(), one
        )
    finally:
        rowwise.set_num_threads(threads)


def test_starts_are_uniform_and_normal():
    bounds = np.linspace(0, 1, 11)
    uniform, normal = np.empty((1000, 100), "f"), np.empty((1000, 100), "f")
    _native.fill_uniform(uniform, 3, 0.0, 1.0)
    _native.fill_normal(normal, 3, 0.0, 1.0)
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    for values in (uniform, np.vectorize(NormalDist().cdf)(normal)):
        counts, _ = np.histogram(values, bounds)
        np.testing.assert_allclose(counts, 10_000, atol=500)  # five deviations
    # Both are made of the same random bits, of which the uniform number shows 24.
    exact = np.vectorize(NormalDist().inv_cdf)(np.clip(uniform, 1e-4, 1 - 1e-4) + 2.0**-25)
    inner = np.abs(exact) < 3
    np.testing.assert_allclose(normal[inner], exact[inner], atol=2e-5)
    assert np.abs(np.corrcoef(normal[::2].ravel(), normal[1::2].ravel())[0, 1]) < 0.03


def test_other_seeds_and_no_seed_give_other_starts():
    starts = [rowwise.Table(4, 4, seed=seed).to_numpy() for seed in (0, 1, 2**64 - 1, None, None)]
    assert len({start.tobytes() for start in starts}) == 5
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=r"seed=.* is outside 0\.\.2\*\*64 - 1"):
            rowwise.Table(4, 4, seed=seed)


@every_family
def test_a_renewed_row_has_the_numbers_of_dense_training_that_resets_it(rule):
    rng = np.random.default_rng(0)
    table = rowwise.Table(12, 3, rule, init="normal", seed=0)
    dense = Dense(table.to_numpy(), rule)
    for step in range(60):
        if step in (20, 40):
            ids, starts = np.array([3, 7]), rng.standard_normal((2, 3)).astype("f")
            table.store.renew(ids, starts)
            dense.weights[ids] = starts
            for name, (start, _) in slots_of(rule).items():
                dense.slots[name][ids] = start
            assert table.update_counts[ids].tolist() == [0, 0]
            assert table.last_update[ids].tolist() == [0, 0]
            np.testing.assert_array_equal(table.lookup(ids), starts)
        ids = rng.integers(0, 12, 4)
        gradients = rng.standard_normal((4, 3)).astype("f")
        table.update(ids, gradients)
        dense.step(ids, gradients)
    np.testing.assert_allclose(table.to_numpy(), dense.weights, rtol=2e-4, atol=2e-5)


def test_renewing_a_row_that_is_not_there_changes_nothing():
    table = rowwise.Table(5, 2, "adam", seed=0)
    before = table.to_numpy()
    with pytest.raises(IndexError, match="id 5 at position"):
        table.store.renew(np.array([1, 5]), np.zeros((2, 2), "f"))
    np.testing.assert_array_equal(table.to_numpy(), before)
