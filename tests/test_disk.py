"""Rows on a disk: the bits of a table in memory, whatever its cache holds."""

import copy
import errno
import os
import pickle
import threading

import numpy as np
import pytest

from helpers.rules import each
from rowwise import Table, _native
from rowwise.dynamic import DynamicTable
from rowwise.rules import Lion
from rowwise.store import BagGradient, Bags, DiskStore, in_memory

ROWS, DIM = 400, 5
SMALL = 12_000  # bytes: a few dozen rows
every_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])


def pair(tmp_path, rule="adam", rows=ROWS, memory=SMALL, **options):
    """Return a table in memory, and the same on a disk."""
    options = {"seed": 0, **options}
    there = Table(rows, DIM, rule, scratch=tmp_path, memory=memory, **options)
    assert isinstance(there.store, DiskStore)
    return Table(rows, DIM, rule, **options), there


def batches(steps, rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    for step in range(steps):
        ids = rng.zipf(1.3, 12) * 7 % rows if step % 3 else rng.integers(0, rows, 20)
        yield ids, rng.standard_normal((len(ids), DIM)).astype(np.float32), 0.01 * (1 + step % 4)


def train(tables, steps, seed=0):
    for ids, gradients, rate in batches(steps, tables[0].rows, seed):
        looked_up = {table.lookup(ids).tobytes() for table in tables}
        assert len(looked_up) == 1
        for table in tables:
            table.update(ids, gradients, rate)


def everything(table):
    slots = [table.slot(name) for name in table.slot_names]
    arrays = [table.to_numpy(), *slots, table.update_counts, table.last_update, table.is_trained()]
    return [array.tobytes() for array in arrays], table.steps


@each(["adam", "adamw", "sgd", "sgd-momentum", "adagrad", "lion-decay", "ftrl", "rmsprop-centered"])
@pytest.mark.parametrize("init", ["uniform", "normal", "zeros"])
def test_every_bit_is_that_of_a_table_in_memory(rule, init, tmp_path):
    tables = pair(tmp_path, rule, init=init)
    assert len(tables[1].store._row_of) < ROWS / 2
    train(tables, 120)
    assert everything(tables[1]) == everything(tables[0])


def test_the_numbers_do_not_depend_on_the_cache(tmp_path):
    contents = set()
    for memory in (SMALL, 2 * SMALL, 10**6):
        _, table = pair(tmp_path, memory=memory)
        train([table], 60)
        contents.add(tuple(everything(table)[0]))
    assert len(contents) == 1


@every_dtype
def test_a_clock_that_starts_anew_finds_rows_on_the_disk(dtype, tmp_path):
    tables = pair(tmp_path, "adamw", dtype=dtype)
    train(tables, 30)
    for table in tables:
        table.materialize()
    train(tables, 30, seed=1)
    for table in tables:  # a step with a smaller epsilon factor ends the clock's era, too
        table.update([1, 2], np.ones((2, DIM)), 0.01, iteration=1)
    train(tables, 30, seed=2)
    for table in tables:
        table.materialize([3, 5, 390])
    train(tables, 30, seed=3)
    assert everything(tables[1]) == everything(tables[0])


@every_dtype
def test_bags_are_those_of_a_table_in_memory(dtype, tmp_path):
    tables = pair(tmp_path, dtype=dtype)
    train(tables, 10)
    rng = np.random.default_rng(0)
    bags = Bags(rng.integers(0, ROWS, 15), np.array([0, 4, 4, 9, 15]), rng.random(15, np.float32))
    values = rng.standard_normal((4, DIM)).astype(np.float32)
    results = []
    for table in tables:
        store, argmax = table.store, np.empty((4, DIM), np.int64)
        pooled, largest = np.empty((4, DIM), np.float32), np.empty((4, DIM), np.float32)
        store.gather_bags(bags, pooled)
        store.gather_bags_max(bags, largest, argmax)
        of_bags, of_max = (
            store.bag_gradient(bags, values),
            store.bag_max_gradient(bags, argmax, values),
        )
        assert isinstance(of_bags, BagGradient)
        summed = store.coalesce(of_bags)
        weights = store.bag_weight_gradient(bags, values)
        table.apply(of_bags, 0.1)
        table.apply(of_max, 0.1, frozen_row=int(bags.ids[0]))
        arrays = [pooled, largest, argmax, summed.ids, summed.values, of_max.ids, of_max.values]
        results.append([array.tobytes() for array in (*arrays, weights)])
    assert results[0] == results[1]
    assert everything(tables[1]) == everything(tables[0])


@every_dtype
def test_rows_are_written_renewed_marked_and_moved(dtype, tmp_path):
    tables = pair(tmp_path, dtype=dtype)
    for table in tables:
        train([table], 20)
        table.store.write(np.ones((2, DIM), np.float32), np.array([7, 300]))
        table.store.write_slot("momentum", np.ones((2, DIM), np.float32), np.array([7, 301]))
        table.store.renew(np.array([14, 21]), np.full((2, DIM), 2, np.float32))
        table.mark_trained([350, 351])
        train([table], 20, seed=1)
        table.remap(np.append(np.arange(0, ROWS, 2), [-1, 1, -1]), init="zeros")
        train([table], 20, seed=2)
        table.grow(300, seed=4)
        train([table], 20, seed=3)
    assert everything(tables[1]) == everything(tables[0])
    for table in tables:
        table.rule = "adagrad"
        train([table], 20, seed=4)
    assert everything(tables[1]) == everything(tables[0])
    for table in tables:
        table.mark_trained()
        table.store.write(np.zeros(table.shape, np.float32))
    assert everything(tables[1]) == everything(tables[0])


def test_an_array_is_what_rows_start_with(tmp_path):
    values = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    tables = pair(tmp_path, init=values)
    assert everything(tables[1]) == everything(tables[0])
    assert tables[1].is_trained().all()


@pytest.mark.parametrize(
    ("rule", "dtype"), [("adam", "float32"), ("adagrad", "float32"), ("adamw", "bfloat16")]
)
def test_a_file_goes_on_to_the_same_bits(rule, dtype, tmp_path):
    tables = pair(tmp_path, rule, dtype=dtype)
    train(tables, 40)
    paths = [tmp_path / "memory", tmp_path / "disk"]
    for table, path in zip(tables, paths, strict=True):
        table.save(path)
    train(tables, 40, seed=1)
    for path in paths:
        train([again := Table.load(path, scratch=tmp_path, memory=SMALL)], 40, seed=1)
        assert isinstance(again.store, DiskStore)
        assert again.dtype == dtype
        assert everything(again) == everything(tables[0])
    train([again := Table.load(paths[1])], 40, seed=1)
    assert everything(again) == everything(tables[0])


def test_a_damaged_file_is_found_before_it_is_trained(tmp_path):
    table, _ = pair(tmp_path)
    table.save(path := tmp_path / "table")
    whole = bytearray(path.read_bytes())
    whole[-10] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="has the checksum"):
        Table.load(path, scratch=tmp_path, memory=SMALL)


