"""The norm of numbers that lie on several ranks, exact: the same whatever lies where.

Squares of float32 numbers are exact in integers: m * 2^e squared is m^2 * 2^2e, with m below 2^24.
They are summed by exponent, in two halves of 24 bits, so that neither the order of the numbers nor
the rank that holds them makes a difference. Only the last step, the root, rounds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Binary exponents of float32, as `frexp` gives them: of the smallest subnormal number to the
# largest one.
_LOWEST, _HIGHEST = -148, 128
_EXPONENTS = _HIGHEST - _LOWEST + 1
_MANTISSA = 24
_HALF = (1 << _MANTISSA) - 1
_AT_ONCE = 1 << 18  # numbers; their halves stay exact in float64 sums, and in the cache

WORDS = 2 * _EXPONENTS + 2  # of a sum of squares: low halves, high halves, infinities, NaNs

Sums = NDArray[np.int64]


def sum_of_squares(values: NDArray[Any]) -> Sums:
    """Return the exact sum of the squares of float32 values, as (WORDS,) integers.

    The sums of several arrays, or ranks, are added up as integers.
    """
    sums = np.zeros(WORDS, np.int64)
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    for start in range(0, flat.size, _AT_ONCE):
        _add_squares(flat[start : start + _AT_ONCE], sums)
    return sums


def _add_squares(values: NDArray[np.float32], sums: Sums) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        sums[-1] += np.isnan(values).sum()
        sums[-2] += np.isinf(values).sum()
        values = values[finite]
    fractions, exponents = np.frexp(values)
    mantissas = np.ldexp(fractions, _MANTISSA).astype(np.int64)
    squares = mantissas * mantissas
    of = exponents - _LOWEST
    for half, numbers in enumerate((squares & _HALF, squares >> _MANTISSA)):
        added = np.bincount(of, numbers, _EXPONENTS).astype(np.int64)
        sums[half * _EXPONENTS : (half + 1) * _EXPONENTS] += added


def root(sums: Sums) -> float:
    """Return the norm whose sum of squares this is, rounded once.

    Example:
        >>> root(sum_of_squares(np.array([3, 4e-30, -4])) + sum_of_squares(np.array([12.0])))
        13.0
    """
    if sums[-1]:
        return math.nan
    if sums[-2]:
        return math.inf
    lows, highs = sums[:_EXPONENTS].tolist(), sums[_EXPONENTS:-2].tolist()
    total = 0  # in units of 2^unit
    unit = 2 * (_LOWEST - _MANTISSA)
    for place, (low, high) in enumerate(zip(lows, highs, strict=True)):
        total += (low + (high << _MANTISSA)) << (2 * place)
    if not total:
        return 0.0
    # 64 bits of root and one that says whether anything is left: enough to round once.
    spare = max(0, 130 - total.bit_length() + total.bit_length() % 2)
    whole = math.isqrt(total << spare)
    whole = 2 * whole + (whole * whole != total << spare)
    return whole / (1 << (1 - (unit - spare) // 2))  # Python rounds a quotient of integers once
