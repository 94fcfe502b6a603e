"""What the page asks: where rows lie, what is near, which words hold some letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise._neighbors import nearest
from rowwise.inspect._projection import Projection
from rowwise.inspect._summary import shown
from rowwise.inspect.view._search import Search


@dataclass(frozen=True)
class Moment:
    """Rows as they were once: a table, or the same table earlier."""

    name: str
    vectors: NDArray[np.float32]  # (V, D)
    words: Sequence[str | int] | None = None  # V, an id where there is no word; None: all by id
    updates: NDArray[np.uint32] | None = None  # (V,) None: not known


@dataclass(frozen=True)
class Column:
    """A value per row that can colour the picture: numbers, or places in `labels`."""

    name: str
    values: NDArray[np.float32]  # (V,) NaN where there is none
    labels: list[str] | None = None
    log: bool = False


class Explorer:
    """Rows of one table, at one moment or several.

    The last moment counts: its rows are those that are shown, its principal components are the
    plane they are shown in, and the other moments are put beside it, word by word, or number by
    number where one of the two has no words.

    Args:
        moments: in the order of the slider; vectors all of length D.
        columns: values by word, for colours and export; those that are all numbers are a scale.
        align: turn each other moment so that its rows lie upon the last one's as nearly as can be,
            which tables of different trainings need (orthogonal Procrustes: Schoenemann, 1966).

    Raises:
        ValueError: moments that cannot be put beside each other.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], np.float32)
        >>> explorer = Explorer([Moment("now", rows, ["tea", "pot", "sky"])])
        >>> explorer.search("t").tolist(), explorer.near([0], k=1)[0].tolist()
        ([0, 1], [1])
    """

    def __init__(
        self,
        moments: Sequence[Moment],
        columns: Mapping[str, Mapping[str, str]] | None = None,
        align: bool = False,
    ) -> None:
        if not moments or not len(moments[-1].vectors):
            raise ValueError("there are no rows to show")
        for moment in moments:
            if moment.words is not None and len(moment.words) != len(moment.vectors):
                raise ValueError(
                    f"{moment.name!r} has {len(moment.words)} words for {len(moment.vectors)} rows"
                )
        last = moments[-1]
        self.names = [moment.name for moment in moments]
        self.words = _shown_names(last)
        self.untrained = (
            np.zeros(len(self.words), bool) if last.updates is None else last.updates == 0
        )
        self.vectors = [_beside(moment, last) for moment in moments[:-1]] + [last.vectors]
        if align:
            self.vectors = [_turned(v, last.vectors) for v in self.vectors[:-1]] + [last.vectors]
        trained = last.vectors[~self.untrained]
        self.projection = Projection.of(trained if len(trained) > 1 else last.vectors, 2)
        self.columns = self._columns(last, columns or {})
        self._search = Search(self.words)

    def places(self, moment: int) -> NDArray[np.float32]:
        """Where rows lie in the plane: (V, 2), NaN for rows that this moment does not have."""
        places = self.projection(self.vectors[moment])
        return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))

    def search(self, text: str, k: int = 50) -> NDArray[np.int64]:
        """Ids of at most k words that hold the text in any case; first those that begin so."""
        return self._search(text, k)

    def rows_of(self, words: Sequence[str]) -> tuple[list[int], list[str]]:
        """Ids of words, and the words that have none."""
        rows = {word: self._search.row_of(word) for word in words}
        missing = [word for word, row in rows.items() if row is None]
        return [row for row in rows.values() if row is not None], missing

    def near(
        self, rows: Sequence[int], k: int = 20, moment: int = -1
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids and cosines of the k rows nearest to the mean of rows, which are left out."""
        vectors = self.vectors[moment]
        mean = vectors[list(rows)].astype(np.float64).mean(axis=0)
        absent = np.flatnonzero(np.isnan(vectors[:, 0]))
        if np.isnan(mean[0]):
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        return nearest(vectors, mean, k, without=[*rows, *absent.tolist()])

    def _columns(self, last: Moment, more: Mapping[str, Mapping[str, str]]) -> list[Column]:
        columns = [
            _column(name, [values.get(word) for word in self.words])
            for name, values in more.items()
        ]
        if last.updates is not None:
            columns.append(Column("updates", last.updates.astype(np.float32), log=True))
        columns.append(Column("norm", np.linalg.norm(last.vectors, axis=1)))
        if len(self.vectors) > 1:
            moved = np.linalg.norm(last.vectors - self.vectors[0], axis=1)
            columns.append(Column(f"moved since {self.names[0]}", moved))
        return columns


def _shown_names(moment: Moment) -> list[str]:
    names = range(len(moment.vectors)) if moment.words is None else moment.words
    return [shown(name) for name in names]


def _beside(other: Moment, last: Moment) -> NDArray[np.float32]:
    """The other's rows in the order of the last one's; NaN for those it does not have."""
    if other.vectors.shape[1] != last.vectors.shape[1]:
        raise ValueError(
            f"{other.name!r} has vectors of {other.vectors.shape[1]} numbers and {last.name!r} of "
            f"{last.vectors.shape[1]}; only tables of one length can be put beside each other"
        )
    if other.words is None or last.words is None:
        if len(other.vectors) != len(last.vectors):
            raise ValueError(
                f"{other.name!r} has {len(other.vectors)} rows and {last.name!r} "
                f"{len(last.vectors)}; without words in both, rows go by number"
            )
        return other.vectors
    row_of = {word: row for row, word in enumerate(other.words)}
    rows = np.array([row_of.get(word, -1) for word in last.words])
    if (rows < 0).all():
        raise ValueError(f"{other.name!r} and {last.name!r} have no word in common")
    beside = other.vectors[rows]  # a copy
    beside[rows < 0] = np.nan
    return beside


def _turned(vectors: NDArray[np.float32], upon: NDArray[np.float32]) -> NDArray[np.float32]:
    both = ~np.isnan(vectors[:, 0])
    left, _, right = np.linalg.svd(vectors[both].astype(np.float64).T @ upon[both])
    return (vectors @ (left @ right)).astype(np.float32)


def _column(name: str, cells: Sequence[str | None]) -> Column:
    """Numbers if every cell is one, else labels, the most frequent first."""
    filled = [cell for cell in cells if cell]
    numbers: dict[str, float] = {}
    try:
        numbers = {cell: float(cell) for cell in filled}
    except ValueError:
        found, counts = np.unique(np.array(filled, dtype=object), return_counts=True)
        labels = [str(found[i]) for i in np.argsort(-counts, kind="stable")]
        numbers = {label: place for place, label in enumerate(labels)}
        values: Any = [numbers.get(cell or "", np.nan) for cell in cells]
        return Column(name, np.array(values, np.float32), labels)
    values = [numbers[cell] if cell else np.nan for cell in cells]
    return Column(name, np.array(values, np.float32))
