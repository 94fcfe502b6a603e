"""Gradients of a table that wait for the step which applies them."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rowwise.keras._gradients import coalesce
from rowwise.table import Table

CAPACITY = 1023  # gradients that can wait at once
# The weight of a gradient as it comes: between the smallest and the largest floats there is room
# for losses scaled by 2^127, and processors take floats below 2^-126 for 0.
WHOLE = 2.0**40

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class PendingGradients:
    """The gradient of each backward pass through a lookup: ids (n,) and values (n, dim), together.

    To JAX a table's gradient is a vector (size,) of weights: by how much each pass counts. A pass
    gives WHOLE in a place of its own. Whatever is linear, JAX does to that vector as it would to
    the gradient: sums over several lookups, a mean over batches, a scaled loss. Gradients that
    nobody applies have no weight, and go with the next step.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.size = 1 + CAPACITY  # and one more each time that programs have to be made again
        # place -> (order of summation, ids, gradients)
        self._pending: dict[int, tuple[tuple[int, int], Ids, Floats]] = {}
        self._pushed = 0  # gradients so far
        self._lock = threading.Lock()
        self._summed: tuple[bytes, Ids, Floats] | None = None

    def push(self, order: int, ids: Ids, gradients: Floats) -> int:
        """Add gradients (n, dim) of rows ids (n,), without a copy; return their place.

        `order` decides which gradients of an id are summed first, whichever came first.
        """
        with self._lock:
            if len(self._pending) == CAPACITY:
                raise RuntimeError(
                    f"{self._path}: the gradients of {CAPACITY} lookups wait for a step; apply "
                    "them first, or look rows up without taking gradients"
                )
            while (place := 1 + self._pushed % CAPACITY) in self._pending:
                self._pushed += 1
            self._pushed += 1
            self._pending[place] = ((order, self._pushed), ids, gradients)
        self._summed = None
        return place

    def weighted(self, weights: Floats) -> tuple[Ids, Floats]:
        """Return ids (n,) and gradients (n, dim), weighted by (size,), in order.

        Raises:
            RuntimeError: the weights are of gradients from before the last step.
        """
        used = np.flatnonzero(weights[1:]) + 1  # a NaN is not zero
        if missing := [place for place in used.tolist() if place not in self._pending]:
            raise RuntimeError(
                f"{self._path}: {len(missing)} of the gradients to be applied were computed before "
                "the table's last step; a table keeps gradients for one step"
            )
        if len(used) == 1:
            _, ids, gradients = self._pending[int(used[0])]
            return ids, _scaled(gradients, float(weights[used[0]]) / WHOLE)
        parts = sorted((self._pending[place][0], place) for place in used.tolist())
        several = [self._pending[place][1] for _, place in parts]
        factors = [float(weights[place]) / WHOLE for _, place in parts]
        values = [_scaled(self._pending[p][2], f) for (_, p), f in zip(parts, factors, strict=True)]
        if not several:
            return np.empty(0, np.int64), np.empty((0, 0), np.float32)
        return np.concatenate(several), np.concatenate(values)

    def summed(self, table: Table, weights: Floats) -> tuple[Ids, Floats]:
        """Return `weighted`, with distinct ids."""
        key = weights.tobytes()
        if self._summed is None or self._summed[0] != key:
            ids, gradients = self.weighted(weights)
            if len(ids):
                ids, gradients = coalesce(table, ids, gradients)
            self._summed = key, ids, gradients
        return self._summed[1:]

    def clear(self, keep: Iterable[int] = ()) -> None:
        """Drop the gradients, after a step or its refusal; those at places `keep` wait on."""
        kept = {place: self._pending[place] for place in keep if place in self._pending}
        self._pending = kept
        self._summed = None

    def reset(self) -> None:
        """Drop all, as the table has other rows; JAX compiles again where a size changes."""
        self.clear()
        self.size += 1


def _scaled(gradients: Floats, factor: float) -> Floats:
    # In float64: the factor may be below what float32 has.
    return gradients if factor == 1 else (gradients * np.float64(factor)).astype(np.float32)
