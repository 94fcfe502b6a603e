"""Places in a plane that keep near rows near, where principal components keep distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

Method = Literal["umap", "tsne"]
_NAMES = {"umap": "UMAP", "tsne": "t-SNE"}
_MOST = {"umap": 50_000, "tsne": 5_000}  # rows; t-SNE is the slower one


@dataclass(frozen=True)
class Layout:
    """Places of rows in a plane, computed beforehand.

    Attributes:
        name: "UMAP" or "t-SNE".
        coordinates: (V, 2) float32; NaN for rows that have no place.
    """

    name: str
    coordinates: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        vectors: NDArray[Any],
        method: Method,
        updates: NDArray[Any] | None = None,
        seed: int = 0,
    ) -> Self:
        """Place rows by cosine, with the libraries umap-learn or scikit-learn.

        Args:
            vectors: (V, D).
            method: "umap" (McInnes, Healy and Melville, 2018), for 50,000 rows at most; "tsne" (van
                der Maaten and Hinton, 2008), for 5,000.
            updates: (V,) of more rows those with the most updates have a place; the first unless
                given. Rows of zeros have none.
            seed: equal rows and seeds give equal places.

        Raises:
            ImportError: the library is not installed.
            ValueError: there are fewer than 5 rows to place.
        """
        order = np.arange(len(vectors))
        if updates is not None:
            order = np.argsort(-updates.astype(np.int64), kind="stable")
        order = order[np.any(vectors[order] != 0, axis=1)][: _MOST[method]]
        if len(order) < 5:
            raise ValueError(f"{_NAMES[method]} needs 5 rows or more, and there are {len(order)}")
        rows = np.asarray(vectors[order], np.float32)
        coordinates = np.full((len(vectors), 2), np.nan, np.float32)
        coordinates[order] = (_umap if method == "umap" else _tsne)(rows, seed)
        return cls(_NAMES[method], coordinates)


def _umap(rows: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    try:
        import umap
    except ImportError as error:
        raise ImportError("UMAP needs umap-learn (pip install umap-learn)") from error
    placing = umap.UMAP(
        n_neighbors=min(15, len(rows) - 1),
        metric="cosine",
        init="pca",
        random_state=seed,
        n_jobs=1,  # as it has to be with a seed
    )
    return placing.fit_transform(rows)


def _tsne(rows: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError("t-SNE needs scikit-learn (pip install scikit-learn)") from error
    perplexity = min(30.0, (len(rows) - 1) / 3)
    # Of rows of length 1, Euclid's distances are ordered as the cosines are, and found faster.
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return TSNE(perplexity=perplexity, init="random", random_state=seed).fit_transform(units)
