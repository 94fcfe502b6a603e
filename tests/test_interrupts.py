"""Ctrl-C at every line of a change: it has happened, or it has not."""

import itertools
import sys

import numpy as np
import pytest

import rowwise


def interrupted_at(number, work):
    """Call work() and raise KeyboardInterrupt at the number-th line of rowwise that it runs.

    Returns whether there was such a line.
    """
    lines = itertools.count()

    def trace(frame, event, _):
        if not frame.f_globals.get("__name__", "").startswith("rowwise"):
            return None
        if event == "line" and next(lines) == number:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def contents(table):
    """What a table says, and what the next two steps make of it."""
    names = [table.to_numpy(), *map(table.slot, table.slot_names), table.update_counts]
    table = rowwise.Table.from_state(table.state().copy())
    if table.rule:
        table.update([0, 1], np.ones((2, table.dim)))
        table.update([1], np.ones((1, table.dim)))
    return [*names, table.to_numpy(), table.steps, table.rule]


def is_same(one, other):
    return all(
        np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-6)
        if isinstance(a, np.ndarray)
        else a == b
        for a, b in zip(one, other, strict=False)
    ) and len(one) == len(other)


CHANGES = {
    "update": lambda table: table.update([1, 2], np.ones((2, 3))),
    "materialize": lambda table: table.materialize(),
    "grow": lambda table: table.grow(9, init="zeros"),
    "remap": lambda table: table.remap([1, 0, -1], init="zeros"),
    "save": lambda table: table.save("table"),
}


class InterruptedAfter:
    """The native table, which Ctrl-C reaches during its number-th call: it is raised after it."""

    def __init__(self, native, number):
        self._native, self._calls_left = native, number

    def __getattr__(self, name):
        attribute = getattr(self._native, name)
        if not callable(attribute):
            return attribute

        def call(*args, **options):
            result = attribute(*args, **options)
            self._calls_left -= 1
            if self._calls_left == -1:
                raise KeyboardInterrupt
            return result

        return call


def trained(rule):
    table = rowwise.Table(6, 3, rule, seed=0)
    for row in range(3):
        table.update([row], np.ones((1, 3)))
    return table


def assert_happened_or_not(change, rule, interrupted, least):
    """Check each state that interrupted(number, table) leaves, until it returns False."""
    changed = trained(rule)
    old = contents(changed)
    change(changed)
    new = contents(changed)
    for number in itertools.count():
        table = trained(rule)
        if not interrupted(number, table):
            break
        found = contents(table)
        assert is_same(found, old) or is_same(found, new), f"interrupted at {number}"
    assert number >= least


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_interrupted_at_any_line_it_has_happened_or_not(change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_happened_or_not(
        change, "adam", lambda number, table: interrupted_at(number, lambda: change(table)), 8
    )


DENSELY = rowwise.rules.Adam(beta_1=0.99, beta_2=0.9)
AROUND = rowwise.store.RowGradient(np.array([1, 2]), np.ones((2, 3), np.float32))


@pytest.mark.parametrize("rule", ["adam", DENSELY], ids=["adam", "densely"])
@pytest.mark.parametrize("frozen_row", [None, 1])
@pytest.mark.filterwarnings("ignore:.*every step visits every row")
def test_interrupted_during_a_kernel_it_has_happened_or_not(frozen_row, rule):
    assert not DENSELY.supports_lazy

    def change(table):
        table.apply(AROUND, frozen_row=frozen_row)

    def interrupted(number, table):
        native = table.store._native
        table.store._native = InterruptedAfter(native, number)
        try:
            change(table)
        except KeyboardInterrupt:
            return True
        finally:
            table.store._native = native
        return False

    assert_happened_or_not(change, rule, interrupted, 1)
