"""Gradients of a table by row, in NumPy: of pooled bags, of batches that are summed up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.keras._ids import validate_ids, validate_ids_in_range
from rowwise.store import Bags, Folder, RowGradient
from rowwise.store._memory import matrix
from rowwise.table import Table

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class SparseGradient:
    """The gradient of a table within an optimizer's step: ids and values travel together.

    Keras unscales gradients and averages accumulated ones before it clips them; it may do so with
    this one as with a dense gradient.

    Attributes:
        ids: (n,) int64, as the backend's tensor or NumPy's.
        values: (n, dim), as the backend's tensor.
    """

    ids: Any
    values: Any

    def with_values(self, values: Any) -> SparseGradient:
        """Return a gradient of the same rows with other values."""
        return replace(self, values=values)

    def __truediv__(self, divisor: Any) -> SparseGradient:
        return self.with_values(self.values / divisor)

    def __add__(self, other: Any) -> SparseGradient:
        return self.with_values(self.values + other)


class RowAccumulator:
    """Sums of gradients (rows, dim) float32 over batches, at the cost of the rows touched.

    The sums are zero at first. The accumulator knows which rows may be anything else.

    Args:
        rows, dim: shape of the sums.
        scratch: the folder on whose disk they lie; None for memory.
    """

    def __init__(self, rows: int, dim: int, scratch: Folder | None = None) -> None:
        self._scratch = scratch
        self.reset(rows, dim)

    def reset(self, rows: int, dim: int) -> None:
        """Start sums of zero, for another number of rows."""
        self.sums = matrix(rows, dim, self._scratch)
        self._touched: list[Ids] = []

    @property
    def touched(self) -> Ids:
        """Ids (m,) of the rows with a sum, ascending; a sum may be zero."""
        return np.unique(np.concatenate([np.empty(0, np.int64), *self._touched]))

    @touched.setter
    def touched(self, ids: Ids) -> None:
        self._touched = [ids]

    def rescan(self) -> None:
        """Find the touched rows again, after somebody else has written to `sums`."""
        self._touched = [np.flatnonzero(self.sums.any(axis=1))]

    def add(self, ids: Ids, gradients: Floats) -> None:
        """Add gradients (n, dim) of distinct rows ids (n,)."""
        self.sums[ids] += gradients
        self._touched.append(ids)

    def pop(self) -> tuple[Ids, Floats]:
        """Return the rows touched so far, ascending, and their sums; make these zero again."""
        ids = self.touched
        sums = self.sums[ids]
        self.sums[ids] = 0
        self._touched = []
        return ids, sums


def coalesce(table: Table, ids: Any, gradients: Any) -> tuple[Ids, Floats]:
    """Return distinct ids (m,), ascending, and the sums (m, D) of their gradients."""
    summed = table.store.coalesce(RowGradient(ids, gradients))
    return summed.ids, summed.values


def exclude_row(row: int | None, ids: Ids, gradients: Floats) -> tuple[Ids, Floats]:
    """Return ids (n,) and gradients (n, dim) without those of a row, if one is given."""
    if row is None:
        return ids, gradients
    others = ids != row
    return ids[others], gradients[others]


def nonzero_rows(gradient: Floats) -> tuple[Ids, Floats]:
    """Return a dense gradient (rows, dim) as ids and gradients of the rows that are not zero."""
    ids = np.flatnonzero(gradient.any(axis=1))
    return ids, gradient[ids]


# ---------------------------------------------------------------------- bags (..., length)


def pool_bags(table: Table, ids: Any, weights: Any = None) -> Floats:
    """Return the weighted sum (..., D) of each bag's rows.

    Raises:
        IndexError, TypeError, ValueError: see `validate_ids`, and an id out of range.
    """
    ids = validate_ids(ids)
    bags = ids.shape[:-1]
    pooled = _native.empty(int(np.prod(bags)), table.dim)
    table.store.gather_bags(Bags.of_last_axis(ids, _flat(weights)), pooled)
    return pooled.reshape(*bags, table.dim)


def gradient_of_rows(
    table: Table, ids: Any, gradients: Any, weights: Any = None
) -> tuple[Ids, Floats]:
    """Return distinct ids (m,) and their gradients (m, D), from those of the bags (..., D).

    The gradients of a row are summed in the order of the batch.
    """
    bags = Bags.of_last_axis(validate_ids_in_range(ids, table.rows), _flat(weights))
    gradient = table.store.bag_gradient(bags, _as_bags(table, gradients))
    summed = table.store.coalesce(gradient)
    return summed.ids, summed.values


def gradient_of_weights(table: Table, ids: Any, gradients: Any) -> Floats:
    """Return the gradients (..., length) of the weights, from those of the bags (..., D)."""
    bags = Bags.of_last_axis(validate_ids(ids))
    return table.store.bag_weight_gradient(bags, _as_bags(table, gradients)).reshape(ids.shape)


def _flat(weights: Any) -> Floats | None:
    return None if weights is None else np.ascontiguousarray(weights, np.float32).reshape(-1)


def _as_bags(table: Table, gradients: Any) -> Floats:
    return np.ascontiguousarray(gradients, np.float32).reshape(-1, table.dim)
