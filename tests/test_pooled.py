"""Bags of rows reduced to one vector: equal to a lookup, reduced with NumPy."""

from itertools import pairwise

import numpy as np
import pytest

import rowwise
from helpers.oracle import summed_in_blocks
from helpers.rules import every_rule
from rowwise import _native
from rowwise.store import Bags, RowGradient

ROWS = 60
OFFSETS = np.array([0, 0, 3, 10, 10, 11, 75, 200, 200])  # bags empty, short and long


def lagging(rule="adam", dim=5, rows=ROWS):
    """A table whose rows have missed different numbers of steps."""
    table = rowwise.Table(rows, dim, rule, seed=0)
    rng = np.random.default_rng(1)
    for _ in range(30):
        ids = rng.integers(0, rng.integers(1, rows + 1), 9)
        table.update(ids, rng.standard_normal((9, dim)))
    return table


def batch(offsets=OFFSETS, rows=ROWS, dim=5):
    """Ids (n,) with duplicates, weights (n,), gradients (bags, dim), and the bag of each id."""
    rng = np.random.default_rng(2)
    n, bags = offsets[-1], len(offsets) - 1
    return (
        rng.integers(0, rows, n),
        rng.standard_normal(n).astype(np.float32),
        rng.standard_normal((bags, dim)).astype(np.float32),
        np.repeat(np.arange(bags), np.diff(offsets)),
    )


def summed(where, values, count):
    """(count, ...) float64 sums of `values` by the place that `where` names."""
    sums = np.zeros((count, *values.shape[1:]))
    np.add.at(sums, where, values)
    return sums


def pool_gradient(table, ids, offsets, weights, gradients):
    gradient = table.store.bag_gradient(Bags(ids, offsets, weights), gradients)
    return arrays(table.store.coalesce(gradient))


def max_gradient(table, ids, offsets, argmax, gradients):
    return arrays(table.store.bag_max_gradient(Bags(ids, offsets), argmax, gradients))


def weight_gradient(table, ids, offsets, gradients):
    return table.store.bag_weight_gradient(Bags(ids, offsets), gradients)


def arrays(gradient):
    return gradient.ids, gradient.values


def maximum(table, ids, offsets=OFFSETS):
    out = np.full((len(offsets) - 1, table.dim), np.nan, np.float32)
    argmax = np.full(out.shape, -7)
    table.store.gather_bags_max(Bags(ids, offsets), out, argmax)
    return out, argmax


def everything(table, offsets=OFFSETS):
    """All that the pooled kernels give for one batch."""
    ids, weights, gradients, _ = batch(offsets, table.rows, table.dim)
    out, argmax = maximum(table, ids, offsets)
    return [
        table.pool(ids, offsets, weights, "sum"),
        out,
        argmax,
        weight_gradient(table, ids, offsets, gradients),
        *pool_gradient(table, ids, offsets, weights, gradients),
        *max_gradient(table, ids, offsets, argmax, gradients),
    ]


@every_rule
def test_a_bag_is_the_sum_of_its_rows_as_a_lookup_gives_them(rule):
    table = lagging(rule)
    before = table.store.memory().copy()
    ids, weights, gradients, bags = batch()
    rows = table.lookup(ids)
    close = {"rtol": 1e-5, "atol": 1e-5}
    expected = summed(bags, weights[:, None] * rows.astype(np.float64), 8)
    np.testing.assert_allclose(table.pool(ids, OFFSETS, weights, "sum"), expected, **close)
    dots = weight_gradient(table, ids, OFFSETS, gradients)
    np.testing.assert_allclose(dots, (rows * gradients[bags]).sum(axis=1), **close)
    np.testing.assert_array_equal(table.store.memory(), before)


@pytest.mark.parametrize("dim", [1, 3, 50, 64, 300, 5000])
def test_sums_and_gradients_of_any_dim(dim):
    table = lagging(dim=dim)
    ids, weights, gradients, bags = batch(dim=dim)
    rows = table.lookup(ids).astype(np.float64)
    close = {"rtol": 1e-5, "atol": 1e-5}
    expected = summed(bags, weights[:, None] * rows, 8)
    np.testing.assert_allclose(table.pool(ids, OFFSETS, weights, "sum"), expected, **close)
    dots = weight_gradient(table, ids, OFFSETS, gradients)
    np.testing.assert_allclose(dots, (rows * gradients[bags]).sum(axis=1), rtol=1e-5, atol=1e-4)

    distinct, sums = pool_gradient(table, ids, OFFSETS, weights, gradients)
    np.testing.assert_array_equal(distinct, np.unique(ids))
    expected = summed(ids, weights[:, None] * gradients[bags].astype(np.float64), ROWS)
    np.testing.assert_allclose(sums, expected[distinct], **close)


