"""Coordinates, neighbours and search for the page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rowwise._neighbors import nearest
from rowwise.inspect._layout import Layout
from rowwise.inspect._projection import Projection
from rowwise.inspect._summary import display_name
from rowwise.inspect.view._search import Search

_MUCH_CLOSER = 10  # times
_FEW = 8  # as many as there are colours
_WHOLE = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Snapshot:
    """The rows of a table at one time.

    Attributes:
        name: shown beside the slider.
        vectors: (V, D).
        words: V words, an id where there is no word; None: all by id.
        updates: (V,) update counts; None: not known.
        trained: (V,) whether each row is trained; unless given, whether it has updates.
    """

    name: str
    vectors: NDArray[np.float32]
    words: Sequence[str | int] | None = None
    updates: NDArray[np.uint32] | None = None
    trained: NDArray[np.bool_] | None = None

    @property
    def untrained(self) -> NDArray[np.bool_]:
        """Return which rows (V,) hold what they started with."""
        if self.trained is not None:
            return ~self.trained
        return np.zeros(len(self.vectors), bool) if self.updates is None else self.updates == 0


@dataclass(frozen=True)
class Column:
    """A value per row that can colour the picture.

    Attributes:
        values: (V,) numbers, or indices into `labels`; NaN where there is none.
        log: whether the scale is logarithmic.
    """

    name: str
    values: NDArray[np.float32]
    labels: list[str] | None = None
    log: bool = False

    def cell(self, row: int) -> str:
        """Return the value of a row as text, "" where there is none."""
        value = self.values[row]
        if np.isnan(value):
            return ""
        return f"{value:g}" if self.labels is None else self.labels[int(value)]


class Explorer:
    """Rows of one table, in one snapshot or several.

    The rows of the last snapshot are shown, in the plane of its first two principal components.
    The rows of the other snapshots are matched to them by word, or by number where one of the two
    has no words.

    Args:
        snapshots: in the order of the slider; all vectors have length D.
        columns: values by word, for colours and export; a column of numbers is a scale.
        layout: places of the last snapshot's rows, in place of that plane; for one snapshot alone.
        align: rotate each other snapshot onto the last one, as near as can be, which tables of
            different trainings need (orthogonal Procrustes: Schoenemann, 1966).

    Raises:
        ValueError: snapshots of different lengths, or without a common row; several, and a layout.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], np.float32)
        >>> explorer = Explorer([Snapshot("now", rows, ["tea", "pot", "sky"])])
        >>> explorer.search("t").tolist(), explorer.near([0], k=1)[0].tolist()
        ([0, 1], [1])
    """

    def __init__(
        self,
        snapshots: Sequence[Snapshot],
        columns: Mapping[str, Mapping[str, str]] | None = None,
        align: bool = False,
        layout: Layout | None = None,
    ) -> None:
        if not snapshots or not len(snapshots[-1].vectors):
            raise ValueError("there are no rows to show")
        for snapshot in snapshots:
            if snapshot.words is not None and len(snapshot.words) != len(snapshot.vectors):
                raise ValueError(
                    f"{snapshot.name!r} has {len(snapshot.words)} words for "
                    f"{len(snapshot.vectors)} rows"
                )
        if layout is not None and len(snapshots) > 1:
            raise ValueError(f"{layout.name} has places for one snapshot, not for {len(snapshots)}")
        last, self.layout = snapshots[-1], layout
        self.names = [snapshot.name for snapshot in snapshots]
        self.words = _display_names(last)
        self.untrained = last.untrained
        self.vectors = [_matched(snapshot, last) for snapshot in snapshots[:-1]] + [last.vectors]
        if align:
            self.vectors = [_rotated(v, last.vectors) for v in self.vectors[:-1]] + [last.vectors]
        trained = last.vectors[~self.untrained]
        self.projection = Projection.of(trained if len(trained) > 1 else last.vectors, 2)
        self.enlarged = [_enlargement(vectors, last.vectors) for vectors in self.vectors]
        self.columns = self._columns(last, columns or {})
        self._search = Search(self.words)

    def coordinates(self, snapshot: int) -> NDArray[np.float32]:
        """Return the coordinates (V, 2) of rows in the plane; NaN for rows this snapshot lacks.

        A snapshot whose rows lie much closer together than the last one's, as those of a training's
        start do, is enlarged about its mean, `enlarged` times.
        """
        if self.layout is not None:
            return self.layout.coordinates
        coordinates = self.projection(self.vectors[snapshot])
        if (factor := self.enlarged[snapshot]) != 1:
            mean = np.nanmean(coordinates, axis=0)
            coordinates = (mean + (coordinates - mean) * factor).astype(np.float32)
        return np.pad(coordinates, ((0, 0), (0, 2 - coordinates.shape[1])))

    def search(self, text: str, k: int = 50) -> NDArray[np.int64]:
        """Return ids of at most k words that hold the text in any case, see `Search`."""
        return self._search(text, k)

    def rows_of(self, words: Sequence[str]) -> tuple[list[int], list[str]]:
        """Return the ids of words, and the words that have none."""
        rows = {word: self._search.row_of(word) for word in words}
        missing = [word for word, row in rows.items() if row is None]
        return [row for row in rows.values() if row is not None], missing

    def near(
        self, rows: Sequence[int], k: int = 20, snapshot: int = -1
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return ids and cosines of the k rows nearest to the mean of rows, which are left out."""
        vectors = self.vectors[snapshot]
        mean = vectors[list(rows)].astype(np.float64).mean(axis=0)
        absent = np.flatnonzero(np.isnan(vectors[:, 0]))
        if np.isnan(mean[0]):
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        return nearest(vectors, mean, k, without=[*rows, *absent.tolist()])

    def _columns(self, last: Snapshot, more: Mapping[str, Mapping[str, str]]) -> list[Column]:
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


