"""Indexes of ids by bucket, of which each rank has a run.

A bucket has an index of its own: its rows, its counts, its evictions. An id's bucket is chosen by
its hash, and nothing in it depends on the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rowwise.dynamic import IdIndex
from rowwise.dynamic._batches import Integers, Packed, count, hashes, take


@dataclass(frozen=True)
class BucketChanges:
    """Changes that `IdBuckets.observe` made; see `rowwise.dynamic.Changes`.

    Attributes:
        rows: (n,) the row of each id of the batch.
        admitted_rows, admitted_keys: (a,) rows given to ids, and keys of these.
        evicted_rows, evicted: (e,) rows taken from ids, and these.
    """

    rows: Integers
    admitted_rows: Integers
    admitted_keys: Integers
    evicted_rows: Integers
    evicted: NDArray[Any]


class IdBuckets:
    """The indexes of buckets first, first + 1, ... of `buckets`; all have the same options.

    Row r of bucket b's index is row b * capacity + r of the table, where capacity is one bucket's.
    The unknown rows come last, and are shared by all buckets.
    """

    def __init__(self, buckets: int, first: int, indexes: list[IdIndex]) -> None:
        self.buckets, self.first, self.indexes = buckets, first, indexes
        self._one = indexes[0]

    @classmethod
    def new(cls, buckets: int, span: tuple[int, int], config: dict[str, Any]) -> Self:
        """Make empty indexes of the buckets of a span, with `IdIndex`'s arguments."""
        return cls(buckets, span[0], [IdIndex(**config) for _ in range(*span)])

    @property
    def capacity(self) -> int:
        """Number of rows for ids, of all buckets."""
        return self.buckets * self._one.capacity

    @property
    def rows(self) -> int:
        """Number of rows, those for unknown ids included."""
        return self.capacity + self._one.unknown_rows

    @property
    def nbytes(self) -> int:
        """Bytes of the indexes here."""
        return sum(index.nbytes for index in self.indexes)

    def __len__(self) -> int:
        """Return how many ids have a row here."""
        return sum(map(len, self.indexes))

    # ------------------------------------------------------------------ batches

    def find(self, ids: Packed) -> Integers:
        """Return the rows (n,) of ids, all of them of these buckets."""
        rows = np.empty(count(ids), np.int64)
        for number, where in self._by_bucket(ids):
            found = self.indexes[number].find_packed(take(ids, where))
            rows[where] = self._of_table(number, found)
        return rows

    def observe(self, ids: Packed, step: int) -> BucketChanges:
        """Count a batch, all of it of these buckets; evict and admit in each bucket."""
        rows = np.empty(count(ids), np.int64)
        admitted, keys, left, evicted = [], [], [], [self._no_ids()]
        for number, where in self._by_bucket(ids, every=self._one.ttl is not None):
            changes = self.indexes[number].observe_packed(take(ids, where), step)
            rows[where] = self._of_table(number, changes.rows)
            admitted.append(self._of_table(number, changes.admitted_rows))
            keys.append(changes.admitted_keys)
            left.append(self._of_table(number, changes.evicted_rows))
            evicted.append(changes.evicted)
        none = [np.empty(0, np.int64)]
        return BucketChanges(
            rows,
            np.concatenate(none + admitted),
            np.concatenate(none + keys),
            np.concatenate(none + left),
            np.concatenate(evicted),
        )

    def _by_bucket(self, ids: Packed, every: bool = False) -> list[tuple[int, Integers]]:
        """Return the buckets here that ids (n,) are of, or every one, and positions in each."""
        order, counts = in_order(buckets_of(ids, self.buckets) - self.first, len(self.indexes))
        ends = np.append(0, np.cumsum(counts))
        return [
            (number, order[ends[number] : ends[number + 1]])
            for number in range(len(self.indexes))
            if every or ends[number] < ends[number + 1]
        ]

    def _of_table(self, number: int, rows: Integers) -> Integers:
        own = self._one.capacity
        base = (self.first + number) * own
        return np.where(rows < own, base + rows, self.capacity + rows - own)

    def _no_ids(self) -> NDArray[Any]:
        return np.empty(0, object if self._one.kind == "strings" else np.int64)

    # ------------------------------------------------------------------ evictions

    def evictions(self) -> Integers:
        """Return the evictions so far of each bucket here."""
        return np.array([index.evictions for index in self.indexes], np.int64)

    def evicted_since(self, marks: Integers) -> NDArray[Any]:
        """Return ids that lost their rows here since `evictions` was marks, and have none now."""
        since = [
            index.evicted_since(int(mark)) for index, mark in zip(self.indexes, marks, strict=True)
        ]
        return np.concatenate([self._no_ids(), *since])

    def ids(self) -> NDArray[Any]:
        """Return the ids that have a row here, bucket by bucket, in the order of rows."""
        return np.concatenate([self._no_ids(), *(index.ids() for index in self.indexes)])

    # ------------------------------------------------------------------ files

    def state(self) -> tuple[dict[str, NDArray[Any]], Integers]:
        """Return all that the indexes hold: each array of all buckets, one after the other.

        Returns:
            the arrays by name, and the lengths (buckets here, names), names in order.
        """
        states = [index.state() for index in self.indexes]
        names = sorted(states[0])
        arrays = {name: np.concatenate([state[name] for state in states]) for name in names}
        lengths = [[len(state[name]) for name in names] for state in states]
        return arrays, np.array(lengths, np.int64)

    @classmethod
    def from_state(
        cls,
        buckets: int,
        span: tuple[int, int],
        config: dict[str, Any],
        names: list[str],
        lengths: Integers,
        read: Any,
    ) -> Self:
        """Make the indexes of a span of buckets from the arrays of all buckets.

        Args:
            buckets, span, config: see `new`.
            names: of the arrays, in order.
            lengths: (buckets, names) of all buckets.
            read: called with a name; returns that array of all buckets.

        Raises:
            KeyError, TypeError, ValueError: parts that do not fit each other.
        """
        if lengths.dtype != np.int64 or lengths.shape != (buckets, len(names)) or not names:
            raise ValueError(
                f"lengths {lengths.shape} for {buckets} buckets of {len(names)} arrays"
            )
        if (lengths < 0).any():
            raise ValueError("an array of a bucket has a length below 0")
        ends = np.cumsum(lengths, axis=0)
        states: list[dict[str, NDArray[Any]]] = [{} for _ in range(*span)]
        for column, name in enumerate(sorted(names)):
            array = read(name)
            if array.ndim != 1 or len(array) != ends[-1, column]:
                raise ValueError(f"{name!r} of the ids has another length than its buckets")
            for state, bucket in zip(states, range(*span), strict=True):
                end = ends[bucket, column]
                state[name] = array[end - lengths[bucket, column] : end].copy()
        return cls(buckets, span[0], [IdIndex.from_state(config, state) for state in states])


def buckets_of(ids: Packed, buckets: int) -> Integers:
    """Return the bucket (n,) of each id."""
    return (hashes(ids) % np.uint64(buckets)).astype(np.int64)


def span_of(buckets: int, rank: int, ranks: int) -> tuple[int, int]:
    """Return the first bucket of a rank, and the one after its last."""
    return buckets * rank // ranks, buckets * (rank + 1) // ranks


def in_order(numbers: Integers, limit: int) -> tuple[Integers, Integers]:
    """Return positions (n,) in ascending order of numbers below limit, and how often each is."""
    small = numbers.astype(np.uint16) if limit <= 2**16 else numbers  # which NumPy sorts by radix
    return np.argsort(small, kind="stable"), np.bincount(numbers, minlength=limit)


def owners_of(ids: Packed, buckets: int, ranks: int) -> Integers:
    """Return the rank (n,) that has the bucket of each id."""
    firsts = [span_of(buckets, rank, ranks)[0] for rank in range(ranks)]
    return np.searchsorted(firsts, buckets_of(ids, buckets), side="right") - 1
