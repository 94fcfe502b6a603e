"""A dynamic table's file: ids, counts and sketch appear with rows and slots, or not at all."""

import os
import signal

import numpy as np
import pytest

from helpers.killing import in_a_process_killed_at
from rowwise import Table
from rowwise.dynamic import DynamicTable
from rowwise.errors import DamagedFileError

CAPACITY, DIM = 12, 2


def new(kind="integers", evict="lru"):
    return DynamicTable(
        CAPACITY,
        DIM,
        "adamw",
        ids=kind,
        admit_after=2,
        evict=evict,
        ttl=50,
        evict_share=0.2,
        unknown_rows=2,
        seed=5,
    )


def train(table, last):
    """Train from the table's own step to `last`; more ids wait than are counted exactly."""
    while table.steps < last:
        rng = np.random.default_rng(table.steps)
        ids = np.concatenate(
            [rng.zipf(1.4, 8).clip(max=30) + table.steps // 9, rng.integers(1e9, size=3)]
        )
        if table.index.kind == "strings":
            ids = np.array([f"item {i}" for i in ids])
        table.observe(ids)
        table.update(ids, rng.standard_normal((len(ids), DIM)), 0.01)
    return table


def contents(table):
    state = table.state()
    rows = state.table
    arrays = [rows.weights, *rows.slots, rows.row_states, *rows.step_history, *state.ids.values()]
    return [array.tobytes() for array in arrays], table.steps, state.config, state.starts


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.safetensors"


@pytest.mark.parametrize("kind", ["integers", "strings"])
@pytest.mark.parametrize("evict", ["lru", "lfu"])
def test_a_table_goes_on_to_the_same_bits(kind, evict, path):
    never_saved = train(new(kind, evict), 200)
    assert len(never_saved.state().ids["sketch"])
    saved = new(kind, evict)
    opened = []
    for step in (0, 2, 60, 150):
        train(saved, step).save(path)
        opened += [DynamicTable.load(path), DynamicTable.load(path, mmap=True)]
    expected = contents(never_saved)
    for table in (saved, *opened):
        assert contents(train(table, 200)) == expected
        assert table.evictions == never_saved.evictions > 40
        assert table.evicted_since(table.evictions - 5).tolist() == (
            never_saved.evicted_since(never_saved.evictions - 5).tolist()
        )


def test_rows_on_a_disk_go_on_to_the_same_bits(path, tmp_path):
    on_disk = DynamicTable(200, DIM, "adamw", admit_after=2, seed=5, scratch=tmp_path, memory="9kB")
    in_memory = DynamicTable(200, DIM, "adamw", admit_after=2, seed=5)
    for table in (on_disk, in_memory):
        train(table, 80)
    on_disk.save(path)
    loaded = DynamicTable.load(path, scratch=tmp_path, memory="9kB")
    assert loaded.table.store.device == "disk"
    ids = in_memory.index.ids()
    for table in (on_disk, in_memory, loaded):
        train(table, 120)
    assert loaded.lookup(ids).tobytes() == in_memory.lookup(ids).tobytes()
    assert on_disk.lookup(ids).tobytes() == in_memory.lookup(ids).tobytes()


def test_a_save_that_is_killed_anywhere_leaves_one_table_whole(path):
    train(new(), 40).save(path)
    old, later = contents(DynamicTable.load(path)), train(new(), 80)
    expected = contents(train(new(), 120))
    seen = set()
    for number in range(1000):
        train(new(), 40).save(path)
        lived = in_a_process_killed_at(number, lambda: later.save(path))
        table = DynamicTable.load(path)
        assert contents(table) in (old, contents(later))
        seen.add(table.steps)
        if number % 5 == 0 or lived:
            assert contents(train(table, 120)) == expected
        if lived:
            break
    assert seen == {40, 80}


def test_training_that_is_killed_resumes_to_the_same_bits(path):
    def training():
        table = new()
        while True:
            train(table, table.steps + 7).save(path)
            if table.steps == 84:
                train(table, 87)
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        training()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    table = DynamicTable.load(path)
    assert table.steps == 84
    assert contents(train(table, 150)) == contents(train(new(), 150))


def test_the_rows_alone_can_be_opened(path):
    table = train(new(), 30)
    table.save(path)
    np.testing.assert_array_equal(Table.load(path).to_numpy(), table.table.to_numpy())


def test_a_file_without_ids_says_so(path):
    Table(3, 2).save(path)
    with pytest.raises(DamagedFileError, match=r"it holds no ids; rowwise\.Table\.load opens it"):
        DynamicTable.load(path)


@pytest.mark.parametrize("kind", ["integers", "strings"])
def test_ids_that_do_not_fit_are_refused(kind, path, monkeypatch):
    table = train(new(kind), 60)
    whole = table.index.state()
    damages = [
        ("ids", lambda a: a[:-1]),
        ("seen", lambda a: -a),
        ("seen", lambda a: a[:-1]),
        ("seen", lambda a: a.astype("u4")),
        ("counts", lambda a: a[:-1]),
        ("sketch", lambda a: a[:-1]),
        ("candidates", lambda a: np.append(a, 1)),
        ("numbers", lambda a: a[:-1]),
        ("numbers", lambda a: a - 10**6),
    ]
    if kind == "integers":
        damages.append(("ids", lambda a: np.full_like(a, 7)))
    else:
        damages += [
            ("ids.offsets", lambda a: a[::-1].copy()),
            ("ids.offsets", lambda a: a + 1),
            ("evicted.offsets", lambda a: a[:0]),
            ("evicted.offsets", lambda a: a[::-1].copy()),
        ]
    for name, damage in damages:
        damaged = {**whole, name: damage(whole[name])}
        monkeypatch.setattr(table.index, "state", lambda damaged=damaged: damaged)
        table.save(path)
        with pytest.raises(DamagedFileError):
            DynamicTable.load(path)
    for name in whole:
        less = {other: array for other, array in whole.items() if other != name}
        monkeypatch.setattr(table.index, "state", lambda less=less: less)
        table.save(path)
        with pytest.raises(DamagedFileError):
            DynamicTable.load(path)
