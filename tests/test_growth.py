"""Rows added, dropped and moved; rows that training never saw."""

import copy

import numpy as np
import pytest

import rowwise
from helpers.rules import RULES, every_family
from rowwise.errors import UntrainedError

ROWS, DIM = 12, 3


def trained(rule="adam", rows=ROWS, steps=40, upto=8):
    table = rowwise.Table(rows, DIM, rule, seed=0)
    train(table, steps, upto)
    return table


def train(table, steps, upto, seed=1):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        table.update(rng.integers(0, upto, 4), rng.standard_normal((4, DIM)))


# ------------------------------------------------------------------ growth


@every_family
def test_old_rows_train_on_as_if_nothing_had_happened(rule):
    grown, other = trained(rule), trained(rule)
    grown.grow(ROWS + 5, seed=3)
    train(grown, 30, 8, seed=2)
    train(other, 30, 8, seed=2)
    other.materialize()
    np.testing.assert_allclose(grown.to_numpy()[:ROWS], other.to_numpy(), rtol=2e-6, atol=1e-7)
    for name in other.slot_names:
        slot = other.slot(name)
        np.testing.assert_allclose(
            grown.slot(name)[:ROWS], slot, rtol=2e-6, atol=2e-7 * np.abs(slot).max()
        )
    np.testing.assert_array_equal(grown.update_counts[:ROWS], other.update_counts)
    np.testing.assert_array_equal(grown.last_update[:ROWS], other.last_update)
    assert grown.steps == other.steps


# The others decay or reset rows that no batch has touched, the later made the less.
LEAVES_UNTOUCHED_ROWS = [
    pytest.param(rule, id=name)
    for name, rule in RULES.items()
    if rule.supports_lazy and rule.decay_factor(0.1) == 1 and "linear" not in rule.slot_names
]


@pytest.mark.parametrize("rule", LEAVES_UNTOUCHED_ROWS)
def test_a_new_row_trains_as_one_that_was_always_there_untouched(rule):
    fixed = np.random.default_rng(5).standard_normal((ROWS + 2, DIM)).astype(np.float32)
    grown = rowwise.Table(ROWS, DIM, rule, init=fixed[:ROWS])
    always = rowwise.Table(ROWS + 2, DIM, rule, init=fixed)
    for table in (grown, always):
        train(table, 10, 8)
        if table is grown:
            table.grow(ROWS + 2, init=fixed)
        train(table, 20, ROWS + 2, seed=2)
    np.testing.assert_allclose(grown.to_numpy(), always.to_numpy(), rtol=2e-6, atol=1e-7)


def test_rows_are_moved_dropped_and_added_with_all_they_have():
    table = trained()
    before = copy.deepcopy(table)
    before.materialize()
    places = np.array([3, -1, 11, 0, 7])
    table.remap(places, init="zeros")
    old = places != -1
    np.testing.assert_array_equal(table.to_numpy()[old], before.to_numpy()[places[old]])
    np.testing.assert_array_equal(table.to_numpy()[1], 0)
    np.testing.assert_array_equal(table.update_counts[old], before.update_counts[places[old]])
    np.testing.assert_array_equal(table.slot("velocity")[old], before.slot("velocity")[places[old]])
    assert table.untrained().tolist() == [1, 2]
    assert table.shape == (5, DIM)


def test_a_table_without_a_rule_grows_too():
    table = rowwise.Table(2, DIM, init="zeros")
    table.grow(4, init="normal", seed=0)
    assert np.count_nonzero(table.to_numpy()) == 2 * DIM


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda t: t.grow(ROWS - 1), ValueError, r"rows=11 is below the table's 12"),
        (lambda t: t.grow(1e2), TypeError, "integer"),
        (lambda t: t.grow(10**12), MemoryError, "available"),
        (lambda t: t.remap([0, ROWS]), IndexError, "id 12 at position 1"),
        (lambda t: t.remap([-2, 0]), IndexError, "id -2 at position 0"),
        (lambda t: t.remap([3, 1, 3]), ValueError, "row 3 stands twice"),
        (lambda t: t.remap([]), ValueError, "empty"),
        (lambda t: t.grow(ROWS + 1, init="ones"), ValueError, "init='ones'"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_changes_nothing(call, error, says):
    table = trained()
    before = table.to_numpy()
    with pytest.raises(error, match=says):
        call(table)
    np.testing.assert_array_equal(table.to_numpy(), before)
    assert len(table) == ROWS


# ------------------------------------------------------------------ untrained rows


def test_what_a_row_gives_that_training_never_saw():
    table = trained()
    ids, seen = np.array([[0, 9], [10, 1]]), np.array([[True, False], [False, True]])
    plain = table.lookup(ids)
    for untrained, expected in (("as-is", plain[~seen]), ("zeros", 0), ("mean", mean_of(table))):
        vectors = table.lookup(ids, untrained=untrained)
        np.testing.assert_array_equal(vectors[seen], plain[seen])
        np.testing.assert_allclose(vectors[~seen], np.broadcast_to(expected, (2, DIM)), rtol=1e-6)
    with pytest.raises(UntrainedError, match=r"row 9, asked for at position \(0, 1\)"):
        table.lookup(ids, untrained="error")
    np.testing.assert_array_equal(table.lookup([0, 1], untrained="error"), plain[seen])


def mean_of(table):
    return table.to_numpy()[table.update_counts > 0].mean(axis=0)


def test_the_mean_follows_training():
    table = trained()
    table.lookup([10], untrained="mean")
    train(table, 5, 9, seed=7)
    np.testing.assert_allclose(table.lookup(10, untrained="mean"), mean_of(table), rtol=1e-6)


def test_rows_marked_as_trained_are_no_strangers(tmp_path):
    table = trained()
    table.mark_trained([9])
    assert table.is_trained([0, 9, 10]).tolist() == [True, True, False]
    assert 9 not in table.untrained()
    assert table.last_update[9] == 0
    table.save(tmp_path / "t.safetensors")
    for same in (copy.deepcopy(table), rowwise.Table.load(tmp_path / "t.safetensors")):
        np.testing.assert_array_equal(same.is_trained(), table.is_trained())
    table.update([9], np.ones((1, DIM)))
    assert table.last_update[9] == table.steps
    table.mark_trained()
    assert table.is_trained().all()
    assert table.last_update[9] == table.steps
    with pytest.raises(IndexError, match="id 12"):
        table.mark_trained([0, 12])


def test_new_rows_with_given_values_count_as_trained():
    values = np.full((5, DIM), 2.0)
    table = rowwise.Table(3, DIM, "adam")
    table.update([1], np.ones((1, DIM)))
    table.grow(5, init=values)
    assert table.is_trained().tolist() == [False, True, False, True, True]
    np.testing.assert_array_equal(table.lookup([3, 4], untrained="zeros"), values[3:])
    table.grow(6, init=lambda shape: np.ones(shape))
    table.remap([5, -1, 0], init=values[:3])
    assert table.is_trained().tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"\(1, 3\); the table needs \(4, 3\), values for all"):
        table.grow(4, init=np.ones((1, DIM)))


def test_a_table_of_which_nothing_is_known_has_no_mean():
    with pytest.raises(ValueError, match="mark_trained"):
        rowwise.Table(3, 2).lookup([1], untrained="mean")
    with pytest.raises(ValueError, match="untrained='average'"):
        rowwise.Table(3, 2).lookup([1], untrained="average")