def test_gradients_of_an_id_are_summed_in_batch_order():
    table = rowwise.Table(4, 1)
    gradients = np.float32([[1e8], [1.0], [-1e8]])  # 1e8 + 1 is 1e8 in float32
    offsets = np.arange(4)
    ids, sums = pool_gradient(table, np.array([2, 2, 2]), offsets, None, gradients)
    assert (ids.tolist(), sums.tolist()) == ([2], [[0.0]])
    last = np.ascontiguousarray(gradients[[0, 2, 1]])
    assert pool_gradient(table, np.array([2, 2, 2]), offsets, None, last)[1] == 1.0


@pytest.mark.parametrize("weighted", [False, True])
def test_many_gradients_of_an_id_are_summed_64_at_a_time(weighted):
    rng = np.random.default_rng(3)
    table = rowwise.Table(3, 5, "sgd")
    ids = rng.integers(0, 3, 1000)
    offsets = np.concatenate([[0], np.sort(rng.integers(0, 1000, 99)), [1000]])
    bags = np.repeat(np.arange(100), np.diff(offsets))
    weights = rng.standard_normal(1000).astype(np.float32) if weighted else None
    gradients = (rng.standard_normal((100, 5)) * 10.0 ** rng.integers(-4, 4, (100, 1))).astype("f")
    each = gradients[bags] if weights is None else weights[:, None] * gradients[bags]
    expected = [summed_in_blocks(each[ids == row]) for row in range(3)]
    _, sums = pool_gradient(table, ids, offsets, weights, gradients)
    np.testing.assert_array_equal(sums, expected)


def test_many_gradients_of_a_maximum_are_summed_64_at_a_time():
    rng = np.random.default_rng(4)
    table = rowwise.Table(3, 5, init="normal", seed=0)
    ids, offsets = rng.integers(0, 3, 1000), np.arange(0, 1001, 2)
    gradients = (rng.standard_normal((500, 5)) * 10.0 ** rng.integers(-4, 4, (500, 1))).astype("f")
    _, argmax = maximum(table, ids, offsets)
    each = np.where(argmax.repeat(2, axis=0) == np.arange(1000)[:, None], gradients.repeat(2, 0), 0)
    expected = [summed_in_blocks(each[ids == row].astype("f")) for row in range(3)]
    _, sums = max_gradient(table, ids, offsets, argmax, gradients)
    np.testing.assert_array_equal(sums, expected)


def test_the_largest_of_a_bag_and_where_it_stands():
    table = lagging()
    ids, _, gradients, _ = batch()
    rows = table.lookup(ids)
    out, argmax = maximum(table, ids)
    expected = np.zeros((ROWS, table.dim))
    for bag, (first, last) in enumerate(pairwise(OFFSETS)):
        if first == last:
            assert (out[bag] == 0).all()
            assert (argmax[bag] == -1).all()
            continue
        np.testing.assert_array_equal(out[bag], rows[first:last].max(axis=0))
        np.testing.assert_array_equal(argmax[bag], first + rows[first:last].argmax(axis=0))
        np.add.at(expected, (ids[argmax[bag]], np.arange(table.dim)), gradients[bag])
    distinct, sums = max_gradient(table, ids, OFFSETS, argmax, gradients)
    np.testing.assert_allclose(sums, expected[distinct], rtol=1e-5, atol=1e-6)


def test_a_nan_is_the_largest():
    table = rowwise.Table(3, 1, init=np.float32([[1], [np.nan], [2]]))
    out, argmax = maximum(table, np.array([0, 1, 2]), np.array([0, 3]))
    assert np.isnan(out).all()
    assert argmax.tolist() == [[1]]