def test_prefetched_rows_have_the_same_bits(tmp_path):
    tables = pair(tmp_path, "adamw")
    steps = list(batches(150))
    for (ids, gradients, rate), (later, _, _) in zip(steps, [*steps[1:], steps[0]], strict=True):
        tables[1].prefetch(later)
        for table in tables:
            table.update(ids, gradients, rate)
        assert tables[0].lookup(later).tobytes() == tables[1].lookup(later).tobytes()
    tables[1].prefetch(np.arange(ROWS))  # too large a batch: left alone
    tables[1].prefetch(steps[0][0])
    for table in tables:
        table.materialize()
    assert everything(tables[1]) == everything(tables[0])
    with pytest.raises(IndexError):
        tables[1].prefetch([ROWS])


def test_several_threads_may_look_up(tmp_path):
    _, table = pair(tmp_path)
    train([table], 20)
    expected, wrong = table.to_numpy(), []

    def read(seed):
        for ids, _, _ in batches(40, seed=seed):
            if not (table.lookup(ids) == expected[ids]).all():
                wrong.append(ids)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_bad_batch_changes_nothing(tmp_path):
    tables = pair(tmp_path)
    train(tables, 10)
    table = tables[1]
    with pytest.raises(IndexError, match="id 400 at position 1"):
        table.update([1, 400], np.ones((2, DIM)))
    with pytest.raises(MemoryError, match="a batch of 400 distinct rows does not fit"):
        table.update(np.arange(ROWS), np.ones((ROWS, DIM)))
    with pytest.raises(ValueError, match="gradients have shape"):
        table.update([1], np.ones((2, DIM)))
    assert table.to_numpy().tobytes() == tables[0].to_numpy().tobytes()  # in parts
    train(tables, 10, seed=1)
    assert everything(table) == everything(tables[0])


