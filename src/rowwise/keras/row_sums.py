"""Sums of gradients over several batches, at the cost of the rows that the batches touched."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rowwise.store._memory import matrix


class RowSums:
    """Sums (rows, dim) float32, zero at first; it is known which rows may be anything else."""

    def __init__(self, rows: int, dim: int) -> None:
        self.start_anew(rows, dim)

    def start_anew(self, rows: int, dim: int) -> None:
        """Sums of zero, for another number of rows."""
        self.sums = matrix(rows, dim)
        self._touched: list[NDArray[np.int64]] = []

    @property
    def touched(self) -> NDArray[np.int64]:
        """Ids (m,) of the rows that are summed, ascending; a sum may be zero."""
        return np.unique(np.concatenate([np.empty(0, np.int64), *self._touched]))

    @touched.setter
    def touched(self, ids: NDArray[np.int64]) -> None:
        self._touched = [ids]

    def written(self) -> None:
        """Says that somebody has written to `sums`."""
        self._touched = [np.flatnonzero(self.sums.any(axis=1))]

    def add(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """Adds gradients (n, dim) of the rows ids (n,), each of them once."""
        self.sums[ids] += gradients
        self._touched.append(ids)

    def take(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The rows touched so far, ascending, and their sums, which are zero again."""
        ids = self.touched
        sums = self.sums[ids]
        self.sums[ids] = 0
        self._touched = []
        return ids, sums
