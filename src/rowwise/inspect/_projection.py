"""Principal components of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 1 << 16  # rows


@dataclass(frozen=True)
class Projection:
    """A map of rows of length D to k coordinates.

    Attributes:
        mean: (D,) float64.
        axes: (k, D) float64, each of length 1, at right angles.
        variance_explained: (k,) float64, each axis's share of the whole variance, 0..1.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    variance_explained: NDArray[np.float64]

    @classmethod
    def of(cls, vectors: NDArray[Any], k: int = 2) -> Projection:
        """Return the first k principal components of vectors (V, D); fewer where D is below k.

        The axes are the eigenvectors of the rows' covariance with the largest eigenvalues, each
        with its largest number positive, so that equal rows give an equal picture (Pearson, On
        Lines and Planes of Closest Fit, 1901). Vectors are read in parts; a mapped file may be
        larger than memory.

        Example:
            >>> rows = np.array([[0.0, 1.0], [2.0, 1.1], [4.0, 0.9]])
            >>> line = Projection.of(rows, 1)
            >>> abs(line(rows)).round(1).ravel().tolist(), line.variance_explained.round(3)
            ([2.0, 0.0, 2.0], array([0.998]))
        """
        if not len(vectors):
            raise ValueError("there are no rows to project")
        rows, dim = vectors.shape
        mean = sum(part.sum(axis=0) for part in _parts(vectors)) / rows
        covariance = np.zeros((dim, dim))
        for part in _parts(vectors):
            part -= mean
            covariance += part.T @ part
        shares, directions = np.linalg.eigh(covariance)
        largest = np.argsort(-shares, kind="stable")[:k]
        axes = directions[:, largest].T
        signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
        whole = shares.sum() or 1.0
        return cls(mean, axes * signs[:, None], np.maximum(shares[largest], 0) / whole)

    def __call__(self, vectors: NDArray[Any]) -> NDArray[np.float32]:
        """Return the coordinates (n, k) of vectors (n, D)."""
        parts = [(part - self.mean) @ self.axes.T for part in _parts(vectors)]
        empty = np.zeros((0, len(self.axes)))
        return np.concatenate([empty, *parts]).astype(np.float32)


def _parts(vectors: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(vectors), _AT_ONCE):
        yield vectors[start : start + _AT_ONCE].astype(np.float64)
