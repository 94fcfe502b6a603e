"""Rows of a layer's variables: a table's by its lookup, others by Keras's, ids checked alike."""

from __future__ import annotations

from typing import Any

import keras
import torch

from rowwise._untrained import Untrained
from rowwise.keras.given_ids import declare_integers
from rowwise.keras.keeping import steps_by_rows
from rowwise.keras.scopes import cast_as_read, only_shapes_count, uncast_value
from rowwise.keras.torch.variable import TableVariable
from rowwise.torch._lookup import check_range, lookup, whole_ids
from rowwise.torch._lookup import with_untrained_filled as settled_rows
from rowwise.torch._pooled import pool

__all__ = [
    "compiles",
    "ids_of",
    "pooled",
    "random_state",
    "rows_of",
    "set_random_state",
    "with_untrained_filled",
]

compiles = False  # torch.compile would have to break the graph at every lookup


def ids_of(inputs: Any) -> Any:
    """What a layer was called with, as ids (...,) int64.

    Raises:
        TypeError, ValueError: as `rowwise._ids.as_ids`.
    """
    ids = keras.ops.convert_to_tensor(inputs)
    if only_shapes_count():
        return keras.ops.zeros(ids.shape, dtype="int64")
    with declare_integers():
        return whole_ids(ids)


def rows_of(variable: Any, ids: Any) -> Any:
    """Rows ids (...,) of a variable (V, ...), in the dtype in which Keras would read it here.

    Differentiable; the gradient of a table's rows is row-sparse where its optimizer takes that.

    Raises:
        IndexError: an id outside 0..V-1.
    """
    value = uncast_value(variable)
    frozen = getattr(variable, "frozen_row", None)
    # In a stateless call the values are the caller's.
    if isinstance(variable, TableVariable) and value is variable._value:
        rows = lookup(value, ids, steps_by_rows(variable), frozen)
    else:
        check_range(ids, value.shape[0])
        rows = keras.ops.take(value, ids, axis=0)
        if frozen is not None:
            rows = torch.where((ids == frozen)[..., None], rows.detach(), rows)
    return cast_as_read(variable, rows)


def pooled(variable: TableVariable, ids: Any, weights: Any, learned: bool) -> Any:
    """Weighted sums (..., D) of the rows ids (..., length); None: the values are a caller's.

    The weights, None or of the shape of ids, may be `learned`; their gradient is made if asked for.
    """
    value = uncast_value(variable)
    if value is not variable._value:
        return None
    return pool(value, ids, None, weights, steps_by_rows(variable))


def with_untrained_filled(
    variable: TableVariable, ids: Any, vectors: Any, untrained: Untrained
) -> Any:
    """vectors (..., D) of rows ids (...,), with something else for those never trained."""
    return settled_rows(variable.table, ids, vectors, untrained)


def random_state() -> dict[str, Any]:
    """PyTorch's."""
    return {"torch": torch.get_rng_state().numpy()}


def set_random_state(arrays: dict[str, Any]) -> None:
    """Takes what `random_state` gave."""
    torch.set_rng_state(torch.from_numpy(arrays["torch"]))
