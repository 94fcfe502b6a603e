"""Ids as users give them, checked and made int64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# From here on a float may stand for several whole numbers: 2^24 + 1 becomes float32's 2^24.
_FIRST_SHARED = {2: 2**11, 4: 2**24, 8: 2**53}


def as_ids(ids: Any) -> NDArray[np.int64]:
    """Make an array of ids, int64 and contiguous, of the given shape.

    Args:
        ids: integers of any shape and integer dtype; floats if every one of them is whole.

    Returns:
        ids, int64.

    Raises:
        TypeError: strings, objects or booleans.
        ValueError: a float that is not whole or not finite, or so large that its dtype cannot
            tell it from its neighbours.
        IndexError: an unsigned id of 2**63 or more.

    Example:
        >>> as_ids([[4.0], [20.0]])
        array([[ 4],
               [20]])
    """
    if isinstance(ids, list | tuple) and not ids:
        return np.empty(0, dtype=np.int64)
    array = np.asarray(ids)
    if array.dtype == np.int64:
        return np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.name == "bfloat16":  # NumPy's own have no such dtype
        if (abs(array.astype(np.float32)) >= 2**8).any():
            raise ValueError("ids of 256 and more collide as bfloat16; give ids as integers")
        array = array.astype(np.float32)
    kind = array.dtype.kind
    if kind == "f":
        _check_whole(array)
    elif kind == "u" and array.size and int(array.max()) >= 2**63:
        raise IndexError(f"id {int(array.max())} is outside every table")
    elif kind in "SU":
        raise TypeError(
            f"ids must be integers, not strings such as {array.flat[0]!r}; "
            "rowwise.Vocabulary turns words into ids"
            if array.size
            else "ids must be integers, not strings; rowwise.Vocabulary turns words into ids"
        )
    elif kind not in "iu":
        raise TypeError(f"ids must be integers, not an array of dtype {array.dtype}")
    return np.ascontiguousarray(array.astype(np.int64)).reshape(array.shape)


def checked(ids: Any, rows: int) -> NDArray[np.int64]:
    """Return ids (...,) as `as_ids` makes them, all of them rows of a table.

    Raises:
        IndexError: an id that is no row.
        TypeError, ValueError: see `as_ids`.
    """
    whole = as_ids(ids)
    check_range(whole, rows)
    return whole


def check_range(ids: NDArray[np.int64], rows: int) -> None:
    """Refuse ids (...,) outside 0..rows-1.

    Raises:
        IndexError: the first such id, with its position.
    """
    bad = (ids < 0) | (ids >= rows)
    if bad.any():
        raise outside(ids, int(bad.argmax()), rows)


def outside(ids: NDArray[np.int64], flat_position: int, rows: int) -> IndexError:
    """Return the error for an id that is not one of the table's rows."""
    position = tuple(int(i) for i in np.unravel_index(flat_position, ids.shape))
    where = f" at position {position if len(position) != 1 else position[0]}" if position else ""
    return IndexError(
        f"id {int(ids.flat[flat_position])}{where} is outside the table's {rows} rows "
        f"(0..{rows - 1}); make the table larger, or map such ids to a row of their own"
    )


def _check_whole(ids: NDArray[np.floating[Any]]) -> None:
    if not ids.size:
        return
    whole = np.isfinite(ids) & (ids == np.trunc(ids))
    if not whole.all():
        raise ValueError(f"id {_first(ids, ~whole)} is not a whole number")
    first_shared = _FIRST_SHARED.get(ids.dtype.itemsize, 2**53)
    shared = np.abs(ids) >= first_shared
    if shared.any():
        raise ValueError(
            f"id {_first(ids, shared)} is not below {first_shared}, from where {ids.dtype} no "
            "longer tells neighbouring ids apart; give ids as integers"
        )


def _first(ids: NDArray[Any], wrong: NDArray[np.bool_]) -> str:
    position = tuple(int(i) for i in np.argwhere(wrong)[0])
    where = f" at position {position if len(position) != 1 else position[0]}" if position else ""
    return f"{ids[position].item()}{where}"
