"""Numbers that callers give, checked before anything changes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native


def positive(argument: str, value: Any) -> int:
    """Return an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{argument} must be an integer, not {value!r}")
    if value < 1:
        raise ValueError(f"{argument}={value} must be at least 1")
    return int(value)


def check_learning_rate(value: Any) -> float:
    """Return a learning rate: finite and at least 0."""
    if isinstance(value, bool | str | bytes):
        raise TypeError(f"learning_rate must be a number, not {value!r}")
    rate = float(value)
    if not math.isfinite(rate) or rate < 0:
        raise ValueError(f"learning_rate={rate} must be finite and at least 0")
    return rate


def check_iteration(value: Any) -> int:
    """Return a step's number: an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"iteration must be an integer, not {value!r}")
    if value < 1:
        raise ValueError(f"iteration={value} must be at least 1: steps are counted from 1")
    return int(value)


def check_rounding(rounding: Any) -> None:
    """Refuse what is no name of a rounding, nor None."""
    if rounding not in (None, "nearest", "stochastic"):
        raise ValueError(f"rounding={rounding!r} is not 'nearest', 'stochastic' or None")


def check_has_memory(scratch: Any, memory: Any) -> None:
    """Refuse a layer's folder for rows on a disk without memory for some of them."""
    if scratch is not None and memory is None:
        raise ValueError("scratch= needs memory=, bytes for the rows used lately, such as '8GiB'")


def check_finite(gradients: NDArray[np.float32]) -> None:
    """Refuse gradients with NaN or infinity, and name the first."""
    bad = _native.first_nonfinite(gradients)
    if bad >= 0:
        position = tuple(int(i) for i in np.unravel_index(bad, gradients.shape))
        raise ValueError(
            f"gradient {gradients[position]} at position {position} is not finite; "
            "nothing was updated"
        )
