"""Starting values of rows that ids get: numbers that depend on the seed and the id alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise._init import checked_seed

RowInit = Literal["uniform", "normal", "zeros"]

_UNKNOWN = 0x9E3779B97F4A7C15  # changes the seed for rows that belong to no id

_SCALES = {"uniform": 0.05, "normal": 0.05, "zeros": 0.0}


@dataclass(frozen=True)
class RowStarts:
    """Starting values by id.

    Attributes:
        init: "uniform" in -scale..scale, "normal" of deviation scale, or "zeros".
        scale: see init; 0.05 unless given.
        seed: below 2**64.
    """

    init: RowInit
    scale: float
    seed: int

    @classmethod
    def of(cls, init: RowInit, scale: float | None, seed: int | None) -> RowStarts:
        """Make starts from what a user gave; without a seed, from a new one.

        Raises:
            ValueError: an unknown init, a scale below 0, a seed outside 0..2**64-1.
        """
        if init not in get_args(RowInit):
            raise ValueError(f"init={init!r} is not 'uniform', 'normal' or 'zeros'")
        scale = _SCALES[init] if scale is None else float(scale)
        if not 0 <= scale < np.inf:
            raise ValueError(f"init_scale={scale} must be finite and at least 0")
        return cls(init, scale, checked_seed(seed))

    def rows(self, keys: NDArray[np.int64], dim: int) -> NDArray[np.float32]:
        """Return the starts (n, dim) of ids with these keys (n,)."""
        starts = np.zeros((len(keys), dim), np.float32)
        if self.init == "uniform":
            _native.fill_uniform(starts, self.seed, -self.scale, self.scale, ids=keys)
        elif self.init == "normal":
            _native.fill_normal(starts, self.seed, 0.0, self.scale, ids=keys)
        return starts

    def unknown_rows(self, count: int, dim: int) -> NDArray[np.float32]:
        """Return the starts (count, dim) of the rows that ids without a row read."""
        return replace(self, seed=self.seed ^ _UNKNOWN).rows(np.arange(count), dim)
