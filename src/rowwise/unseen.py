"""What rows give that training never saw."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rowwise.table import Table

Unseen = Literal["as-is", "zero", "mean", "error"]

# In a row's state, as its last update: none, but what it holds came from elsewhere.
KNOWN = -1

# The means of known rows, and after how many steps they were computed.
_means: weakref.WeakKeyDictionary[Table, tuple[Any, NDArray[np.float32]]] = (
    weakref.WeakKeyDictionary()
)


class UnseenError(LookupError):
    """A row was asked for that was never trained."""


def check_unseen(unseen: Any) -> None:
    """Refuses anything but an `Unseen`.

    Raises:
        ValueError: with those there are.
    """
    if unseen not in get_args(Unseen):
        raise ValueError(
            f"unseen={unseen!r} is not one of {', '.join(map(repr, get_args(Unseen)))}"
        )


def settle(
    table: Table, ids: NDArray[np.int64], vectors: NDArray[np.float32], unseen: Unseen
) -> None:
    """Overwrites the vectors (..., dim) of those ids (...,) whose rows are not known.

    Raises:
        UnseenError, ValueError: see `Table.lookup`.
    """
    new, stand_in = what_stands_in(table, ids, unseen)
    if stand_in is not None:
        vectors[new] = stand_in


def what_stands_in(
    table: Table, ids: NDArray[np.int64], unseen: Unseen
) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
    """Which of the ids (...,) have rows that are not known, and the vector (dim,) instead of
    theirs; None where there is none to replace.

    Raises:
        UnseenError, ValueError: see `Table.lookup`.
    """
    check_unseen(unseen)
    new = ~table.known(ids)
    if unseen == "as-is" or not new.any():
        return new, None
    if unseen == "error":
        position = tuple(int(i) for i in np.argwhere(new)[0])
        raise UnseenError(
            f"row {int(ids[position])}, asked for at position {position}, was never trained; "
            "unseen='as-is', 'zero' or 'mean' gives something for it, and mark_known says that "
            "it was given a value by other means"
        )
    return new, np.zeros(table.dim, np.float32) if unseen == "zero" else mean_of_known(table)


def what_stands_in_for_all(
    table: Table, unseen: Unseen
) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
    """`what_stands_in` for all rows (V,), to go into a graph that has no table.

    Raises:
        ValueError: `unseen="error"`; no row is known, whose mean is asked for.
    """
    if unseen == "error":
        raise ValueError(
            "unseen='error' cannot be recorded: a graph raises no such error; export a layer with "
            "unseen='as-is', 'zero' or 'mean'"
        )
    return what_stands_in(table, np.arange(table.rows), unseen)


def mean_of_known(table: Table) -> NDArray[np.float32]:
    """(dim,) the mean of the rows that are known; a pass over the table after each update.

    Raises:
        ValueError: no row is known.
    """
    known = table.known()
    count = int(known.sum())
    if not count:
        raise ValueError(
            "unseen='mean' needs rows that are known, and none of this table was trained; "
            "mark_known says that rows were given values by other means"
        )
    state = table.steps, table.rows, count
    cached = _means.get(table)
    if cached is None or cached[0] != state:
        total, at_once = np.zeros(table.dim), max(1, (1 << 22) // table.dim)
        ids = np.flatnonzero(known)
        for start in range(0, count, at_once):
            total += table.lookup(ids[start : start + at_once]).sum(axis=0, dtype=np.float64)
        cached = state, (total / count).astype(np.float32)
        _means[table] = cached
    return cached[1]


def forget_mean(table: Table) -> None:
    """Says that rows were written otherwise than by an update."""
    _means.pop(table, None)