def test_a_full_disk_is_found_before_anything_changes(tmp_path, monkeypatch):
    tables = pair(tmp_path, "sgd")
    train(tables, 10)

    def full(file, start, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"[\d,]+ bytes of scratch do not fit; [\d,]+ are free"):
        Table(ROWS, DIM, scratch=tmp_path, memory=SMALL)
    for change in (lambda: setattr(tables[1], "rule", "adam"), lambda: tables[1].grow(500)):
        with pytest.raises(OSError, match="bytes of scratch do not fit"):
            change()
    train(tables, 10, seed=1)
    assert everything(tables[1]) == everything(tables[0])


def test_a_failing_disk_is_an_error_of_the_step(tmp_path, monkeypatch):
    tables = pair(tmp_path)
    train(tables, 10)
    table = tables[1]
    cold = np.flatnonzero(table.store._frame_of < 0)[:20]
    with monkeypatch.context() as failing:
        for call in ("read_records", "write_pieces", "merge_records"):
            failing.setattr(_native, call, lambda *_: errno.EIO)
        with pytest.raises(OSError, match="rows of a table on disk: Input/output error"):
            table.update(cold, np.ones((20, DIM)))
    with monkeypatch.context() as failing:
        failing.setattr(_native, "read_records", lambda *_: errno.EIO)
        table.prefetch(cold)
        table.store._prefetching._thread.join()
    table.lookup(cold)
    train(tables, 10, seed=1)
    assert everything(table) == everything(tables[0])


def test_logs_that_fill_up_are_merged_into_their_regions(tmp_path, monkeypatch):
    tables = pair(tmp_path, "adamw", rows=3000, memory=60_000)
    file, merges = tables[1].store._file, []
    assert len(file._log_used) > 8

    def merge(*given):
        merges.append(given)
        return merge_records(*given)

    merge_records = _native.merge_records
    monkeypatch.setattr(_native, "merge_records", merge)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        for step in range(150):
            ids = rng.integers(0, 3000, 100)
            if step % 10 == 0:
                tables[1].prefetch(ids)
            assert tables[0].lookup(ids).tobytes() == tables[1].lookup(ids).tobytes()
            for table in tables:
                table.update(ids, np.ones((100, DIM)), 0.01)
        assert file._log_used.any()
        tables[1].save(tmp_path / "table")  # in the order of rows
        assert not file._log_used.any()
        assert everything(Table.load(tmp_path / "table")) == everything(tables[0])
    assert len(merges) > 100


@pytest.mark.parametrize("call", ["write_pieces", "merge_records"])
def test_what_the_disk_does_not_take_is_kept_until_it_does(call, tmp_path, monkeypatch):
    tables = pair(tmp_path, rows=3000, memory=60_000)
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(20):
        with monkeypatch.context() as failing:
            failing.setattr(_native, call, lambda *_: errno.EIO)
            for _ in range(8):
                ids = rng.integers(0, 3000, 100)
                try:
                    tables[1].update(ids, np.ones((100, DIM)), 0.01)
                except OSError as error:
                    refused.append(str(error))
                else:
                    tables[0].update(ids, np.ones((100, DIM)), 0.01)
        tables[1].lookup(ids)
    assert len(refused) > 20
    assert set(refused) == {"[Errno 5] writing rows of a table on disk: Input/output error"}
    assert everything(tables[1]) == everything(tables[0])


