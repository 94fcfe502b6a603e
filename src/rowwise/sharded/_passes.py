"""Gradients of backward passes, on their way to the ranks that hold their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.errors import RankMismatchError
from rowwise.sharded._batch import Parcel
from rowwise.sharded._buckets import Layout
from rowwise.sharded._exchange import Exchange, Pending, own_part, start_in_place
from rowwise.store import BagGradient, Bags, HostStore, RowGradient
from rowwise.store._gradient import Floats, Ids


@dataclass(frozen=True)
class OwnGradient:
    """The gradient of this rank's rows, from the batches of all ranks."""

    gradient: RowGradient | BagGradient
    rows: Ids

    def with_values(self, values: Any) -> OwnGradient:
        """Return a gradient of the same rows with other values, of the same shape."""
        return replace(self, gradient=self.gradient.with_values(values))

    @property
    def values(self) -> Floats:
        """The gradients (n, dim) that came, of rows or of bags."""
        return self.gradient.values


# What a backward pass makes, and what `apply` takes: that of one pass, of several, or exchanged.
Pass = RowGradient | BagGradient | Parcel
Given = Pass | list[Pass] | OwnGradient


def row_gradient(gradient: Pass, layout: Layout) -> RowGradient:
    """Return the gradient of a backward pass, id by id."""
    if isinstance(gradient, Parcel):
        return gradient.row_gradient(layout)
    if isinstance(gradient, RowGradient):
        return gradient
    bags: Bags = gradient.plan
    values = np.repeat(gradient.values, np.diff(bags.offsets), axis=0)
    if bags.weights is not None:
        values = values * bags.weights.reshape(-1, 1)
    return RowGradient(bags.ids.reshape(-1), values)


def counts(parcels: Sequence[Parcel], ranks: int) -> Ids:
    """Return what each rank is told, (ranks, 3).

    Rows and values of the first parcel for that rank, then four times the number of parcels plus
    the highest `Parcel.form` among them.
    """
    told = np.zeros((ranks, 3), np.int64)
    if parcels:
        told[:, :2] = parcels[0].counts
        told[:, 2] = len(parcels) * 4 + max(parcel.form for parcel in parcels)
    return told


def row_gradients(
    parcels: Sequence[Parcel], told: Ids, layout: Layout, dim: int
) -> list[RowGradient]:
    """Return the gradients of parcels by row, as many as on the other ranks.

    Args:
        parcels: of this rank; what they have summed stays summed.
        told: (ranks,) the last column of each rank's `counts`.
        layout, dim: of the table.

    Raises:
        RankMismatchError: ranks have had other numbers of passes.
    """
    numbers = (told // 4).tolist()
    if not set(numbers) <= {0, max(numbers)}:
        raise RankMismatchError(
            f"ranks had other numbers of backward passes since the last step: {numbers}, by "
            "rank; give every rank the same; nothing has changed"
        )
    nothing = RowGradient(np.empty(0, np.int64), np.empty((0, dim), np.float32))
    return [part.row_gradient(layout) for part in parcels] or [nothing] * max(numbers)


def receive(exchange: Exchange, parcel: Parcel, came: Ids) -> tuple[Parcel, Pending]:
    """Return the parcel that the ranks sent this one, its values still on their way."""
    sent_rows, sent_values = parcel.counts.T.tolist()
    came_rows, came_values = came.T.tolist()
    pending = {"rows": exchange.start(parcel.rows, sent_rows, came_rows)}
    if parcel.lengths is not None:
        pending["lengths"] = exchange.start(parcel.lengths, sent_values, came_values)
    if parcel.weights is not None:
        pending["weights"] = exchange.start(parcel.weights, sent_rows, came_rows)
    values = _native.empty(sum(came_values), parcel.values.shape[1])
    own = parcel.values[own_part(sent_values, exchange.rank)]
    on_the_way = start_in_place(
        exchange,
        parcel.values,
        sent_values,
        came_values,
        values,
        lambda part: np.copyto(part, own),
    )
    arrays = {name: part.wait() for name, part in pending.items()}
    return Parcel(counts=came, values=values, **arrays), on_the_way


def join(local: HostStore, received: Sequence[tuple[Parcel, Pending]]) -> OwnGradient:
    """Return the gradient of parcels, one a pass; sort rows while values are on their way."""
    parcels = [parcel for parcel, _ in received]
    rows = _concatenated([part.rows for part in parcels]).astype(np.int64)
    lengths = [part.lengths for part in parcels if part.lengths is not None]
    weights = [part.weights for part in parcels if part.weights is not None]
    ends = np.cumsum(_concatenated(lengths)) if lengths else np.arange(1, len(rows) + 1)
    bags = Bags(
        rows, np.append(0, ends).astype(np.int64), _concatenated(weights) if weights else None
    )
    planned = local.bag_gradient(bags, np.empty((0, local.shape[1]), np.float32))
    for _, on_the_way in received:
        on_the_way.wait()
    return OwnGradient(planned.with_values(_concatenated([part.values for part in parcels])), rows)


def _concatenated(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
