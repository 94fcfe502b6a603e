"""What the report says of each row, in arrays as long as the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.inspect._projection import Projection
from rowwise.inspect._summary import names_of, shown
from rowwise.table import Table

DRAWN = 8_000  # points that a picture still shows apart
DRAWN_IN_SPACE = 3_000  # points that a browser still turns


@dataclass(frozen=True)
class Rows:
    """The rows of a table, V of them."""

    vectors: NDArray[np.float32]  # (V, D)
    names: list[str]
    updates: NDArray[np.uint32]  # (V,)
    norms: NDArray[np.float32]  # (V,)
    moved: NDArray[np.float32] | None  # (V,) distance from where they started
    leaning: list[str] | None  # the label that each row speaks for

    @classmethod
    def of(cls, table: Table, start: NDArray[Any] | None, leaning: Sequence[str] | None) -> Rows:
        """Reads them.

        Raises:
            ValueError: start or leaning is not as long as the table.
        """
        if start is not None and np.shape(start) != table.shape:
            raise ValueError(f"start has shape {np.shape(start)}; the table has {table.shape}")
        if leaning is not None and len(leaning) != table.rows:
            raise ValueError(f"leaning has {len(leaning)} labels for {table.rows} rows")
        vectors = table.to_numpy()
        return cls(
            vectors=vectors,
            names=[shown(name) for name in names_of(table, np.arange(table.rows))],
            updates=table.update_counts,
            norms=np.linalg.norm(vectors, axis=1),
            moved=None if start is None else np.linalg.norm(vectors - start, axis=1),
            leaning=None if leaning is None else list(leaning),
        )

    @property
    def trained(self) -> NDArray[np.bool_]:
        """(V,) whether an update touched the row."""
        return self.updates > 0

    def projection(self) -> Projection:
        """Of the rows that were trained: the noise that the others started with says nothing."""
        of = self.vectors[self.trained] if self.trained.sum() > 1 else self.vectors
        return Projection.of(of, 3)

    def drawn(self, most: int = DRAWN) -> NDArray[np.int64]:
        """Rows to draw: all, or those trained most and an even choice of those never trained."""
        if len(self.names) <= most:
            return np.arange(len(self.names))
        order = np.argsort(-self.updates.astype(np.int64), kind="stable")[: self.trained.sum()]
        never = np.flatnonzero(~self.trained)
        never = never[:: len(never) // (most // 4) + 1]
        return np.sort(np.concatenate([order[: most - len(never)], never]))
