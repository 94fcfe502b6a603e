"""Ctrl-C at every line of a change: it has happened, or it has not."""

import contextlib
import ctypes
import gc
import itertools
import sys
import threading
import time

import numpy as np
import pytest

import rowwise
from rowwise.dynamic import DynamicTable


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
    """Return all that a table tells, now and after two more steps."""
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
    "set hyperparameters": lambda table: table.set_hyperparameters(rowwise.rules.Adam(0.5)),
    "use memory": lambda table: table.store.use_memory(table.to_numpy()),
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


def trained(rule, **options):
    table = rowwise.Table(6, 3, rule, seed=0, **options)
    for row in range(3):
        table.update([row], np.ones((1, 3)))
    return table


def assert_happened_or_not(change, rule, interrupted, least, make=trained):
    """Check each state that interrupted(number, table) leaves, until it returns False."""
    changed = make(rule)
    old = contents(changed)
    change(changed)
    new = contents(changed)
    for number in itertools.count():
        table = make(rule)
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


DURING_KERNELS = {
    "step": lambda table: table.apply(AROUND),
    "step around a row": lambda table: table.apply(AROUND, frozen_row=1),
    "set a rule": lambda table: table.store.set_rule(rowwise.rules.Ftrl()),
    "counts": lambda table: table.store.load_counts(9, *np.ones((2, 6), np.uint32)),
}


@pytest.mark.parametrize("rule", ["adam", DENSELY], ids=["adam", "densely"])
@pytest.mark.parametrize("change", DURING_KERNELS.values(), ids=DURING_KERNELS)
@pytest.mark.filterwarnings("ignore:.*every step visits every row")
def test_interrupted_during_a_kernel_it_has_happened_or_not(change, rule):
    assert not DENSELY.supports_lazy

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


# ---------------------------------------------------------------------- rows on a disk

DISK_ROWS = 300


def trained_on_a_disk(rule):
    """Return a table whose cache holds a few of its rows."""
    table = rowwise.Table(DISK_ROWS, 3, rule, seed=0, scratch=".", memory=10_000)
    assert len(table.store._row_of) < DISK_ROWS / 2
    for row in range(0, DISK_ROWS, 37):
        table.update([row, row + 3], np.ones((2, 3)))
    return table


DISK_CHANGES = {
    "update": lambda table: table.update([1, 2], np.ones((2, 3))),
    "update around a row": lambda table: table.apply(AROUND, frozen_row=1),
    "update after many": lambda table: table.update([1], np.ones((1, 3)), iteration=1),
    "materialize": lambda table: table.materialize(),
    "materialize some": lambda table: table.materialize([1, 2, 250]),
    "write": lambda table: table.store.write(np.ones((2, 3)), np.array([1, 250])),
    "grow": lambda table: table.grow(310, init="zeros"),
}


@pytest.mark.parametrize("change", DISK_CHANGES.values(), ids=DISK_CHANGES)
def test_rows_on_a_disk_are_changed_or_not(change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def interrupted(number, table):
        cache = table.store._cache
        native, cache._native = cache._native, InterruptedAfter(cache._native, number)
        try:
            change(table)
        except KeyboardInterrupt:
            return True
        finally:
            cache._native = native
        return False

    assert_happened_or_not(change, "adam", interrupted, 1, trained_on_a_disk)


def test_rows_on_a_disk_interrupted_at_every_seventh_line_are_changed_or_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cold = np.arange(50, 80)  # for which others are written

    def change(table):
        table.update(cold, np.ones((len(cold), 3)))

    assert_happened_or_not(
        change,
        "adam",
        lambda number, table: interrupted_at(7 * number, lambda: change(table)),
        20,
        trained_on_a_disk,
    )


# ---------------------------------------------------------------------- ids that get rows


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("part", ["index", "table"])
def test_rows_given_to_new_ids_start_anew_whatever_is_interrupted(part, number):
    options = {"rule": "adam", "seed": 0, "evict_share": 1.0, "in_flight": 1}
    table, whole = (DynamicTable(4, 3, **options) for _ in range(2))
    for each in (table, whole):
        each.observe([1, 2, 3, 4])
        for _ in range(3):
            each.update([1, 2, 3, 4], np.ones((4, 3)))
    whole.observe([5, 6, 7])
    owner = table.index if part == "index" else table.table.store
    native = owner._native
    owner._native = InterruptedAfter(native, number)
    with contextlib.suppress(KeyboardInterrupt):
        table.observe([5, 6, 7])
    owner._native = native
    assert table.has_row([5, 6, 7]).all()
    for _ in range(2):
        np.testing.assert_array_equal(table.lookup([5, 6, 7]), whole.lookup([5, 6, 7]))
        for each in (table, whole):
            each.update([5, 6], np.ones((2, 3)))


# ---------------------------------------------------------------------- whose turn it is


def write(store):
    with store._writing():
        pass


def freeze(store):
    with store.frozen():
        pass


def mark(store):
    store.mark_trained(np.array([0]))


@pytest.mark.parametrize("work", [write, freeze, mark])
def test_a_writer_interrupted_anywhere_leaves_its_turn(work):
    """Another thread raises KeyboardInterrupt wherever Python looks for one."""
    store = rowwise.Table(6, 3, "adam").store
    work(store)  # what is imported at the first call is not under test
    stopped, again = threading.Event(), threading.Event()
    begun, ended, errors = [], [], []

    def writer():
        while not ended:
            try:
                begun.append(True)
                while True:
                    work(store)
            except KeyboardInterrupt as error:
                errors.append(error)  # with all frames that the traceback holds
            stopped.set()
            again.wait()
            again.clear()

    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    thread = threading.Thread(target=writer, daemon=True)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    gc.disable()  # Python drops what is raised in other packages' callbacks of the collector
    try:
        thread.start()
        for number in range(1_000):
            deadline = time.monotonic() + 60
            while len(begun) <= number:
                assert time.monotonic() < deadline
                time.sleep(0)
            raise_in(ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt))
            assert stopped.wait(60)
            stopped.clear()
            assert store._lock.acquire(timeout=0), f"held for good by interrupt {number}"
            store._lock.release()
            if number == 999:
                ended.append(True)
            again.set()
        thread.join(60)
    finally:
        gc.enable()
        sys.setswitchinterval(interval)
    assert len(errors) == 1_000
    assert not thread.is_alive()
