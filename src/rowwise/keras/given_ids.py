"""Ids as Keras hands them on, and what to do where it has made floats of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise._ids import as_ids, checked


@contextmanager
def declare_integers() -> Iterator[None]:
    """Errors of ids that are not whole say how a model keeps them integers."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"{error}. On their way through other layers Keras casts ids to the dtype of the "
            "model's input; declare it: keras.Input(shape, dtype='int64')"
        ) from None


def given_ids(ids: Any) -> NDArray[np.int64]:
    """`rowwise._ids.as_ids`, with that advice.

    Raises:
        IndexError, TypeError, ValueError: see there.
    """
    with declare_integers():
        return as_ids(ids)


def ids_in_range(ids: Any, rows: int) -> NDArray[np.int64]:
    """ids (...,) int64, all of them below `rows`.

    Raises:
        IndexError: an id that is no row.
        TypeError, ValueError: see `rowwise._ids.as_ids`.
    """
    with declare_integers():
        return checked(ids, rows)
