"""Rows for any ids over ranks: one result, whatever their number."""

import hashlib
import json
import re

import numpy as np
import pytest

from helpers.ranks import outcomes, run_ranks, share
from rowwise import Table, rules
from rowwise.dynamic import DynamicTable, IdIndex
from rowwise.dynamic._batches import hashes, pack_strings, take, unpack
from rowwise.errors import DamagedFileError, ExchangeError, RankMismatchError
from rowwise.files._container import Container, write
from rowwise.sharded import ShardedDynamicTable
from rowwise.sharded._id_buckets import IdBuckets, buckets_of, span_of

CAPACITY, DIM, BUCKETS, SIZE = 96, 3, 8, 40
RULE = rules.AdamW(0.05, weight_decay=0.1)
OPTIONS = {"admit_after": 2, "evict_share": 0.2, "unknown_rows": 3, "seed": 5}


def log(steps, seed=0):
    """Batches of ids of which new ones come every few steps, with their gradients."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        ids = rng.zipf(1.3, SIZE).clip(max=400) * 10**12 + step // 5
        yield ids, rng.standard_normal((SIZE, DIM)).astype(np.float32)


def as_words(ids):
    return np.array([f"Wörter {i}" for i in ids.tolist()], object)


def make(exchange, **options):
    return ShardedDynamicTable(
        CAPACITY, DIM, RULE, exchange=exchange, buckets=BUCKETS, **{**OPTIONS, **options}
    )


def train(table, batches, kind=lambda ids: ids):
    """Train on this rank's share of batches; return what was read."""
    exchange, read = table.table.store.exchange, []
    for ids, gradients in batches:
        mine = share(kind(ids), exchange.rank, exchange.ranks)
        rows = table.observe(mine)
        read.append(table.table.lookup(rows))
        table.table.update(rows, share(gradients, exchange.rank, exchange.ranks))
    return read


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Reference:
    """An index of each bucket in front of the rows of one plain table."""

    def __init__(self):
        own = CAPACITY // BUCKETS
        options = {name: value for name, value in OPTIONS.items() if name != "seed"}
        self.indexes = [IdIndex(own, **options) for _ in range(BUCKETS)]
        one = DynamicTable(own, DIM, **OPTIONS)
        self.starts, self.own = one.starts, own
        self.table = Table(CAPACITY + OPTIONS["unknown_rows"], DIM, RULE, init="zeros")
        unknown = self.starts.unknown_rows(OPTIONS["unknown_rows"], DIM)
        self.table.store.write(unknown, np.arange(CAPACITY, self.table.rows))

    def train(self, batches):
        read = []
        for ids, gradients in batches:
            rows = np.empty(ids.shape, np.int64)
            own = buckets_of(ids, BUCKETS)
            for bucket, index in enumerate(self.indexes):
                changes = index.observe(ids[own == bucket], self.table.steps)
                of_table = np.arange(self.own) + bucket * self.own
                of_table = np.append(of_table, np.arange(CAPACITY, self.table.rows))
                rows[own == bucket] = of_table[changes.rows]
                keys = changes.admitted_keys
                self.table.store.renew(of_table[changes.admitted_rows], self.starts.rows(keys, DIM))
            read.append(self.table.lookup(rows))
            self.table.update(rows, gradients)
        return read


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_training_has_the_bits_of_one_process_with_the_same_buckets(ranks):
    def run(exchange):
        table = make(exchange)
        read = train(table, log(60))
        return read, table.table.to_numpy(), table.ids(), table.evictions()

    found = run_ranks(ranks, run)
    reference = Reference()
    for step, vectors in enumerate(reference.train(log(60))):
        assert np.concatenate([read[step] for read, *_ in found]).tobytes() == vectors.tobytes()
    for _, rows, ids, evictions in found:
        assert rows.tobytes() == reference.table.to_numpy().tobytes()
        assert ids.tolist() == [i for index in reference.indexes for i in index.ids().tolist()]
        assert evictions.tolist() == [index.evictions for index in reference.indexes]
        assert evictions.sum() > 100


