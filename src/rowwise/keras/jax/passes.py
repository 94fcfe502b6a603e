"""Gradients of a table that wait for the step which takes them."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rowwise.keras.bags import coalesce
from rowwise.table import Table

PASSES = 1023  # that can wait at once
# The weight of a pass as it comes: between the smallest and the largest floats there is room for
# losses scaled by 2^127, and processors take floats below 2^-126 for 0.
WHOLE = 2.0**40

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class Passes:
    """What each backward pass through a lookup left: ids (n,) and their gradients (n, dim).

    To JAX a table's gradient is a vector (size,): by how much each pass counts. A pass gives
    WHOLE in a place of its own. Whatever is linear, JAX does to that vector as it would to the
    gradient: sums over several lookups, a mean over batches, a scaled loss. Gradients that nobody
    applies have no weight, and go with the next step.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.size = 1 + PASSES  # and one more each time that programs have to be made again
        # place -> (which are summed first, ids, gradients)
        self._kept: dict[int, tuple[tuple[int, int], Ids, Floats]] = {}
        self._passes = 0  # so far
        self._lock = threading.Lock()
        self._summed: tuple[bytes, Ids, Floats] | None = None

    def keep(self, order: int, ids: Ids, gradients: Floats) -> int:
        """Keeps gradients (n, dim) of rows ids (n,), for its own; their place in the vector.

        `order` decides which gradients of an id are summed first, whichever came first.
        """
        with self._lock:
            if len(self._kept) == PASSES:
                raise RuntimeError(
                    f"{self._path}: the gradients of {PASSES} lookups wait for a step; apply them "
                    "first, or look rows up without taking gradients"
                )
            while (place := 1 + self._passes % PASSES) in self._kept:
                self._passes += 1
            self._passes += 1
            self._kept[place] = ((order, self._passes), ids, gradients)
        self._summed = None
        return place

    def weighed(self, weights: Floats) -> tuple[Ids, Floats]:
        """ids (n,) and gradients (n, dim), weighed by (size,), in order.

        Raises:
            RuntimeError: the weights are of passes from before the last step.
        """
        used = np.flatnonzero(weights[1:]) + 1  # a NaN is not zero
        if missing := [place for place in used.tolist() if place not in self._kept]:
            raise RuntimeError(
                f"{self._path}: {len(missing)} of the gradients to be applied were computed before "
                "the table's last step; a table keeps gradients for one step"
            )
        parts = sorted((self._kept[place][0], place) for place in used.tolist())
        ids = [self._kept[place][1] for _, place in parts]
        factors = [float(weights[place]) / WHOLE for _, place in parts]
        gradients = [_scaled(self._kept[p][2], f) for (_, p), f in zip(parts, factors, strict=True)]
        if len(ids) == 1:
            return ids[0], gradients[0]
        if not ids:
            return np.empty(0, np.int64), np.empty((0, 0), np.float32)
        return np.concatenate(ids), np.concatenate(gradients)

    def summed(self, table: Table, weights: Floats) -> tuple[Ids, Floats]:
        """The same, each id once."""
        key = weights.tobytes()
        if self._summed is None or self._summed[0] != key:
            ids, gradients = self.weighed(weights)
            if len(ids):
                ids, gradients = coalesce(table, ids, gradients)
            self._summed = key, ids, gradients
        return self._summed[1:]

    def forget(self, but_for: Iterable[int] = ()) -> None:
        """A step was made, or refused; gradients at some places wait for a later one."""
        places = set(but_for)
        self._kept = {place: kept for place, kept in self._kept.items() if place in places}
        self._summed = None

    def start_anew(self) -> None:
        """The table has other rows: JAX makes its programs again where a size is another."""
        self.forget()
        self.size += 1


def _scaled(gradients: Floats, factor: float) -> Floats:
    # In float64: the factor may be below what float32 has.
    return gradients if factor == 1 else (gradients * np.float64(factor)).astype(np.float32)


def rows_in(gradient: Floats) -> tuple[Ids, Floats]:
    """A whole gradient (rows, dim) as the ids and gradients of the rows that are not zero."""
    ids = np.flatnonzero(gradient.any(axis=1))
    return ids, gradient[ids]
