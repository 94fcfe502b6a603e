"""Facts of each row, in arrays as long as the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.inspect._projection import Projection
from rowwise.inspect._summary import display_name, names_of, padding_row
from rowwise.table import Table

DRAWN = 8_000  # points that a picture still shows apart
DRAWN_IN_SPACE = 3_000  # points that a browser still turns


@dataclass(frozen=True)
class Rows:
    """The rows of a table, V of them; that of padding, which stands for no word, is left out.

    Attributes:
        vectors: (V, D).
        names: V names.
        updates: (V,).
        trained: (V,) whether the row was updated, or given a value by other means.
        norms: (V,).
        moved: (V,) distance of each row from its start, if that is known.
        row_labels: V labels, if there are any.
    """

    vectors: NDArray[np.float32]
    names: list[str]
    updates: NDArray[np.uint32]
    trained: NDArray[np.bool_]
    norms: NDArray[np.float32]
    moved: NDArray[np.float32] | None
    row_labels: list[str] | None

    @classmethod
    def of(cls, table: Table, start: NDArray[Any] | None, row_labels: Sequence[str] | None) -> Rows:
        """Return the facts of a table's rows.

        Raises:
            ValueError: start or row_labels is not as long as the table.
        """
        if start is not None and np.shape(start) != table.shape:
            raise ValueError(f"start has shape {np.shape(start)}; the table has {table.shape}")
        if row_labels is not None and len(row_labels) != table.rows:
            raise ValueError(f"row_labels has {len(row_labels)} labels for {table.rows} rows")
        ids = np.arange(table.rows)
        ids = ids[ids != padding_row(table)]
        vectors = table.lookup(ids)
        return cls(
            vectors=vectors,
            names=[display_name(name) for name in names_of(table, ids)],
            updates=table.update_counts[ids],
            trained=table.is_trained(ids),
            norms=np.linalg.norm(vectors, axis=1),
            moved=None if start is None else np.linalg.norm(vectors - start[ids], axis=1),
            row_labels=None if row_labels is None else [row_labels[row] for row in ids],
        )

    def projection(self) -> Projection:
        """Return the projection of the trained rows; the others hold random starts."""
        of = self.vectors[self.trained] if self.trained.sum() > 1 else self.vectors
        return Projection.of(of, 3)

    def drawn(self, most: int = DRAWN) -> NDArray[np.int64]:
        """Return the rows to draw: all, or those with the most updates and some untrained ones."""
        if len(self.names) <= most:
            return np.arange(len(self.names))
        order = np.argsort(-self.updates.astype(np.int64), kind="stable")[: self.trained.sum()]
        never = np.flatnonzero(~self.trained)
        never = never[:: len(never) // (most // 4) + 1]
        return np.sort(np.concatenate([order[: most - len(never)], never]))
