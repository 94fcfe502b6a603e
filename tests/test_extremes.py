"""Gradients, learning rates and shapes at the ends of what there is."""

import itertools
import os
import sys

import numpy as np
import pytest

import rowwise
from helpers.oracle import Dense
from helpers.rules import every_family

GRADIENTS = [0.0, -0.0, 1e-45, 1e-38, 1e-20, 1e20, 3e38, np.nan, np.inf, -np.inf]
RATES = [0.0, 1e-45, 1e-3, 1e20, 1e38]


def is_same(a, b):
    """Where two float32 runs say the same: near each other, or neither is finite."""
    return np.isclose(a, b, rtol=1e-3, atol=1e-6) | (~np.isfinite(a) & ~np.isfinite(b))


@every_family
@pytest.mark.filterwarnings("ignore")
def test_extreme_gradients_and_rates_do_what_they_do_in_dense_training(rule):
    weights = np.random.default_rng(0).uniform(-0.05, 0.05, (3, 2)).astype(np.float32)
    for gradient, rate in itertools.product(GRADIENTS, RATES):
        if rule.name == "ftrl" and rate == 0:
            continue  # which divides by it, and is refused
        if rule.name == "lion" and np.isnan(gradient):
            continue  # NumPy's sign of NaN is NaN; here it is 0, as PyTorch's
        table = rowwise.Table(3, 2, rule, init=weights)
        runs = Dense(weights, rule), Dense(weights, rule, np.float32)
        steps = [
            ([0, 1], np.ones((2, 2)), 0.01),
            ([0], np.full((1, 2), gradient), rate),
            *[([], np.empty((0, 2)), 0.01)] * 3,
            ([0], np.ones((1, 2)), 0.01),
        ]
        with np.errstate(all="ignore"):
            for ids, gradients, lr in steps:
                table.update(ids, gradients, lr, check_finite=False)
                for run in runs:
                    run.step(ids, gradients, lr)
            truth, dense = (run.weights.astype(np.float32) for run in runs)
            wrong = ~is_same(table.to_numpy(), truth) & is_same(dense, truth)
        assert not wrong.any(), (gradient, rate, table.to_numpy(), truth)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("times", [0.5, 1.0, 1.5, 2.0, 1e6])
@pytest.mark.parametrize("kind", ["Adam", "AdamW", "SGD", "Lion", "RMSprop", "Adagrad"])
def test_a_weight_decay_that_takes_all_of_a_row_or_more(kind, times):
    rate = 0.125
    rule = getattr(rowwise.rules, kind)(rate, weight_decay=times / rate)
    weights = np.random.default_rng(0).uniform(-0.05, 0.05, (3, 2)).astype(np.float32)
    table = rowwise.Table(3, 2, rule, init=weights)
    runs = Dense(weights, rule), Dense(weights, rule, np.float32)
    with np.errstate(all="ignore"):
        for step in range(8):
            ids = [step % 2] if step % 3 else []
            gradients = np.ones((len(ids), 2))
            table.update(ids, gradients)
            for run in runs:
                run.step(ids, gradients, rate)
        truth, dense = (run.weights.astype(np.float32) for run in runs)
        wrong = ~is_same(table.to_numpy(), truth) & is_same(dense, truth)
    assert not wrong.any(), (table.to_numpy(), truth)


@every_family
@pytest.mark.filterwarnings("ignore:.*every step visits every row")
@pytest.mark.parametrize(("rows", "dim"), [(1, 1), (1, 4097), (3, 4097)])
def test_the_smallest_and_the_widest_tables(rule, rows, dim, tmp_path):
    weights = np.random.default_rng(0).uniform(-0.05, 0.05, (rows, dim)).astype(np.float32)
    table, dense = rowwise.Table(rows, dim, rule, init=weights), Dense(weights, rule)
    for step in range(5):
        gradients = np.random.default_rng(step).standard_normal((1, dim)).astype(np.float32)
        table.update([step % rows], gradients)
        dense.step([step % rows], gradients)
    np.testing.assert_allclose(table.to_numpy(), dense.weights, rtol=1e-4, atol=1e-6)
    table.save(tmp_path / "table")
    np.testing.assert_array_equal(rowwise.Table.load(tmp_path / "table"), table)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that is all hole")
def test_more_than_2_to_the_31_rows_on_a_sparse_scratch_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", lambda file, _, size: os.ftruncate(file, size))
    rows = 2**31 + 5
    table = rowwise.Table(rows, 1, "adam", init="zeros", scratch=tmp_path)  # 56 GiB, none written
    small = rowwise.Table(6, 1, "adam", init="zeros")
    ids = np.array([0, 7, 2**30, 2**31 - 1, 2**31, rows - 1])
    for step in range(4):
        chosen = np.arange(6)[step % 3 :: 2]
        gradients = np.random.default_rng(step).standard_normal((len(chosen), 1))
        table.update(ids[chosen], gradients)
        small.update(chosen, gradients)
    np.testing.assert_array_equal(table.lookup(ids), small.to_numpy())
    with pytest.raises(IndexError, match=rf"id {rows} "):
        table.lookup([rows])