def _display_names(snapshot: Snapshot) -> list[str]:
    names = range(len(snapshot.vectors)) if snapshot.words is None else snapshot.words
    return [display_name(name) for name in names]


def _matched(other: Snapshot, last: Snapshot) -> NDArray[np.float32]:
    """Return the other's rows in the order of the last one's; NaN for those it lacks."""
    if other.vectors.shape[1] != last.vectors.shape[1]:
        raise ValueError(
            f"{other.name!r} has vectors of {other.vectors.shape[1]} numbers and {last.name!r} of "
            f"{last.vectors.shape[1]}; only vectors of one length can be shown together"
        )
    if other.words is None or last.words is None:
        if len(other.vectors) != len(last.vectors):
            raise ValueError(
                f"{other.name!r} has {len(other.vectors)} rows and {last.name!r} "
                f"{len(last.vectors)}; without words in both, rows are matched by number"
            )
        return other.vectors
    row_of = {word: row for row, word in enumerate(other.words)}
    rows = np.array([row_of.get(word, -1) for word in last.words])
    if (rows < 0).all():
        raise ValueError(f"{other.name!r} and {last.name!r} have no word in common")
    matched = other.vectors[rows]  # a copy
    matched[rows < 0] = np.nan
    return matched


def _enlargement(vectors: NDArray[np.float32], last: NDArray[np.float32]) -> float:
    """Return how many times a snapshot is enlarged: 1 where its rows are as far apart as others."""
    spread = [
        float(np.sqrt(np.nanvar(each, axis=0, dtype=np.float64).sum())) for each in (vectors, last)
    ]
    ratio = spread[1] / spread[0] if spread[0] > 0 else 1.0
    return round(ratio) if ratio > _MUCH_CLOSER else 1


def _rotated(vectors: NDArray[np.float32], upon: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rotate vectors so that they lie as near as can be to `upon`."""
    both = ~np.isnan(vectors[:, 0])
    left, _, right = np.linalg.svd(vectors[both].astype(np.float64).T @ upon[both])
    return (vectors @ (left @ right)).astype(np.float32)


def _column(name: str, cells: Sequence[str | None]) -> Column:
    """Return a column of numbers if every cell is one, else of labels, the most frequent first.

    A few whole numbers, such as stars, are labels in their order.
    """
    counts = Counter(cell for cell in cells if cell)
    labels: list[str] | None = sorted(counts, key=lambda cell: (-counts[cell], cell))
    try:
        numbers = {cell: float(cell) for cell in counts}
        few = len(numbers) <= _FEW and all(map(_WHOLE.fullmatch, numbers))
        labels = sorted(numbers, key=numbers.__getitem__) if few else None
    except ValueError:  # not all are numbers
        pass
    if labels is not None:
        numbers = {label: index for index, label in enumerate(labels)}
    values = [numbers.get(cell or "", np.nan) for cell in cells]
    return Column(name, np.array(values, np.float32), labels)
