"""What the rows of a new table start with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Init = str | NDArray[Any] | Callable[[tuple[int, int]], Any]

_ROWS_AT_ONCE = 1 << 16


def fill(weights: NDArray[np.float32], init: Init, seed: int | None) -> None:
    """Fill weights (rows, dim), zeroed before, as `init` says; see `rowwise.Table`.

    Raises:
        ValueError: an unknown name, or values of another shape.
    """
    if isinstance(init, str):
        _fill_by_name(weights, init, seed)
        return
    values = np.asarray(init(weights.shape) if callable(init) else init)
    if values.shape != weights.shape:
        raise ValueError(f"init has shape {values.shape}; the table needs {weights.shape}")
    weights[:] = values


def _fill_by_name(weights: NDArray[np.float32], name: str, seed: int | None) -> None:
    rng = np.random.default_rng(seed)
    for start in range(0, len(weights), _ROWS_AT_ONCE):
        part = weights[start : start + _ROWS_AT_ONCE]
        if name == "uniform":
            rng.random(dtype=np.float32, out=part)
            part -= np.float32(0.5)
            part *= np.float32(0.1)
        elif name == "normal":
            rng.standard_normal(dtype=np.float32, out=part)
            part *= np.float32(0.05)
        elif name != "zeros":
            raise ValueError(f"init={name!r} is not 'uniform', 'normal' or 'zeros'")
