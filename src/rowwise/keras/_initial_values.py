"""Starting values of a layer's rows: Keras's own numbers, drawn a block of rows at a time.

An initializer of Keras draws a whole array, and some take several of that size to make it. Each
backend can draw the same numbers from any row on, so that a table needs no memory but its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from keras import initializers
from keras.src.initializers.random_initializers import VarianceScaling, compute_fans
from numpy.typing import NDArray

_BLOCK = 1 << 18  # numbers drawn at once
# Each backend draws normal numbers 4 or 16 at a time: a block begins at a multiple of that.
_ROWS = 16


# What `rowwise.Table` calls a distribution.
_NAMES = {
    ("uniform", -0.05, 0.05): "uniform",
    ("normal", 0.0, 0.05): "normal",
    ("normal", 0.0, 1.0): "unit-normal",
    ("constant", 0.0, 0.0): "zeros",
}


@dataclass(frozen=True)
class Draw:
    """A distribution as `keras.random` has it: its function, and the two arguments of that.

    Attributes:
        distribution: the function's name, or "constant", which is `a`.
        a, b: minval and maxval, or mean and stddev.
        seed: an integer, or a `SeedGenerator`.
    """

    distribution: Literal["uniform", "normal", "truncated_normal", "constant"]
    a: float
    b: float = 0.0
    seed: Any = None

    @property
    def table_init(self) -> str | None:
        """The name that `rowwise.Table` has for such a start, or None."""
        return _NAMES.get((self.distribution, self.a, self.b))


class Sampler(Protocol):
    """Draws numbers of one array in order, a block at a time."""

    def __call__(self, first: int, shape: tuple[int, int]) -> NDArray[Any]:
        """Return numbers first, first + 1... of the flat array, in a shape."""


def draw_of(initializer: Any, shape: tuple[int, int]) -> Draw | None:
    """Return what an initializer of Keras draws for an array (rows, dim); None: not known."""
    made_by = getattr(type(initializer), "__call__", None)  # noqa: B004 - not whether it has one
    if made_by is initializers.Zeros.__call__:
        return Draw("constant", 0.0)
    if made_by is initializers.Ones.__call__:
        return Draw("constant", 1.0)
    if made_by is initializers.Constant.__call__:
        value = initializer.value
        return Draw("constant", value) if isinstance(value, int | float) else None
    if made_by is initializers.RandomUniform.__call__:
        return Draw("uniform", initializer.minval, initializer.maxval, initializer.seed)
    if made_by is initializers.RandomNormal.__call__:
        return Draw("normal", initializer.mean, initializer.stddev, initializer.seed)
    if made_by is initializers.TruncatedNormal.__call__:
        return Draw("truncated_normal", initializer.mean, initializer.stddev, initializer.seed)
    if made_by is VarianceScaling.__call__:
        return _scaled(initializer, shape)
    return None


def _scaled(initializer: Any, shape: tuple[int, int]) -> Draw:
    """Return what `VarianceScaling` and its subclasses (Glorot, He, LeCun) draw."""
    axes = {k: v for k, v in vars(initializer).items() if k in ("input_axes", "output_axes")}
    fan_in, fan_out = compute_fans(shape, **axes)
    fan = {"fan_in": fan_in, "fan_out": fan_out}.get(initializer.mode, (fan_in + fan_out) / 2.0)
    scale = initializer.scale / max(1.0, fan)
    if initializer.distribution == "truncated_normal":
        stddev = math.sqrt(scale) / 0.87962566103423978  # of what the cut leaves
        return Draw("truncated_normal", 0.0, stddev, initializer.seed)
    if initializer.distribution == "untruncated_normal":
        return Draw("normal", 0.0, math.sqrt(scale), initializer.seed)
    limit = math.sqrt(3.0 * scale)
    return Draw("uniform", -limit, limit, initializer.seed)


def constant(value: float) -> Sampler:
    """Return what gives one number everywhere."""
    return lambda first, shape: np.full(shape, value, np.float32)


def blocks(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield (first row, end) of the blocks of an array (rows, dim)."""
    rows, dim = shape
    step = max(_BLOCK // dim // _ROWS, 1) * _ROWS
    first = 0
    while first < rows:
        # A last block of a few rows would be drawn otherwise: it goes with the one before.
        end = rows if rows - first < step + _ROWS else first + step
        yield first, end
        first = end
