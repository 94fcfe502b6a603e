"""Starting values of a table's rows."""

from __future__ import annotations

import operator
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native

_BLOCK = 1 << 18  # numbers filled at once before they are stored in fewer bits

Init = str | NDArray[Any] | Callable[[tuple[int, int]], Any]


def fill(weights: NDArray[np.float32], init: Init, seed: int | None) -> None:
    """Fill weights (rows, dim), zeroed before, as `init` says; see `rowwise.Table`.

    Raises:
        ValueError: an unknown name, or values of another shape.
    """
    if isinstance(init, str):
        fill_rows(weights, init, seed, None)
        return
    weights[:] = given_values(init, weights.shape)


def fill_stored(weights: NDArray[Any], dtype: str, init: Init, seed: int | None) -> None:
    """Fill weights (rows, dim) stored as dtype, zeroed before, as `init` says, rounded to nearest.

    Raises:
        ValueError: see `fill`.
    """
    if dtype == "float32":
        fill(weights, init, seed)
        return
    rows, dim = weights.shape
    values = None if isinstance(init, str) else given_values(init, weights.shape)
    seed = checked_seed(seed) if values is None else None
    step = max(1, _BLOCK // dim)
    for first in range(0, rows, step):
        ids = np.arange(first, min(first + step, rows))
        if values is None:
            block = np.zeros((len(ids), dim), np.float32)
            fill_rows(block, str(init), seed, ids)
        else:
            block = np.ascontiguousarray(values[ids], np.float32)
        _native.narrow(block, dtype, weights[ids[0] : ids[-1] + 1].view(np.uint16))


def given_values(init: NDArray[Any] | Callable[..., Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the values (rows, dim) that an array or a function of the shape gives.

    Raises:
        ValueError: values of another shape.
    """
    values = np.asarray(init(shape) if callable(init) else init)
    if values.shape != shape:
        raise ValueError(
            f"init has shape {values.shape}; the table needs {shape}, values for all of its rows"
        )
    return values


def standard_normal(shape: tuple[int, int], seed: int | None) -> NDArray[np.float32]:
    """Return standard normal numbers (rows, dim); a row's depend on the seed and its id alone."""
    values = np.empty(shape, np.float32)
    _native.fill_normal(values, checked_seed(seed), 0.0, 1.0)
    return values


def fill_rows(
    weights: NDArray[np.float32], name: str, seed: int | None, ids: NDArray[np.int64] | None
) -> None:
    """Fill weights (n, dim), zeroed before, with what rows ids (n,) start with; or rows 0..n-1.

    Raises:
        ValueError: an unknown name.
    """
    if name == "uniform":
        _native.fill_uniform(weights, checked_seed(seed), -0.05, 0.05, ids=ids)
    elif name == "normal":
        _native.fill_normal(weights, checked_seed(seed), 0.0, 0.05, ids=ids)
    elif name == "unit-normal":
        _native.fill_normal(weights, checked_seed(seed), 0.0, 1.0, ids=ids)
    elif name != "zeros":
        raise ValueError(f"init={name!r} is not 'uniform', 'normal', 'unit-normal' or 'zeros'")


def checked_seed(seed: int | None) -> int:
    """Return a seed below 2**64: the one given, or one drawn anew.

    Raises:
        ValueError: a seed outside 0..2**64 - 1.
    """
    if seed is None:
        return secrets.randbits(64)
    if not 0 <= operator.index(seed) < 2**64:
        raise ValueError(f"seed={seed} is outside 0..2**64 - 1")
    return operator.index(seed)
