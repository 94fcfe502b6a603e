"""Bags of rows reduced to one vector each; the vectors of single ids are never all in memory.

The vector of a bag is the weighted sum of its rows; "mean" and "sqrtn" are weighted sums too, with
the weights that `normalized` gives. "max" is the largest of each number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise._ids import as_ids
from rowwise.store import Bags, RowStore

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

WEIGHTED = ("mean", "sum", "sqrtn")  # weighted sums of rows
COMBINERS = (*WEIGHTED, "max")


def pool(store: RowStore, ids: Any, offsets: Any, weights: Any, combiner: str) -> Floats:
    """Return what `Table.pool` returns."""
    shape, bags = checked_bags(ids, offsets, weights, combiner)
    pooled = np.empty((*shape, store.shape[1]), dtype=np.float32)
    if combiner == "max":
        store.gather_bags_max(bags, pooled, np.empty(pooled.shape, dtype=np.int64))
    else:
        store.gather_bags(bags, pooled)
    return pooled


def checked_bags(
    ids: Any, offsets: Any, weights: Any, combiner: str
) -> tuple[tuple[int, ...], Bags]:
    """Return the shape of what `Table.pool` returns, without dim, and the bags it sums.

    Raises:
        TypeError, ValueError: see `Table.pool`.
    """
    if combiner not in COMBINERS:
        raise ValueError(f"combiner={combiner!r} is not one of {', '.join(COMBINERS)}")
    ids = as_ids(ids)
    if offsets is None:
        if ids.ndim < 2:
            raise ValueError(f"ids of shape {ids.shape} need offsets, or a shape (..., length)")
        shape, bags = ids.shape[:-1], Bags.of_last_axis(ids)
    elif ids.ndim != 1:
        raise ValueError(f"with offsets, ids must have the shape (n,), not {ids.shape}")
    else:
        bags = Bags(ids, as_ids(offsets))
        _native.check_offsets(bags.offsets, ids.size)
        shape = (len(bags.offsets) - 1,)
    if weights is not None:
        weights = np.ascontiguousarray(weights, dtype=np.float32)
        if weights.shape != ids.shape:
            raise ValueError(f"weights have shape {weights.shape}, ids {ids.shape}")
        weights = weights.reshape(-1)
    if combiner != "max":
        return shape, Bags(ids, bags.offsets, normalized(weights, bags.offsets, combiner))
    if weights is not None:
        raise ValueError("combiner='max' takes no weights")
    return shape, bags


def normalized(weights: Floats | None, offsets: Ids, combiner: str) -> Floats | None:
    """Return the weights (n,) whose weighted sum over rows is the combination.

    They are divided by their bag's sum ("mean"), by the root of their squares' sum ("sqrtn"), or
    left as they are ("sum"). None stands for weights of 1.

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
