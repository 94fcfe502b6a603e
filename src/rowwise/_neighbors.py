"""Nearest rows by cosine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def nearest(
    vectors: NDArray[Any], query: int | NDArray[Any], k: int = 5, without: Any = ()
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the k rows whose direction is nearest to that of another row, or of a vector.

    Args:
        vectors: (V, D).
        query: id of the row, 0..V-1, or a vector (D,).
        k: how many; fewer are given where there are fewer rows.
        without: ids of rows that are left out.

    Returns:
        ids (k,) and cosines (k,), the nearest first, equals by id. A row of zeros has cosine 0
        with every other.

    Raises:
        IndexError: query is an id outside 0..V-1.
        ValueError: k is below 0.

    Example:
        >>> nearest(np.array([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]]), 0, k=1)[0]
        array([1])
    """
    vectors = np.asarray(vectors)
    rows = len(vectors)
    if k < 0:
        raise ValueError(f"k={k} is below 0")
    left_out = list(without)
    if isinstance(query, int | np.integer):
        if not 0 <= query < rows:
            raise IndexError(f"row {query} is outside the {rows} vectors (0..{rows - 1})")
        left_out.append(query)
        query = vectors[query]
    # Summed in float64 without a copy of the table: squares of float32 overflow and vanish.
    norms = np.sqrt(np.einsum("vd,vd->v", vectors, vectors, dtype=np.float64))
    products = np.einsum("vd,d->v", vectors, query, dtype=np.float64)
    norms[norms == 0] = 1
    own = float(np.sqrt(np.einsum("d,d->", query, query, dtype=np.float64))) or 1.0
    cosines = (products / norms / own).astype(np.float32)
    cosines[left_out] = -np.inf
    ids = np.argsort(-cosines, kind="stable")[: min(k, rows - len(set(left_out)))]
    return ids, cosines[ids]