@pytest.mark.parametrize("ids", ["integers", "strings"])
def test_one_file_whatever_the_number_of_ranks(tmp_path, ids):
    """Written by 1 to 4 ranks, read by others, which go on to the same bits."""
    kind = as_words if ids == "strings" else lambda ids: ids
    for ranks in (1, 2, 3, 4):

        def begin(exchange, ranks=ranks):
            table = make(exchange, ids=ids, ttl=20)
            train(table, list(log(60))[:30], kind)
            table.save(tmp_path / f"half-{ranks}")

        def go_on(exchange, ranks=ranks):
            table = ShardedDynamicTable.load(tmp_path / "half-3", exchange=exchange)
            assert table.steps == 30
            train(table, list(log(60))[30:], kind)
            table.save(tmp_path / f"whole-{ranks}")

        run_ranks(ranks, begin)
        if ranks == 3:
            for others in (1, 2, 3, 4):
                run_ranks(others, lambda e, others=others: go_on(e, others))
    assert len({digest(path) for path in tmp_path.glob("half-*")}) == 1
    assert len({digest(path) for path in tmp_path.glob("whole-*")}) == 1

    def at_once(exchange):
        table = make(exchange, ids=ids, ttl=20)
        train(table, log(60), kind)
        table.save(tmp_path / "at once")

    run_ranks(2, at_once)
    assert digest(tmp_path / "at once") == digest(tmp_path / "whole-1")
    assert Table.load(tmp_path / "at once").rows == CAPACITY + 3
    with pytest.raises(ValueError, match="buckets=8 are fewer than the 9 ranks"):
        run_ranks(9, lambda e: ShardedDynamicTable.load(tmp_path / "at once", exchange=e))
    with pytest.raises(DamagedFileError, match="those of a rowwise"):
        DynamicTable.load(tmp_path / "at once")


@pytest.mark.parametrize(
    ("part", "name", "value", "error"),
    [
        ("ids", "starts", None, "it has no 'starts'"),
        ("ids", "starts", {"init": "ones", "scale": 1, "seed": 0}, "init='ones'"),
        ("ids", "buckets", 10**9, "cannot reshape|cannot be"),
        ("table", "learning_rate", "", "learning_rate must be a number"),
    ],
)
def test_a_damaged_file_is_refused_on_every_rank(tmp_path, part, name, value, error):
    run_ranks(1, lambda e: make(e).save(tmp_path / "table"))
    with Container(tmp_path / "table") as file:
        arrays = {name: file.read(name) for name in file.entries}
        about = json.loads(file.about[part])
        about[name] = value
        if value is None:
            del about[name]
        whole = {"format": file.about["format"], "table": file.about["table"]}
        whole |= {"ids": file.about["ids"], part: json.dumps(about)}
    write(tmp_path / "table", arrays, whole)
    _, errors = outcomes(2, lambda e: ShardedDynamicTable.load(tmp_path / "table", exchange=e))
    assert [type(one) for _, one in errors] == [DamagedFileError] * 2
    assert all(re.search(error, str(one)) for _, one in errors)


def test_a_file_without_buckets_is_refused(tmp_path):
    DynamicTable(CAPACITY, DIM).save(tmp_path / "one")
    with pytest.raises(DamagedFileError, match="no ids by bucket"):
        run_ranks(2, lambda e: ShardedDynamicTable.load(tmp_path / "one", exchange=e))


@pytest.mark.parametrize("ranks", [1, 3])
def test_what_was_evicted_is_told_whatever_the_number_of_ranks(ranks):
    def run(exchange):
        gone = []
        table = make(
            exchange, on_evict=lambda ids, vectors: gone.extend(zip(ids, vectors, strict=True))
        )
        train(table, list(log(60))[:20])
        mark = table.evictions()
        gone.clear()
        train(table, list(log(60))[20:25])
        return gone, table.evicted_since(mark), table.evicted_since(table.evictions())

    found = run_ranks(ranks, run)
    alone = Reference()
    alone.train(list(log(60))[:20])
    marks = [index.evictions for index in alone.indexes]
    alone.train(list(log(60))[20:25])
    expected = [
        i
        for index, mark in zip(alone.indexes, marks, strict=True)
        for i in index.evicted_since(mark).tolist()
    ]
    for _, since, none in found:
        assert since.tolist() == expected != []
        assert none.tolist() == []
    told = {int(key): vector for gone, *_ in found for key, vector in gone}
    assert set(expected) <= set(told)
    assert all(np.any(vector) for vector in told.values())


def test_reading_changes_nothing():
    def run(exchange):
        table = make(exchange)
        train(table, list(log(20)))
        before = table.table.to_numpy(), table.ids(), table.evictions()
        ids = np.array([[0, -1], [2, 10**12]])[: exchange.rank]
        assert table.lookup(ids).shape == (*ids.shape, DIM)
        known = table.ids()[:5]
        assert table.has_row(known).all()
        assert (table.lookup(known) == table.table.lookup(table.find(known))).all()
        pooled = table.pool(known, offsets=[0, 2, 5], combiner="sum")
        np.testing.assert_array_equal(pooled[0], table.lookup(known)[:2].sum(axis=0))
        after = table.table.to_numpy(), table.ids(), table.evictions()
        for old, new in zip(before, after, strict=True):
            np.testing.assert_array_equal(old, new)

    run_ranks(3, run)


@pytest.mark.parametrize("wrong", [["tea"], [0.5], [None]])
def test_bad_ids_of_one_rank_change_nothing_on_any(wrong):
    def run(exchange):
        table = make(exchange)
        train(table, log(5))
        before = table.table.to_numpy(), table.ids()
        for call in (table.observe, table.lookup):
            with pytest.raises((TypeError, ValueError), match="rank 1: "):
                call(wrong if exchange.rank == 1 else [1, 2])
        np.testing.assert_array_equal(table.table.to_numpy(), before[0])
        np.testing.assert_array_equal(table.ids(), before[1])
        train(table, log(5))

    run_ranks(2, run)