@pytest.mark.parametrize("call", ["lookup", "prefetch"])
def test_a_forked_child_leaves_its_parents_rows_alone(call, tmp_path):
    tables = pair(tmp_path)
    train(tables, 10)
    child = os.fork()
    if child == 0:
        try:
            getattr(tables[1], call)(np.arange(ROWS))
        except RuntimeError as error:
            os._exit(0 if "save the table there" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    train(tables, 10, seed=1)
    assert everything(tables[1]) == everything(tables[0])


def test_no_file_is_left_behind(tmp_path):
    pair(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"memory": "8 gigs"}, ValueError, "memory='8 gigs' is not a size"),
        ({"memory": 0}, ValueError, "memory=0 must be"),
        ({"memory": 1.5}, TypeError, "memory must be a number of bytes"),
        ({"memory": "1kB"}, MemoryError, "memory=1,000 bytes leave no room"),
        ({"memory": "1GiB", "scratch": None}, ValueError, "give scratch= a folder"),
        ({"init": "ones"}, ValueError, "init='ones' is not"),
        ({"scratch": "no/such"}, FileNotFoundError, "scratch must be a folder .*: 'no/such'$"),
        ({"scratch": "no/such", "memory": None}, FileNotFoundError, "scratch must be a folder"),
        ({"rows": 2**32}, ValueError, "is above the limit of 4294967295"),
        ({"rows": 2**32 - 1, "dim": 2**20}, OSError, "of scratch do not fit; .* are free"),
    ],
)
def test_bad_arguments_are_named(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        Table(
            **{"rows": ROWS, "dim": DIM, "rule": "adam", "scratch": tmp_path, "memory": "1MiB"}
            | options
        )


def test_the_least_memory_is_enough(tmp_path):
    with pytest.raises(MemoryError, match="give at least") as refused:
        Table(ROWS, DIM, "adam", scratch=tmp_path, memory=1000)
    least = int(str(refused.value).split()[-1].replace(",", ""))
    train(pair(tmp_path, memory=least), 20)
    with pytest.raises(MemoryError, match="give at least"):
        Table(ROWS, DIM, "adam", scratch=tmp_path, memory=least - 1)


def test_a_step_whose_decay_takes_all_of_a_row_is_refused(tmp_path):
    with pytest.raises(ValueError, match="learning_rate \\* weight_decay"):
        pair(tmp_path, "adamw")[1].update([1], np.ones((1, DIM)), 1e6)


def test_a_rule_that_visits_every_row_is_refused(tmp_path):
    dense = Lion(beta_1=0.5)
    tables = pair(tmp_path, Lion())
    train(tables, 5)
    for change in (
        lambda: Table(ROWS, DIM, dense, scratch=tmp_path, memory=SMALL),
        lambda: setattr(tables[1], "rule", dense),
        lambda: tables[1].set_hyperparameters(dense),
    ):
        with pytest.raises(ValueError, match=r"every step of Lion.* visits every row"):
            change()
    train(tables, 5, seed=1)
    assert everything(tables[1]) == everything(tables[0])


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("kind", [Table, DynamicTable])
def test_copies_that_memory_might_not_hold_are_refused(kind, again, tmp_path):
    table = kind(ROWS, DIM, "adam", scratch=tmp_path, memory=2 * SMALL)
    with pytest.raises(TypeError, match="save it to a file, and load that with scratch="):
        again(table)


def test_layers_over_an_array_of_all_rows_are_refused(tmp_path):
    with pytest.raises(TypeError, match="no array holds them all"):
        in_memory(pair(tmp_path)[1].store)


def test_setting_a_rule_starts_fresh_slots(tmp_path):
    tables = pair(tmp_path)
    train(tables, 5)
    for table in tables:
        table.rule = table.rule
        assert not table.slot("momentum").any()
    train(tables, 5)


def test_rows_stay_where_a_move_to_a_new_file_fails(tmp_path, monkeypatch):
    tables = pair(tmp_path)
    train(tables, 5)
    for table in tables:
        table.materialize()
    there = tables[1]
    before = there.to_numpy()

    def broken(*arguments):
        raise OSError(errno.EIO, "no answer")

    with monkeypatch.context() as patch:
        patch.setattr(type(there.store), "_changed", broken)
        with pytest.raises(OSError, match="no answer"):
            there.grow(ROWS + 50)
    assert there.shape == (ROWS, DIM)
    np.testing.assert_array_equal(there.to_numpy(), before)
    train(tables, 5)


def test_values_of_another_number_of_rows_are_refused_before_any_is_written(tmp_path):
    _, there = pair(tmp_path)
    before = there.to_numpy()
    rows = np.array([4, 250])
    for write in (
        lambda: there.store.write(np.ones((ROWS // 2, DIM), np.float32)),
        lambda: there.store.write(np.ones((ROWS + 1, DIM), np.float32)),
        lambda: there.store.write_slot("momentum", np.ones((3, DIM), np.float32), rows),
        lambda: there.store.renew(rows, np.ones((3, DIM), np.float32)),
    ):
        with pytest.raises(ValueError, match="broadcast"):
            write()
    np.testing.assert_array_equal(there.to_numpy(), before)


def test_without_a_way_past_the_systems_cache_the_bits_are_the_same(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_DIRECT")  # as on macOS and Windows
    tables = pair(tmp_path)
    assert tables[1].store._file.stride % 512
    train(tables, 30)
    tables[1].save(tmp_path / "table")
    assert everything(Table.load(tmp_path / "table")) == everything(tables[0])
