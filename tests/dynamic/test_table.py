"""The dynamic table: what stays has dense training's numbers, whatever comes and goes around it."""

import copy
import pickle
import threading

import numpy as np
import pytest

from helpers.rules import each
from rowwise import Table
from rowwise.dynamic import DynamicTable, IdIndex

CAPACITY, DIM = 24, 3


def batches(steps, seed=0, spread=6):
    """Batches of Zipf ids whose popular ones change with time, with their gradients."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        ids = rng.zipf(1.3, 12).clip(max=200) + step // spread
        yield ids, rng.standard_normal((12, DIM)).astype(np.float32), 0.01 * (1 + step % 5)


def contents(table):
    """Everything, bit for bit."""
    state = table.state()
    rows = state.table
    arrays = [rows.weights, *rows.slots, rows.row_states, *rows.step_history, *state.ids.values()]
    return [array.tobytes() for array in arrays], table.steps, state.config, state.starts


class NeverEvicting:
    """A plain table in which each life of an id has a row of its own."""

    def __init__(self, rows, dim, rule, unknown):
        self.table = Table(rows, dim, rule, init="zeros")
        self.table.store.write(unknown, np.arange(len(unknown)))
        self.row, self.lives = {}, len(unknown)

    def begin(self, key, start):
        self.row[key] = self.lives
        self.lives += 1
        self.table.store.write(start[None], np.array([self.row[key]]))

    def rows(self, ids):
        return np.array([self.row.get(key, 0) for key in ids.tolist()])


@each(["adam", "adamw", "sgd-momentum", "lion-decay", "adagrad", "ftrl", "pytorch-adamw"])
@pytest.mark.parametrize("evict", ["lru", "lfu"])
def test_a_row_has_the_bits_of_a_table_that_never_evicted(rule, evict):
    gone, read = [], 0
    table = DynamicTable(
        CAPACITY,
        DIM,
        rule,
        admit_after=2,
        evict=evict,
        evict_share=0.1,
        seed=1,
        on_evict=lambda ids, vectors: gone.append((ids, vectors)),
    )
    reference = NeverEvicting(2000, DIM, rule, table.table.lookup([CAPACITY]))
    for ids, gradients, rate in batches(300):
        gone.clear()
        table.observe(ids)
        for left, vectors in gone:
            assert vectors.tobytes() == reference.table.lookup(reference.rows(left)).tobytes()
            for key in left.tolist():
                del reference.row[key]
        for key in np.unique(ids[table.has_row(ids)]).tolist():
            if key not in reference.row:
                reference.begin(key, table.lookup([key])[0])
        rows = reference.rows(ids)
        assert table.lookup(ids).tobytes() == reference.table.lookup(rows).tobytes()
        read += rows.size
        table.update(ids, gradients, rate)
        reference.table.update(rows, gradients, rate)
    alive = table.index.ids()
    own, others = table.index.find(alive), reference.rows(alive)
    assert set(reference.row) == set(alive.tolist())
    for slot in table.table.slot_names:
        assert table.table.slot(slot)[own].tobytes() == reference.table.slot(slot)[others].tobytes()
    assert (table.table.update_counts[own] == reference.table.update_counts[others]).all()
    assert table.evictions > 50
    assert read == 3600


@pytest.mark.parametrize("kind", ["integers", "strings"])
@pytest.mark.parametrize("init", ["uniform", "normal"])
def test_a_start_depends_on_the_seed_and_the_id_alone(kind, init):
    ids = [5, -1, 2**40] if kind == "integers" else ["a", "b", ""]
    one, other = (DynamicTable(n, 8, ids=kind, init=init, seed=3) for n in (3, 100))
    one.observe(ids)
    for key in reversed(ids):
        other.observe([key])
    assert one.lookup(ids).tobytes() == other.lookup(ids).tobytes()
    assert len(np.unique(one.lookup(ids))) > 20
    another = DynamicTable(3, 8, ids=kind, init=init, seed=4)
    another.observe(ids)
    assert (another.lookup(ids) != one.lookup(ids)).all()


@pytest.mark.parametrize("init", ["uniform", "normal"])
def test_an_integer_starts_as_the_row_of_that_number(init):
    table = DynamicTable(30, DIM, init=init, seed=3)
    table.observe(np.arange(30)[::-1])
    plain = Table(30, DIM, init=init, seed=3)
    assert table.lookup(np.arange(30)).tobytes() == plain.to_numpy().tobytes()


def test_an_id_that_comes_back_starts_anew():
    table = DynamicTable(2, DIM, "adam", evict_share=0.5, in_flight=1, seed=0)
    table.observe([1])
    start = table.lookup([1])
    for key in (1, 2, 3, 1):
        table.observe([key])
        last = table.lookup([key])
        table.update([key], np.ones((1, DIM)))
    assert last.tobytes() == start.tobytes()
    row = table.index.find([1])
    assert table.table.update_counts[row] == 1
    assert table.evictions == 2


def test_an_id_without_a_row_reads_and_trains_an_unknown_row():
    table = DynamicTable(4, DIM, "sgd", admit_after=3, unknown_rows=5, seed=0)
    ids = np.arange(100)
    rows = table.observe(ids)
    assert set(rows.tolist()) == {4, 5, 6, 7, 8}
    assert not table.has_row(ids).any()
    before = table.lookup(ids)
    assert (before != 0).all()
    table.update([7], np.ones((1, DIM)), 1.0)
    same = rows == rows[7]
    np.testing.assert_array_equal(table.lookup(ids)[same], before[same] - 1)
    np.testing.assert_array_equal(table.lookup(ids)[~same], before[~same])


def test_reading_counts_nothing():
    table = DynamicTable(4, DIM, "adam", admit_after=2, seed=0)
    table.observe([1, 1, 2])
    before = contents(table)
    for _ in range(3):
        table.lookup([1, 2, 3])
        table.pool([[1, 2, 3]])
        table.has_row([2])
    assert contents(table) == before


def test_bags_are_pooled_by_id():
    table = DynamicTable(10, DIM, ids="strings", seed=0)
    table.observe(["a", "b", "c"])
    bags = [["a", "b"], ["c", "c"]]
    np.testing.assert_array_equal(table.pool(bags, combiner="max"), table.lookup(bags).max(axis=1))


def test_a_batch_observed_early_trains_its_own_rows():
    table = DynamicTable(4, DIM, "sgd", evict_share=1.0, seed=0)
    first = table.observe([1, 2])
    table.observe([1, 2])
    table.table.update(first, np.zeros((2, DIM)))
    second = table.observe([3, 4])
    third = table.observe([5, 6])  # the next batch, before the second's update
    assert table.has_row([3, 4]).all()
    assert (third >= 4).all()
    before = table.lookup([3, 4])
    table.table.update(second, np.ones((2, DIM)), 1.0)
    np.testing.assert_array_equal(table.lookup([3, 4]), before - 1)


def test_an_error_in_on_evict_leaves_a_sound_table():
    def fail(ids, vectors):
        raise RuntimeError("the other side is down")

    table = DynamicTable(1, DIM, "adam", in_flight=1, seed=0, on_evict=fail)
    table.observe([1])
    table.update([1], np.ones((1, DIM)))
    with pytest.raises(RuntimeError, match="the other side is down"):
        table.observe([2])
    fresh = DynamicTable(1, DIM, "adam", seed=0)
    fresh.observe([2])
    assert table.has_row([2]).all()
    assert table.lookup([2]).tobytes() == fresh.lookup([2]).tobytes()
    assert (table.table.slot("momentum")[0] == 0).all()


@pytest.mark.parametrize("read", ["lookup", "find", "pool", "save"])
def test_rows_that_a_disk_failed_to_start_are_started_by_the_next_call(read, tmp_path, monkeypatch):
    def fail(rows, starts):
        raise OSError(28, "No space left on device")

    gone = []
    table = DynamicTable(1, DIM, "adam", in_flight=1, seed=0, on_evict=lambda *it: gone.append(it))
    table.observe([1])
    table.update([1], np.ones((1, DIM)))
    trained = table.lookup([1])
    with monkeypatch.context() as broken:
        broken.setattr(table.table.store, "renew", fail)
        with pytest.raises(OSError, match="No space left"):
            table.observe([2])
        with pytest.raises(OSError, match="No space left"):
            table.save(tmp_path / "table") if read == "save" else getattr(table, read)([[2]])
    assert [(ids.tolist(), vectors.tolist()) for ids, vectors in gone] == [([1], trained.tolist())]
    fresh = DynamicTable(1, DIM, "adam", seed=0)
    fresh.observe([2])
    if read == "save":
        table.save(tmp_path / "table")
        table = DynamicTable.load(tmp_path / "table")
    else:
        getattr(table, read)([[2]])
    assert table.table.lookup([0]).tobytes() == fresh.lookup([2]).tobytes()


def test_a_bad_batch_changes_nothing():
    table = DynamicTable(4, DIM, "adam", seed=0)
    table.observe([1])
    before = contents(table)
    with pytest.raises(TypeError):
        table.observe(["a"])
    with pytest.raises(ValueError, match="gradients have shape"):
        table.update([1], np.ones((2, DIM)))
    with pytest.raises(ValueError, match="not finite"):
        table.update([1], np.full((1, DIM), np.nan))
    assert contents(table) == before


@pytest.mark.parametrize("again", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_a_copy_goes_on_to_the_same_bits(again):
    table = DynamicTable(CAPACITY, DIM, "adam", admit_after=2, evict_share=0.1, seed=0)
    train(table, 0, 100)
    copied = again(table)
    assert contents(train(copied, 100, 200)) == contents(train(table, 100, 200))
    index = again(table.index)
    assert isinstance(index, IdIndex)
    assert index.ids().tolist() == table.index.ids().tolist()


def train(table, first, last):
    for step, (ids, gradients, rate) in enumerate(batches(last)):
        if step >= first:
            table.observe(ids)
            table.update(ids, gradients, rate)
    return table


def test_a_reader_never_sees_another_ids_row():
    table = DynamicTable(50, DIM, "sgd", in_flight=1, evict_share=0.2, seed=0)
    everyone = DynamicTable(400, DIM, seed=0)
    everyone.observe(np.arange(400))
    starts, unknown = everyone.lookup(np.arange(400)), table.lookup([-1])[0]
    stop, wrong = threading.Event(), []

    def read():
        while not stop.is_set():
            vectors = table.lookup(np.arange(400))
            fits = (vectors == starts).all(1) | (vectors == unknown).all(1)
            wrong.extend(np.flatnonzero(~fits))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for step in range(300):
        ids = np.arange(step, step + 20) % 400
        table.observe(ids)
        table.update(ids, np.zeros((20, DIM)))
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert table.evictions > 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "ones"}, "init='ones' is not"),
        ({"seed": -1}, "seed=-1 is outside"),
        ({"init_scale": -1}, "init_scale=-1.0 must be"),
        ({"capacity": 0}, "capacity=0 must be"),
        ({"dim": 0}, "dim=0 must be"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DynamicTable(**{"capacity": 4, "dim": 2, **options})
