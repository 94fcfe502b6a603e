"""Rows brought up to date in place, and written there."""

import numpy as np
import pytest

import rowwise
from helpers.rules import every_family

ROWS, DIM = 30, 3


def lagging(rule):
    table = rowwise.Table(ROWS, DIM, rule, seed=0)
    train(table, 40, seed=1)
    return table


def train(table, steps, seed):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        ids = rng.integers(0, rng.integers(1, ROWS), 4)
        table.update(ids, rng.standard_normal((4, DIM)), rng.uniform(0.001, 0.1))


@every_family
def test_rows_are_up_to_date_in_memory_and_nothing_else_has_changed(rule):
    table, twin = lagging(rule), lagging(rule)
    ids = np.array([4, 29, 4, 0])
    memory = table.store.memory().copy()
    table.materialize(ids)
    np.testing.assert_allclose(table.store.memory()[ids], twin.lookup(ids), rtol=1e-6, atol=1e-7)
    others = np.setdiff1d(np.arange(ROWS), ids)
    np.testing.assert_array_equal(table.store.memory()[others], memory[others])
    for name in twin.slot_names:
        np.testing.assert_allclose(table.slot(name), twin.slot(name), rtol=1e-5, atol=1e-7)
    for each in (table, twin):
        train(each, 40, seed=2)
    np.testing.assert_allclose(table.to_numpy(), twin.to_numpy(), rtol=1e-4, atol=1e-5)


@every_family
def test_training_goes_on_from_what_was_written_to_a_row(rule):
    table, twin = lagging(rule), lagging(rule)
    values = np.full((2, DIM), 0.5, np.float32)
    table.store.write(values, np.array([7, 8]))
    whole = twin.to_numpy()
    whole[[7, 8]] = values
    twin.store.write(whole)
    for each in (table, twin):
        train(each, 40, seed=2)
    np.testing.assert_allclose(table.to_numpy(), twin.to_numpy(), rtol=1e-4, atol=1e-5)


def test_an_id_outside_changes_nothing():
    table = lagging("adam")
    before = table.store.memory().copy()
    with pytest.raises(IndexError, match="id 30 at position 1"):
        table.materialize(np.array([1, 30]))
    np.testing.assert_array_equal(table.store.memory(), before)


def test_the_version_rises_with_values_alone():
    table = lagging("adam")
    before = table.store.version
    table.materialize()
    table.materialize(np.array([1]))
    assert table.store.version == before
    table.store.write(np.zeros((1, DIM)), np.array([1]))
    assert table.store.version > before
