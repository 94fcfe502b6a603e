"""Cells of columns, whichever library they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def cells(column: Any, name: str) -> Iterable[Any]:
    """Return the cells of a list, an iterable, or a column of NumPy, pandas, polars or pyarrow.

    Args:
        column: one string a cell; the caller checks that they are strings.
        name: the argument's name, for errors.

    Raises:
        TypeError: one string, a mapping, or something with two dimensions, such as a data frame.
    """
    if isinstance(column, str | bytes):
        raise TypeError(f"{name} must be a list of strings, not one string such as {column[:20]!r}")
    shape = getattr(column, "shape", (0,))
    if isinstance(column, Mapping) or len(shape) != 1:
        raise TypeError(
            f"{name} must be one column of strings, not a {type(column).__name__} of "
            f"{f'shape {tuple(shape)}' if len(shape) != 1 else 'columns'}"
        )
    for method in ("to_pylist", "to_list", "tolist"):  # pyarrow; polars and pandas; NumPy
        if hasattr(column, method):
            return getattr(column, method)()
    if not isinstance(column, Iterable):
        raise TypeError(f"{name} must be a list of strings, not {column!r}")
    return column