def test_other_arguments_or_calls_of_a_rank_raise_on_all():
    for options in ({"admit_after": 3}, {"seed": 6}, {"on_evict": print}):

        def run(exchange, options=options):
            make(exchange, **(options if exchange.rank else {}))

        _, errors = outcomes(2, run)
        assert [type(error) for _, error in errors] == [RankMismatchError] * 2

    for mine, other in (("observe", "lookup"), ("evictions", "ids"), ("ids_state", "ids")):

        def calls(exchange, mine=mine, other=other):
            name = mine if exchange.rank else other
            getattr(make(exchange), name)(*([[1]] if other == "lookup" else []))

        _, errors = outcomes(2, calls)
        assert [type(error) for _, error in errors] == [RankMismatchError] * 2
    with pytest.raises(ValueError, match="buckets=2 are fewer than the 3 ranks"):
        run_ranks(3, lambda e: ShardedDynamicTable(9, DIM, exchange=e, buckets=2))
    with pytest.raises(ValueError, match="evict='oldest'"):
        run_ranks(2, lambda e: make(e, evict="oldest"))


def test_an_error_of_on_evict_on_one_rank_raises_on_all_and_leaves_a_sound_table():
    def run(exchange, on_evict):
        table = make(exchange, on_evict=on_evict)
        errors = []
        for ids, gradients in log(40):
            try:
                rows = table.observe(ids)
            except OSError as error:
                errors.append(str(error))
                rows = table.find(ids)
            table.table.update(rows, gradients)
        return errors, table.ids_state(), table.table.to_numpy().tobytes()

    def fail(ids, vectors):
        raise OSError("the cache is down")

    expected = run_ranks(2, lambda e: run(e, None))[0][1:]
    found = run_ranks(2, lambda e: run(e, fail if e.rank else lambda ids, vectors: None))
    for errors, *came in found:
        assert errors == found[0][0]
        assert set(errors) == {"rank 1: the cache is down"}
        assert tuple(came) == expected


def test_a_rank_that_dies_ends_the_others():
    def run(exchange):
        table = make(exchange)
        train(table, log(5))
        if exchange.rank == 1:
            raise KeyboardInterrupt
        train(table, log(5))

    _, errors = outcomes(3, run)
    assert {rank: type(error) for rank, error in errors} == {
        0: ExchangeError,
        1: KeyboardInterrupt,
        2: ExchangeError,
    }


def test_without_a_seed_ranks_share_one():
    def run(exchange):
        return make(exchange, seed=None).starts

    first, second = run_ranks(2, run)
    assert first == second != run_ranks(1, run)[0]


def test_every_bucket_has_as_many_ids_and_every_rank_as_many_buckets():
    for ids in (np.arange(80_000), np.arange(80_000) << 40, -np.arange(80_000) * 4096):
        counts = np.bincount(buckets_of(ids, 64), minlength=64)
        assert 1060 < counts.min() <= counts.max() < 1440
    words = pack_strings([f"item-{i}" for i in range(80_000)])
    counts = np.bincount(buckets_of(words, 64), minlength=64)
    assert 1060 < counts.min() <= counts.max() < 1440
    spans = [span_of(64, rank, 3) for rank in range(3)]
    assert spans == [(0, 21), (21, 42), (42, 64)]


def test_a_hash_of_strings_is_of_the_string_alone():
    words = ["", "a", "ab", "b", "", "Übergröße", "\0", "\0\0"]
    packed = pack_strings(words)
    whole = hashes(packed)
    assert [hashes(pack_strings([word]))[0] for word in words] == whole.tolist()
    assert len(set(whole.tolist())) == len(set(words))
    order = np.array([5, 0, 2, 2])
    assert unpack(take(packed, order)).tolist() == [words[i] for i in order]


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda arrays, lengths: lengths[0].__setitem__(0, -1), "below 0"),
        (lambda arrays, lengths: lengths[0].__setitem__(0, 5), "another length|with"),
        (lambda arrays, lengths: arrays.update(seen=arrays["seen"][1:]), "another length"),
    ],
)
def test_damaged_ids_are_refused(damage, error):
    options = {"capacity": 4, "admit_after": 2}
    buckets = IdBuckets.new(2, (0, 2), options)
    buckets.observe(np.arange(9), 0)
    arrays, lengths = buckets.state()
    names = sorted(arrays)
    config = buckets.indexes[0].config()
    again = IdBuckets.from_state(2, (1, 2), config, names, lengths, arrays.get)
    assert again.ids().tolist() == buckets.indexes[1].ids().tolist()
    damage(arrays, lengths)
    with pytest.raises(ValueError, match=error):
        IdBuckets.from_state(2, (0, 2), config, names, lengths, arrays.get)