def test_the_same_bits_for_any_number_of_threads():
    offsets = np.sort(np.random.default_rng(0).integers(0, 40_000, 3000))
    offsets[[0, -1]] = 0, 40_000
    table = lagging(rows=5000, dim=7)
    threads = rowwise.get_num_threads()
    results = []
    try:
        for n in (1, 2, 5):
            rowwise.set_num_threads(n)
            results.append(everything(table, offsets))
    finally:
        rowwise.set_num_threads(threads)
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("copy", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("dim", [1, 3, 16, 50, 300])
def test_every_copy_of_the_kernels_gives_the_same_bits(copy, dim):
    table = lagging(dim=dim)
    chosen = _native.kernels()
    try:
        if not _native.select_kernels(copy):
            pytest.skip(f"this processor does not run {copy}")
        results = everything(table)
        assert _native.select_kernels("portable")
        for one, other in zip(results, everything(table), strict=True):
            np.testing.assert_array_equal(one, other)
    finally:
        _native.select_kernels(chosen)


@pytest.mark.parametrize(
    ("combiner", "divisor"),
    [
        ("sum", lambda w: 1.0),
        ("mean", lambda w: w.sum(axis=-1, keepdims=True)),
        ("sqrtn", lambda w: np.sqrt((w**2).sum(axis=-1, keepdims=True))),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 5), (3, 0), (0, 3)])
def test_the_last_axis_of_ids_is_combined(combiner, divisor, weighted, shape):
    table = lagging()
    rng = np.random.default_rng(0)
    ids = rng.integers(0, ROWS, shape)
    weights = rng.uniform(0.5, 2, shape) if weighted else np.ones(shape)
    expected = (weights[..., None] * table.lookup(ids)).sum(axis=-2)
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(expected / divisor(weights))
    pooled = table.pool(ids, weights=weights if weighted else None, combiner=combiner)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("combiner", ["mean", "sqrtn"])
def test_a_bag_without_weight_is_zero(combiner):
    pooled = lagging().pool([[3, 4], [5, 6]], weights=[[0, 0], [0, 1]], combiner=combiner)
    assert (pooled[0] == 0).all()
    assert (pooled[1] != 0).all()


def test_a_bad_id_is_named_before_anything_is_written():
    table = lagging()
    out = np.full((2, table.dim), 7, np.float32)
    for bad in (ROWS, -1):
        with pytest.raises(IndexError, match=rf"id {bad} at position \(1, 0\) is outside"):
            table.store.gather_bags(Bags(np.array([[1], [bad]]), np.arange(3)), out)
        with pytest.raises(IndexError, match="outside"):
            pool_gradient(table, np.array([1, bad]), np.arange(3), None, out)
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1, 2]), "offsets must begin with 0"),
        (([1, 2], []), "offsets must begin with 0"),
        (([1, 2], [0, 1]), "the last offset, 1, must be the number of ids, 2"),
        (([1, 2], [0, 3]), "the last offset, 3, must be the number of ids, 2"),
        (([1, 2], [0, 2, 1, 2]), "offset 1 at position 2 is below the one before it, 2"),
        (([1, 2], None), r"ids of shape \(2,\) need offsets"),
        (([[1, 2]], [0, 2]), r"ids must have the shape \(n,\), not \(1, 2\)"),
        (([[1, 2]], None, [1, 2]), r"weights have shape \(2,\), ids \(1, 2\)"),
        (([[1, 2]], None, None, "least"), "combiner='least' is not one of mean, sum, sqrtn, max"),
    ],
)
@pytest.mark.parametrize("combiner", ["sum", "mean"])
def test_what_does_not_fit_is_refused(arguments, message, combiner):
    options = {} if len(arguments) == 4 else {"combiner": combiner}
    with pytest.raises(ValueError, match=message):
        lagging().pool(*arguments, **options)


@pytest.mark.parametrize("rows", [60, 3000, 10**5, 10**6, 2**25])
@pytest.mark.parametrize("n", [2, 20, 200, 2000, 20_000])
def test_gradients_are_summed_in_the_order_of_the_batch_in_tables_of_any_size(rows, n):
    rng = np.random.default_rng(n)
    ids = rng.choice(rng.integers(0, rows, 50), n)  # few, over the whole table
    gradients = rng.standard_normal((n, 1), np.float32)
    table = rowwise.Table(rows, 1, init="zeros")
    summed = table.store.coalesce(RowGradient(ids, gradients))
    np.testing.assert_array_equal(summed.ids, np.unique(ids))
    for row, total in zip(summed.ids, summed.values, strict=True):
        np.testing.assert_array_equal(total, summed_in_blocks(gradients[ids == row]))
