"""Values that untrained rows give in a lookup."""

from __future__ import annotations

import weakref
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rowwise.errors import UntrainedError
from rowwise.store import RowStore

Untrained = Literal["as-is", "zeros", "mean", "error"]

# The means of trained rows, and the version of the store for which they were computed.
_means: weakref.WeakKeyDictionary[RowStore, tuple[int, NDArray[np.float32]]] = (
    weakref.WeakKeyDictionary()
)


def check_untrained(untrained: Any) -> None:
    """Refuse anything but an `Untrained`.

    Raises:
        ValueError: with those there are.
    """
    if untrained not in get_args(Untrained):
        raise ValueError(
            f"untrained={untrained!r} is not one of {', '.join(map(repr, get_args(Untrained)))}"
        )


def fill_untrained(
    store: RowStore, ids: NDArray[np.int64], vectors: NDArray[np.float32], untrained: Untrained
) -> None:
    """Overwrite the vectors (..., dim) of those ids (...,) whose rows are not trained.

    Raises:
        UntrainedError, ValueError: see `Table.lookup`.
    """
    mask, default = untrained_mask_and_default(store, ids, untrained)
    if default is not None:
        vectors[mask] = default


def untrained_mask_and_default(
    store: RowStore, ids: NDArray[np.int64], untrained: Untrained
) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
    """Return which of the ids (...,) have untrained rows, and the vector (dim,) to give instead.

    The vector is None where there is nothing to replace.

    Raises:
        UntrainedError, ValueError: see `Table.lookup`.
    """
    check_untrained(untrained)
    mask = ~store.is_trained(ids)
    if untrained == "as-is" or not mask.any():
        return mask, None
    if untrained == "error":
        refuse_untrained(ids, mask)
    dim = store.shape[1]
    return mask, np.zeros(dim, np.float32) if untrained == "zeros" else mean_of_trained(store)


def refuse_untrained(ids: NDArray[np.int64], mask: NDArray[np.bool_]) -> None:
    """Refuse ids (...,) of which the mask says that they have untrained rows.

    Raises:
        UntrainedError: with the first of them.
    """
    if not mask.any():
        return
    position = tuple(int(i) for i in np.argwhere(mask)[0])
    raise UntrainedError(
        f"row {int(ids[position])}, asked for at position {position}, was never trained; "
        "untrained='as-is', 'zeros' or 'mean' gives something for it, and mark_trained says "
        "that it was given a value by other means"
    )


def untrained_mask_and_default_of_all(
    store: RowStore, untrained: Untrained
) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
    """Return `untrained_mask_and_default` of all rows, for a graph that has no table.

    Raises:
        ValueError: untrained="error"; no row is trained, whose mean is asked for.
    """
    if untrained == "error":
        raise ValueError(
            "untrained='error' cannot be recorded: a graph raises no such error; export a layer "
            "with untrained='as-is', 'zeros' or 'mean'"
        )
    return untrained_mask_and_default(store, np.arange(store.shape[0]), untrained)


def mean_of_trained(store: RowStore) -> NDArray[np.float32]:
    """Return the mean (dim,) of the trained rows; a pass over the table after each write.

    Raises:
        ValueError: no row is trained.
    """
    version, cached = store.version, _means.get(store)
    if cached is not None and cached[0] == version:
        return cached[1]
    ids, dim = np.flatnonzero(store.is_trained()), store.shape[1]
    if not ids.size:
        raise ValueError(
            "untrained='mean' needs trained rows, and none of this table was trained; "
            "mark_trained says that rows were given values by other means"
        )
    total, at_once = np.zeros(dim), max(1, (1 << 22) // dim)
    for start in range(0, ids.size, at_once):
        part = ids[start : start + at_once]
        vectors = np.empty((part.size, dim), np.float32)
        store.gather(part, vectors)
        total += vectors.sum(axis=0, dtype=np.float64)
    mean = (total / ids.size).astype(np.float32)
    _means[store] = version, mean
    return mean
