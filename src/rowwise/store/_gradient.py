"""Gradients of a table by row: of ids, or of bags of ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Bags:
    """A batch of bags: bag b holds ids[offsets[b] : offsets[b + 1]].

    Attributes:
        ids: int64 of any shape, contiguous; n in all.
        offsets: (bags + 1,) int64, ascending from 0 to n.
        weights: (n,) float32, or None: all are 1.
    """

    ids: Ids
    offsets: Ids
    weights: Floats | None = None

    @classmethod
    def of_last_axis(cls, ids: Ids, weights: Floats | None = None) -> Bags:
        """Make a bag of each run of ids along the last axis of ids (..., length)."""
        bags, length = int(np.prod(ids.shape[:-1])), ids.shape[-1]
        return cls(ids, np.arange(bags + 1, dtype=np.int64) * length, weights)


@dataclass(frozen=True)
class RowGradient:
    """The gradient of a table that is zero but in some rows.

    Attributes:
        ids: (n,) int64. The gradients of an id that stands several times are summed, in the order
            in which they stand.
        values: (n, dim) float32.
    """

    ids: Ids
    values: Floats

    def with_values(self, values: Any) -> Self:
        """Return a gradient of the same rows with other values, of the same shape."""
        return replace(self, values=_contiguous(values))

    def without(self, row: int) -> RowGradient:
        """Return the gradient of the other rows."""
        others = self.ids != row
        return RowGradient(self.ids[others], self.values[others])


@dataclass(frozen=True)
class BagGradient:
    """The gradient of a batch of bags, not written out id by id.

    The gradient of a row is the weighted sum of the gradients of the bags that hold its id.
    `RowStore.bag_gradient` makes one.

    Attributes:
        plan: the store's own record of the bags: distinct ids, and which bags hold each.
        values: (bags, dim) float32, read when sums or a step are made of them.
    """

    plan: Any
    values: Floats

    def with_values(self, values: Any) -> Self:
        """Return a gradient of the same bags with other values, of the same shape."""
        return replace(self, values=_contiguous(values))


def _contiguous(values: Any) -> Any:
    """Return values as a store takes them: NumPy's, or a tensor of the store's device."""
    if hasattr(values, "contiguous"):
        return values.contiguous()
    return np.ascontiguousarray(values, dtype=np.float32)
