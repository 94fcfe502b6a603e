"""Bags of ids (..., length), as programs hand them to the host: pooled there, forward and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native, pooling
from rowwise.keras.given_ids import given_ids, ids_in_range
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
    pooling.pool_into(table, ids, pooling.offsets_of(ids.shape), _flat(weights), pooled)
    return pooled.reshape(*bags, table.dim)


def gradient_of_rows(
    table: Table, ids: Any, gradients: Any, weights: Any = None
) -> tuple[NDArray[np.int64], Floats]:
    """Distinct ids (m,) and their gradients (m, D), from the bags' (..., D).

    Each row's are summed in the order of the batch.
    """
    where = ids_in_range(ids, table.rows), pooling.offsets_of(ids.shape), _flat(weights)
    return pooling.BagGradient(table, *where, _as_bags(table, gradients)).rows()


def gradient_of_weights(table: Table, ids: Any, gradients: Any) -> Floats:
    """The gradients (..., length) of the weights, from the bags' (..., D)."""
    where = given_ids(ids), pooling.offsets_of(ids.shape)
    return pooling.pool_weight_gradient(table, *where, _as_bags(table, gradients)).reshape(
        ids.shape
    )


def _flat(weights: Any) -> Floats | None:
    return None if weights is None else np.ascontiguousarray(weights, np.float32).reshape(-1)


def _as_bags(table: Table, gradients: Any) -> Floats:
    return np.ascontiguousarray(gradients, np.float32).reshape(-1, table.dim)
