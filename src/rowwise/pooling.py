"""Bags of rows reduced to one vector each; the vectors of single ids are never all in memory.

A bag is a run of ids: bag b holds ids[offsets[b] : offsets[b + 1]]. Its vector is the weighted sum
of its rows; "mean" and "sqrtn" are weighted sums too, with the weights that `normalized` gives.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.ids import as_ids, outside

if TYPE_CHECKING:
    from rowwise.table import Table

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

COMBINERS = ("mean", "sum", "sqrtn")


def pool(table: Table, ids: Any, offsets: Any, weights: Any, combiner: str) -> Floats:
    """What `Table.pool` returns."""
    if combiner not in COMBINERS:
        raise ValueError(f"combiner={combiner!r} is not one of {', '.join(COMBINERS)}")
    ids = as_ids(ids)
    if offsets is None:
        if ids.ndim < 2:
            raise ValueError(f"ids of shape {ids.shape} need offsets, or a shape (..., length)")
        shape, offsets = ids.shape[:-1], offsets_of(ids.shape)
    elif ids.ndim != 1:
        raise ValueError(f"with offsets, ids must have the shape (n,), not {ids.shape}")
    else:
        offsets = as_ids(offsets)
        _native.check_offsets(offsets, ids.size)
        shape = (len(offsets) - 1,)
    if weights is not None:
        weights = np.ascontiguousarray(weights, dtype=np.float32)
        if weights.shape != ids.shape:
            raise ValueError(f"weights have shape {weights.shape}, ids {ids.shape}")
        weights = weights.reshape(-1)
    pooled = np.empty((*shape, table.dim), dtype=np.float32)
    pool_into(table, ids, offsets, normalized(weights, offsets, combiner), pooled)
    return pooled


def offsets_of(shape: tuple[int, ...]) -> Ids:
    """Offsets (bags + 1,) of ids (..., length), whose last axis is a bag."""
    length = shape[-1]
    return np.arange(int(np.prod(shape[:-1])) + 1, dtype=np.int64) * length


def normalized(weights: Floats | None, offsets: Ids, combiner: str) -> Floats | None:
    """Weights (n,) whose sum over rows is the combination: divided by their bag's sum ("mean"),
    by the root of their squares' sum ("sqrtn"), or as they are ("sum"). None: all are 1.

    Where the divisor is 0, so are the weights.
    """
    if combiner == "sum":
        return weights
    lengths = np.diff(offsets)
    if weights is None:
        divisors = lengths.astype(np.float64)
        weights = np.ones(int(lengths.sum()), np.float32)
    else:
        bags = np.repeat(np.arange(len(lengths)), lengths)
        powers = weights if combiner == "mean" else np.square(weights, dtype=np.float64)
        divisors = np.bincount(bags, powers, len(lengths)).astype(np.float64)
    if combiner == "sqrtn":
        divisors = np.sqrt(divisors)
    inverse = np.divide(1.0, divisors, out=np.zeros_like(divisors), where=divisors != 0)
    scaled: Floats = (weights * np.repeat(inverse, lengths)).astype(np.float32)
    return scaled


# ---------------------------------------------------------------- for adapters, forward and back


def pool_into(table: Table, ids: Ids, offsets: Ids, weights: Floats | None, out: Floats) -> None:
    """out (bags, dim) <- each bag's weighted sum of its rows' present values; 0 if it is empty.

    Args:
        table: read, not changed.
        ids: of any shape, n in all.
        offsets: (bags + 1,) ascending from 0 to n.
        weights: (n,), or None: all are 1.
        out: contiguous.

    Raises:
        IndexError: an id outside the table; nothing was written.
        ValueError: offsets that descend, or do not go from 0 to n; an array of another size.
    """
    _check(ids, table._native.pool(ids, offsets, weights, out), table)


def pool_max_into(table: Table, ids: Ids, offsets: Ids, out: Floats, argmax: Ids) -> None:
    """out (bags, dim) <- the largest of each bag's values; argmax (bags, dim) <- the first
    position in the batch that has it. 0 and -1 where the bag is empty; NaN is above all.
    """
    _check(ids, table._native.pool_max(ids, offsets, out, argmax), table)


class BagGradient:
    """The gradient of a batch of bags: gradients (bags, dim), and which rows they belong to.

    A row's own gradient is the weighted sum of those of the bags it is in.
    """

    def __init__(
        self, table: Table, ids: Ids, offsets: Ids, weights: Floats | None, gradients: Floats
    ) -> None:
        """Sorts the ids; nothing else of the batch is copied but its weights.

        Args:
            table: whose rows they are.
            ids, offsets, weights: as for `pool_into`.
            gradients: (bags, dim) contiguous; read when the sums or the step are made.
        """
        self.plan = table._native.plan_bags(ids, offsets, weights)
        self.gradients = gradients
        self._native = table._native

    def with_gradients(self, gradients: Floats) -> BagGradient:
        """The same bags with other gradients (bags, dim)."""
        other = copy.copy(self)
        other.gradients = np.ascontiguousarray(gradients, dtype=np.float32)
        return other

    def rows(self) -> tuple[Ids, Floats]:
        """Distinct ids (m,) ascending, and their gradients (m, dim), summed in batch order."""
        return self._native.sum_gradients(self.plan, self.gradients)


def coalesce(table: Table, ids: Ids, gradients: Floats) -> tuple[Ids, Floats]:
    """Each distinct id (m,) of a batch, ascending, and the sum (m, dim) of its gradients.

    Args:
        ids: (n,).
        gradients: (n, dim).
    """
    return BagGradient(table, ids, np.arange(ids.size + 1), None, gradients).rows()


def pool_max_gradient(
    table: Table, ids: Ids, offsets: Ids, argmax: Ids, gradients: Floats
) -> tuple[Ids, Floats]:
    """From the gradients (bags, dim) of `pool_max_into`'s bags, those of its distinct ids."""
    return table._native.pool_max_gradient(ids, offsets, argmax, gradients)


def pool_weight_gradient(table: Table, ids: Ids, offsets: Ids, gradients: Floats) -> Floats:
    """From the gradients (bags, dim) of `pool_into`'s bags, those (n,) of its weights."""
    out = np.empty(ids.size, dtype=np.float32)
    _check(ids, table._native.pool_dots(ids, offsets, gradients, out), table)
    return out


def _check(ids: Ids, bad: int, table: Table) -> None:
    if bad >= 0:
        raise outside(ids, bad, table.rows)
