"""Nearest rows by cosine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def nearest(
    vectors: NDArray[Any], row: int, k: int = 5
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k rows whose direction is nearest to that of row `row`, itself left out.

    Args:
        vectors: (V, D).
        row: id of the row, 0..V-1.
        k: how many; fewer are given where there are fewer other rows.

    Returns:
        ids (k,) and cosines (k,), the nearest first, equals by id. A row of zeros has cosine 0
        with every other.

    Raises:
        IndexError: row is outside 0..V-1.
        ValueError: k is below 0.

    Example:
        >>> nearest(np.array([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]]), 0, k=1)[0]
        array([1])
    """
    rows = len(vectors)
    if not 0 <= row < rows:
        raise IndexError(f"row {row} is outside the {rows} vectors (0..{rows - 1})")
    if k < 0:
        raise ValueError(f"k={k} is below 0")
    vectors = np.asarray(vectors)
    # Summed in float64 without a copy of the table: squares of float32 overflow and vanish.
    norms = np.sqrt(np.einsum("vd,vd->v", vectors, vectors, dtype=np.float64))
    products = np.einsum("vd,d->v", vectors, vectors[row], dtype=np.float64)
    norms[norms == 0] = 1
    cosines = (products / norms / norms[row]).astype(np.float32)
    cosines[row] = -np.inf
    ids = np.argsort(-cosines, kind="stable")[: min(k, rows - 1)]
    return ids, cosines[ids]
