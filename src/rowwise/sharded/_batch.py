"""The ids and gradients of one rank's batch, put in order for the ranks that hold their rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.sharded._buckets import Layout
from rowwise.store import Bags, HostStore, RowGradient, TableState
from rowwise.store._memory import row_states

_AT_ONCE = 1 << 16  # numbers that stay in the cache

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Request:
    """The distinct rows of a batch, by rank.

    Attributes:
        rows: (m,) uint32, a row on the rank that holds it; ascending on each rank.
        counts: (ranks,) how many of them each rank holds.
        inverse: (n,) where the row of each id stands in `rows`.
        order: (n,) the ids in the order of `rows`; those of a row in the order of the batch.
        begins: (m + 1,) where each row's ids begin in `order`.
    """

    rows: NDArray[np.uint32]
    counts: Ids
    inverse: Ids
    order: Ids
    begins: Ids


def request(ids: Ids, layout: Layout) -> Request:
    """Return the distinct rows of ids (n,)."""
    positions, order = _sorted_positions(ids, layout)
    first = np.empty(len(positions), bool)
    first[:1] = True
    np.not_equal(positions[1:], positions[:-1], out=first[1:])
    inverse = np.empty(len(ids), np.int64)
    inverse[order] = np.cumsum(first) - 1
    begins = np.append(np.flatnonzero(first), len(ids))
    return Request(*_by_rank(positions[first], layout), inverse, order, begins)


@dataclass(frozen=True)
class Parcel:
    """A gradient in the order in which its parts go to the ranks.

    Gradients of rows, or (`lengths` given) of bags of rows.

    Attributes:
        rows: (n,) uint32, rows on the rank that holds them.
        values: (n, dim), or (bags, dim), float32.
        counts: (ranks, 2) how many rows, and how many values, go to each rank.
        lengths: (bags,) uint32, rows in each bag, or None.
        weights: (n,) float32 of the rows in bags, or None.
    """

    rows: NDArray[np.uint32]
    values: Floats
    counts: Ids
    lengths: NDArray[np.uint32] | None = None
    weights: Floats | None = None

    @property
    def form(self) -> int:
        """Return 0 for gradients of rows, 1 for bags, 2 for bags of weighted rows."""
        return (self.lengths is not None) + (self.weights is not None)

    def row_gradient(self, layout: Layout) -> RowGradient:
        """Return the gradient of rows that this parcel was made of, in order of ranks."""
        starts = np.arange(layout.ranks) * layout.block
        positions = self.rows.astype(np.int64) + np.repeat(starts, self.counts[:, 0])
        values = self.values
        if self.lengths is not None:
            values = np.repeat(values, self.lengths, axis=0)
        if self.weights is not None:
            values *= self.weights[:, None]
        return RowGradient(layout.ids_at(positions), values)

    def with_values(self, values: Any) -> Parcel:
        """Return a parcel with other gradients, of the same shape."""
        return replace(self, values=np.ascontiguousarray(values, dtype=np.float32))


def row_parcel(wanted: Request, values: Floats, factor: float = 1.0) -> Parcel:
    """Sort gradients (n, dim) of the ids of a request by rank, times a factor."""
    rows = np.repeat(wanted.rows, np.diff(wanted.begins))
    ends = wanted.begins[np.cumsum(wanted.counts)]
    counts = np.diff(ends, prepend=0)
    values = _taken(values.reshape(len(rows), values.shape[-1]), wanted.order, factor)
    return Parcel(rows, values, np.stack([counts, counts], axis=1))


def summed_parcel(wanted: Request, values: Floats, parts: int, factor: float = 1.0) -> Parcel:
    """Cut a batch into parts, and sum the gradients (n, dim) of a row within each, in order.

    The sums of a row stand in the order of the parts.
    """
    n = len(wanted.order)
    sizes = np.diff([n * part // parts for part in range(parts + 1)])
    part = np.repeat(np.arange(parts), sizes)[wanted.order]
    first = np.append(True, part[1:] != part[:-1])[:n]
    first[wanted.begins[:-1]] = True
    row = np.repeat(np.arange(len(wanted.rows)), np.diff(wanted.begins))[first]
    counts = np.diff(np.searchsorted(row, np.cumsum(wanted.counts)), prepend=0)
    of_sum = np.empty(n, np.int64)
    of_sum[wanted.order] = np.cumsum(first) - 1
    sums = _sums(of_sum, values, len(row))
    if factor != 1:
        sums *= np.float32(factor)
    return Parcel(wanted.rows[row], sums, np.stack([counts, counts], axis=1))


def _taken(values: Floats, order: Ids, factor: float) -> Floats:
    """Return the values (n, dim) of some order, times a factor, in one pass over memory."""
    taken = _native.empty(len(order), values.shape[1])
    at_once = max(1, _AT_ONCE // taken.shape[1])
    for start in range(0, len(order), at_once):
        part = taken[start : start + at_once]
        np.take(values, order[start : start + at_once], axis=0, out=part, mode="clip")
        if factor != 1:
            part *= np.float32(factor)
    return taken


def bag_parcel(bags: Bags, values: Floats, layout: Layout, factor: float = 1.0) -> Parcel:
    """Sort the rows of bags by rank; the gradient of a bag, times a factor, goes there once."""
    positions = layout.positions(bags.ids.reshape(-1))
    ranks = positions // layout.block
    order = np.argsort(ranks, kind="stable")
    rows = (positions - ranks * layout.block)[order].astype(np.uint32)
    bag = np.repeat(np.arange(len(values)), np.diff(bags.offsets))[order]
    piece = ranks[order] * len(values) + bag  # one number for each rank and bag
    pieces, lengths = np.unique(piece, return_counts=True)
    per_rank = [
        np.bincount(of, minlength=layout.ranks) for of in (ranks, pieces // max(1, len(values)))
    ]
    sent = _taken(values, pieces % max(1, len(values)), factor)
    weights = None if bags.weights is None else bags.weights.reshape(-1)[order]
    return Parcel(rows, sent, np.stack(per_rank, axis=1), lengths.astype(np.uint32), weights)


def coalesced(gradient: RowGradient) -> RowGradient:
    """Return distinct ids, ascending, with the sums of their gradients, in batch order."""
    ids, inverse = np.unique(gradient.ids.reshape(-1), return_inverse=True)
    return RowGradient(ids, _sums(inverse, gradient.values, len(ids)))


def _sums(of_sum: Ids, values: Floats, count: int) -> Floats:
    """Return sums (count, dim) of values (n, dim), in order; of_sum (n,) has all of them."""
    values = np.ascontiguousarray(values.reshape(len(of_sum), values.shape[-1]))
    if not count:
        return values
    store = store_of(_native.empty(count, values.shape[1]))
    return store.coalesce(RowGradient(np.ascontiguousarray(of_sum, np.int64), values)).values


def store_of(vectors: Floats) -> HostStore:
    """Return a store of these rows (n, dim), n above 0, in their memory, that is only read."""
    nothing: Any = np.empty((0, 3)), np.empty(0)
    return HostStore.from_state(TableState(vectors, [], row_states(len(vectors)), nothing))


def _sorted_positions(ids: Ids, layout: Layout) -> tuple[Ids, Ids]:
    """Return positions (n,), ascending, and where in ids each stood; equal ones in order."""
    bits = max(1, len(ids)).bit_length()
    keys = layout.positions(ids)
    if int(layout.rows).bit_length() + bits > 63:
        order = np.argsort(keys, kind="stable")
        return keys[order], order
    keys <<= bits  # one sort of integers is faster than an argsort
    keys |= np.arange(len(ids))
    keys.sort()
    return keys >> bits, keys & ((1 << bits) - 1)


def _by_rank(positions: Ids, layout: Layout) -> tuple[NDArray[np.uint32], Ids]:
    """Return rows on their rank, and how many each rank has, of positions (n,), ascending."""
    starts = np.arange(layout.ranks) * layout.block
    begins = np.append(np.searchsorted(positions, starts), len(positions))
    counts = np.diff(begins)
    return (positions - np.repeat(starts, counts)).astype(np.uint32), counts
