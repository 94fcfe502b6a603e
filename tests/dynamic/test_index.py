"""The index: what a plain model of its rules says, for integers and strings, on every run."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowwise.dynamic import IdIndex


class Model:
    """The rules of an `IdIndex` with exact counts, in the plainest way."""

    def __init__(self, capacity, admit_after, evict, ttl, evict_share, in_flight):
        self.capacity, self.admit_after, self.evict = capacity, admit_after, evict
        self.ttl, self.in_flight = ttl, in_flight
        self.at_once = max(1, int(evict_share * capacity))
        self.row, self.seen, self.count, self.waiting = {}, {}, {}, {}
        self.swept = 0

    def see(self, key, step):
        self.seen[key] = step
        self.count[key] = self.count.get(key, 0) + 1

    def free(self):
        return [row for row in range(self.capacity) if row not in self.row.values()]

    def leave(self, keys):
        for key in keys:
            del self.row[key], self.seen[key], self.count[key]
        return keys

    def observe(self, keys, step):
        evicted = []
        known = [key for key in keys if key in self.row]
        for key in known:
            self.see(key, step)
        if self.ttl and step - self.swept >= -(-self.ttl // 16):
            self.swept = step
            longest = max(self.ttl, self.in_flight)
            evicted += self.leave(
                sorted(key for key, seen in self.seen.items() if step - seen >= longest)
            )
        for key in keys:
            if key in known:
                continue
            if key in self.row:
                self.see(key, step)
                continue
            self.waiting[key] = self.waiting.get(key, 0) + 1
            if self.waiting[key] < self.admit_after:
                continue
            if not self.free():
                rank = self.count if self.evict == "lfu" else self.seen
                loose = [k for k, seen in self.seen.items() if step - seen >= self.in_flight]
                loose.sort(key=lambda k: (rank[k], k))
                evicted += self.leave(loose[: self.at_once])
            if self.free():
                self.row[key] = self.free()[0]
                del self.waiting[key]
                self.see(key, step)
        return evicted


INTEGERS = st.integers(0, 40).map(lambda i: [-(2**63), 2**63 - 1, 0, -1][i] if i < 4 else i)
STRINGS = st.integers(0, 40).map(lambda i: ["", "\0", "é", "\ud800"][i] if i < 4 else f"id {i}")


@pytest.mark.parametrize(("kind", "of"), [("integers", INTEGERS), ("strings", STRINGS)])
@given(data=st.data())
def test_every_batch_changes_what_the_rules_say(kind, of, data):
    policy = {
        "capacity": data.draw(st.integers(1, 12)),
        "admit_after": data.draw(st.integers(1, 3)),
        "evict": data.draw(st.sampled_from(["lru", "lfu"])),
        "ttl": data.draw(st.sampled_from([None, 3, 40])),
        "evict_share": data.draw(st.sampled_from([0.01, 0.3, 1.0])),
        "in_flight": data.draw(st.integers(1, 3)),
    }
    index, model = IdIndex(**policy, ids=kind), Model(**policy)
    distinct = data.draw(st.lists(of, min_size=1, max_size=policy["capacity"] + 3, unique=True))
    batches = data.draw(st.lists(st.lists(st.sampled_from(distinct), max_size=8), max_size=30))
    step = 0
    for batch in batches:
        # as many waiting ids as rows are counted exactly; the model knows no sketch
        if len({*model.waiting, *batch} - {*model.row}) > policy["capacity"]:
            continue
        changes = index.observe(batch, step)
        assert changes.evicted.tolist() == model.observe(batch, step)
        assert {key: int(index.find([key])[0]) for key in index.ids().tolist()} == model.row
        rows = [model.row.get(key, policy["capacity"]) for key in batch]
        assert changes.rows.tolist() == rows == index.find(batch).tolist()
        step += data.draw(st.integers(0, 2))


def test_any_64_bits_are_an_id():
    ids = np.array([0, -1, 2**63 - 1, -(2**63), 1, 255], np.int64)
    index = IdIndex(10)
    rows = index.observe(ids, 0).rows
    assert rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert index.find(ids.view(np.uint64)).tolist() == rows.tolist()
    assert index.find([2**63])[0] == rows[3]
    assert index.find([[2**64 - 1], [1]]).tolist() == [[rows[1]], [rows[4]]]
    assert index.find(np.array([2**64 - 1, 1], object)).tolist() == [rows[1], rows[4]]
    for number in (2**64, -(2**63) - 1):
        with pytest.raises(IndexError, match=f"id {number} has more than 64 bits"):
            index.find([number])
    assert sorted(index.ids().tolist()) == sorted(ids.tolist())


def test_ids_of_the_other_kind_change_nothing():
    integers, strings = IdIndex(4), IdIndex(4, ids="strings")
    strings.observe(["a"], 0)
    for wrong in ([1], ["b", 1], ["b", None], [b"b"]):
        with pytest.raises(TypeError, match="ids are strings here"):
            strings.observe(wrong, 1)
    for wrong in (["b"], [True], [None]):
        with pytest.raises(TypeError, match="must be integers"):
            integers.observe(wrong, 0)
    with pytest.raises(ValueError, match="not a whole number"):
        integers.observe([0.5], 0)
    assert (len(integers), len(strings)) == (0, 1)


def test_shapes_are_kept_and_a_batch_may_be_empty():
    index = IdIndex(4, ids="strings")
    assert index.observe(np.array([["a", "b"], ["a", "c"]]), 0).rows.tolist() == [[0, 1], [0, 2]]
    assert index.find([]).shape == (0,)
    assert index.find("a").shape == ()
    assert IdIndex(4).observe([], 0).rows.shape == (0,)


def test_no_row_is_taken_from_a_batch_in_flight():
    index = IdIndex(4, evict_share=1.0, in_flight=2)
    index.observe([1, 2], 0)
    index.observe([3, 4], 1)
    changes = index.observe([5, 6, 7], 1)
    assert changes.refused == 3
    assert changes.rows.tolist() == [4, 4, 4]
    assert index.observe([5], 2).evicted.tolist() == [1, 2]
    assert index.has_row([1, 2, 3, 4, 5]).tolist() == [False, False, True, True, True]


def test_what_went_since_a_mark_can_be_asked_for():
    index = IdIndex(3, evict_share=0.3, in_flight=1)
    for step, key in enumerate([1, 2, 3, 4]):
        index.observe([key], step)
    mark = index.evictions
    assert index.evicted_since(0).tolist() == [1]
    for step, key in enumerate([5, 1, 2], 4):
        index.observe([key], step)
    assert index.evicted_since(mark).tolist() == [3, 4]  # 2 went and is back
    assert index.evicted_since(index.evictions).tolist() == []
    with pytest.raises(LookupError, match="last 3 are remembered"):
        index.evicted_since(0)
    with pytest.raises(ValueError, match="above the 4 evictions"):
        index.evicted_since(5)


@pytest.mark.parametrize("kind", ["integers", "strings"])
def test_memory_is_bounded_over_a_hundred_capacities_of_ids(kind):
    capacity = 500
    index = IdIndex(capacity, ids=kind, admit_after=2, unknown_rows=3)
    named = (lambda ids: ids) if kind == "integers" else lambda ids: [f"{i:8}" for i in ids]
    rng = np.random.default_rng(0)
    sizes = []
    for step in range(500):
        new = np.arange(step * 100, step * 100 + 100) + 1000
        index.observe(named(np.concatenate([new, rng.integers(0, 50, 20)])), step)
        sizes.append(index.nbytes)
    assert max(sizes[50:]) < 1.05 * min(sizes[50:])
    assert index.nbytes < 250 * capacity
    assert index.has_row(named(np.arange(50))).all()


def test_the_sketch_admits_whoever_came_often_and_few_others():
    capacity, admit_after = 1000, 3
    index = IdIndex(capacity, admit_after=admit_after, evict_share=0.01)
    rng = np.random.default_rng(0)
    admitted_once = 0
    for step in range(400):
        new = rng.integers(2**62, size=100)
        often = np.full(admit_after, -1 - step)
        changes = index.observe(np.concatenate([new, often]), step)
        assert index.has_row([-1 - step]).all()
        admitted_once += int((changes.admitted_keys >= 0).sum())
    assert admitted_once < 0.02 * 400 * 100


def test_readers_run_beside_a_writer():
    index = IdIndex(1000, evict_share=0.1, in_flight=1, unknown_rows=2)
    stop, wrong = threading.Event(), []

    def read():
        ids = np.arange(3000)
        while not stop.is_set():
            rows = index.find(ids)
            own = rows[rows < 1000].tolist()
            if len(set(own)) != len(own):
                wrong.append(own)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for step in range(200):
        index.observe(np.arange(step * 10, step * 10 + 300), step)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 0}, "capacity=0 must be at least 1"),
        ({"capacity": 2**32 - 1}, "4294967296 rows are above"),
        ({"ids": "words"}, "ids='words' is not"),
        ({"evict": "fifo"}, "evict='fifo' is not"),
        ({"admit_after": 256}, "admit_after=256 is above the limit of 255"),
        ({"ttl": 0}, "ttl=0 must be at least 1"),
        ({"unknown_rows": 0}, "unknown_rows=0 must be at least 1"),
        ({"evict_share": 0}, "evict_share=0 must be above 0"),
        ({"in_flight": 0}, "in_flight=0 must be at least 1"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        IdIndex(**{"capacity": 4, **options})
