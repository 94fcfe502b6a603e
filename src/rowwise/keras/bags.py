"""Bags of ids (..., length), as programs hand them to the host: pooled there, forward and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.keras.given_ids import given_ids, ids_in_range
from rowwise.store import Bags, RowGradient
from rowwise.table import Table

Floats = NDArray[np.float32]


def pool(table: Table, ids: Any, weights: Any = None) -> Floats:
    """The weighted sum (..., D) of each bag's rows.

    Raises:
        IndexError, TypeError, ValueError: as `rowwise.keras.given_ids`, and for an id out of range.
    """
    ids = given_ids(ids)
    bags = ids.shape[:-1]
    pooled = _native.empty(int(np.prod(bags)), table.dim)
    table.store.gather_bags(Bags.of_last_axis(ids, _flat(weights)), pooled)
    return pooled.reshape(*bags, table.dim)


def gradient_of_rows(
    table: Table, ids: Any, gradients: Any, weights: Any = None
) -> tuple[NDArray[np.int64], Floats]:
    """Distinct ids (m,) and their gradients (m, D), from the bags' (..., D).

    Each row's are summed in the order of the batch.
    """
    bags = Bags.of_last_axis(ids_in_range(ids, table.rows), _flat(weights))
    gradient = table.store.bag_gradient(bags, _as_bags(table, gradients))
    summed = table.store.coalesce(gradient)
    return summed.ids, summed.values


def coalesce(table: Table, ids: Any, gradients: Any) -> tuple[NDArray[np.int64], Floats]:
    """Return distinct ids (m,), ascending, and the sums (m, D) of their gradients."""
    summed = table.store.coalesce(RowGradient(ids, gradients))
    return summed.ids, summed.values


def gradient_of_weights(table: Table, ids: Any, gradients: Any) -> Floats:
    """The gradients (..., length) of the weights, from the bags' (..., D)."""
    bags = Bags.of_last_axis(given_ids(ids))
    return table.store.bag_weight_gradient(bags, _as_bags(table, gradients)).reshape(ids.shape)


def _flat(weights: Any) -> Floats | None:
    return None if weights is None else np.ascontiguousarray(weights, np.float32).reshape(-1)


def _as_bags(table: Table, gradients: Any) -> Floats:
    return np.ascontiguousarray(gradients, np.float32).reshape(-1, table.dim)
