"""The pooled lookup as torch's autograd sees it: one vector per bag out, distinct rows back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from rowwise.store import Bags, RowGradient, RowStore
from rowwise.torch._device import DeviceStore, is_device
from rowwise.torch._lookup import empty, given, inside, is_tracing, whole_ids
from rowwise.torch._parameter import TableParameter
from rowwise.torch._weight import no_rows, sparse_rows, sum_rows


class _Pool(torch.autograd.Function):
    """pooled[b, :] = sum of weights[i] * table[ids[i], :] over the positions i of bag b, divided
    by divisors[b]."""

    @staticmethod
    def forward(
        ctx: Any,
        parameter: TableParameter,
        ids: torch.Tensor,
        offsets: torch.Tensor,
        weights: torch.Tensor | None,
        divisors: torch.Tensor | None,
        sparse: bool,
        on_dense_gradient: Callable[[], None] | None,
        allow_bag_gradient: bool,
    ) -> Any:
        table = parameter.table
        pooled = empty((len(offsets) - 1,), table.dim, table.store)
        batch = _bags(table.store, ids, offsets, weights)
        table.store.gather_bags(batch, given(table.store, pooled))
        if divisors is not None:
            pooled /= divisors
        ctx.save_for_backward(ids, offsets, weights, divisors)
        ctx.table, ctx.sparse, ctx.on_dense_gradient = table, sparse, on_dense_gradient
        ctx.parameter = parameter if sparse and allow_bag_gradient else None
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        # Decided here, where a graph of this gradient shows.
        ctx.as_bags = ctx.parameter is not None and ctx.parameter.can_defer_bags(
            ctx.next_functions[0][0]
        )
        return _pool_backward(ctx, gradient)


@once_differentiable
def _pool_backward(ctx: Any, gradient: torch.Tensor) -> Any:
    ids, offsets, weights, divisors = ctx.saved_tensors
    bags = gradient if divisors is None else gradient / divisors
    store = ctx.table.store
    if isinstance(store, DeviceStore):
        ids = inside(ids, ctx.table.rows)
    of_table = of_weights = None
    if ctx.needs_input_grad[0]:
        # A copy, where it is kept: the gradient may be the caller's.
        own = bags.clone() if ctx.as_bags and bags is gradient else bags
        batch = _bags(store, ids, offsets, weights)
        of_bags = store.bag_gradient(batch, given(store, own.contiguous()))
        if ctx.as_bags:
            of_table = no_rows(ctx.table.shape, gradient.device)
            ctx.parameter.bags = of_bags
        else:
            of_table = _row_gradient(ctx, sum_rows(store, of_bags))
    if ctx.needs_input_grad[3]:
        values = given(store, bags.contiguous())
        of_weights = torch.as_tensor(store.bag_weight_gradient(_bags(store, ids, offsets), values))
    return of_table, None, None, of_weights, None, None, None, None


class _PoolMax(torch.autograd.Function):
    """pooled[b, d] = the largest table[ids[i], d] over the positions i of bag b."""

    @staticmethod
    def forward(
        ctx: Any,
        parameter: TableParameter,
        ids: torch.Tensor,
        offsets: torch.Tensor,
        sparse: bool,
        on_dense_gradient: Callable[[], None] | None,
    ) -> Any:
        table = parameter.table
        pooled = empty((len(offsets) - 1,), table.dim, table.store)
        ctx.argmax = given(table.store, torch.empty_like(pooled, dtype=torch.int64))
        batch = _bags(table.store, ids, offsets)
        table.store.gather_bags_max(batch, given(table.store, pooled), ctx.argmax)
        ctx.save_for_backward(ids, offsets)
        ctx.table, ctx.sparse, ctx.on_dense_gradient = table, sparse, on_dense_gradient
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        ids, offsets = ctx.saved_tensors
        store = ctx.table.store
        if isinstance(store, DeviceStore):
            ids = inside(ids, ctx.table.rows)
        values = given(store, gradient.contiguous())
        found = store.bag_max_gradient(_bags(store, ids, offsets), ctx.argmax, values)
        return _row_gradient(ctx, found), None, None, None, None


def _bags(
    store: RowStore,
    ids: torch.Tensor,
    offsets: torch.Tensor,
    weights: torch.Tensor | None = None,
) -> Bags:
    factors = None if weights is None else given(store, weights.detach())
    return Bags(given(store, ids), given(store, offsets), factors)


def _row_gradient(ctx: Any, rows: RowGradient) -> torch.Tensor:
    gradient = sparse_rows(ctx.table.store, rows)
    if ctx.sparse:
        return gradient
    if ctx.on_dense_gradient is not None:
        ctx.on_dense_gradient()
    return gradient.to_dense()


@torch.compiler.disable
def pool(
    parameter: TableParameter,
    ids: torch.Tensor,
    offsets: torch.Tensor | None,
    weights: torch.Tensor | None,
    sparse: bool,
    on_dense_gradient: Callable[[], None] | None = None,
    *,
    divisors: torch.Tensor | None = None,
    allow_bag_gradient: bool = False,
) -> torch.Tensor:
    """Return weighted sums of the rows of each bag, differentiable in the rows and the weights.

    Args:
        parameter: the table's weights.
        ids: (..., length), the last axis a bag; or (n,) with offsets. Any integer dtype, or whole
            floats.
        offsets: (bags + 1,) ascending from 0 to n.
        weights: floats of the shape of ids; None: all are 1.
        sparse: whether the optimizer takes a row-sparse gradient, of distinct ids; else it gets a
            dense one.
        on_dense_gradient: called when a dense gradient is made.
        divisors: (bags, 1), by which the sums are divided.
        allow_bag_gradient: whether a step may take the sparse gradient as bags.

    Returns:
        pooled (..., D) or (bags, D) in the weight's dtype, of sums in float32; 0 for an empty bag.

    Raises:
        IndexError, TypeError, ValueError: as `rowwise.Table.pool`.
    """
    if is_tracing():
        return _recorded(parameter, ids, offsets, weights)
    if offsets is None:
        shape = ids.shape[:-1]
        bags, length = math.prod(ids.shape[:-1]), ids.shape[-1]
        bounds = torch.arange(bags + 1, device=parameter.device) * length
    else:
        shape = torch.Size([len(offsets) - 1])
        bounds = offsets.detach().to(parameter.device, torch.int64).contiguous()
    if weights is not None:
        weights = weights.to(parameter.device, torch.float32).reshape(-1).contiguous()
    pooled: torch.Tensor = _Pool.apply(
        parameter,
        whole_ids(ids).to(parameter.device).contiguous(),
        bounds,
        weights,
        divisors,
        sparse,
        on_dense_gradient,
        allow_bag_gradient,
    )
    pooled = pooled.reshape(*shape, pooled.shape[-1])
    return pooled.to(ids.device, parameter.dtype)


@torch.compiler.disable
def pool_max(
    parameter: TableParameter,
    ids: torch.Tensor,
    offsets: torch.Tensor,
    sparse: bool,
    on_dense_gradient: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Return the largest values of the rows of each bag (bags, D), differentiable in the rows.

    The gradient goes to the first that is the largest. Arguments and errors as for `pool`, with
    ids (n,) int64.
    """
    pooled: torch.Tensor = _PoolMax.apply(parameter, ids, offsets, sparse, on_dense_gradient)
    return pooled.to(parameter.dtype)


def pool_vectors(
    vectors: torch.Tensor, bounds: torch.Tensor, weights: torch.Tensor | None, mode: str
) -> torch.Tensor:
    """Return the bags (B, D) of vectors (n, D) that were looked up, by PyTorch's own operation."""
    return torch.nn.functional.embedding_bag(
        torch.arange(len(vectors), device=vectors.device),
        vectors,
        bounds,
        mode=mode,
        per_sample_weights=weights,
        include_last_offset=True,
    )


def bag_bounds(
    ids: torch.Tensor, offsets: torch.Tensor | None, include_last_offset: bool
) -> torch.Tensor | None:
    """Return the bounds (B + 1,) of bags in their ids, from 0 to n; None if offsets do not fit.

    On a GPU offsets are not refused: those out of order or range become the nearest that fit.

    Args:
        ids: (B, N), or (n,) with offsets.
        offsets: (B,), or (B + 1,) where the last one is included; None for ids (B, N).
        include_last_offset: whether offsets end with n.
    """
    if ids.dim() == 2 and offsets is None:
        return torch.arange(ids.shape[0] + 1, device=ids.device) * ids.shape[1]
    if ids.dim() != 1 or offsets is None or offsets.dim() != 1:
        return None
    bounds = offsets.long()
    if not include_last_offset:
        bounds = torch.cat([bounds, bounds.new_full((1,), len(ids))])
    if is_device(bounds.device):  # to look at them would wait for the device
        return bounds.clamp(0, len(ids)).cummax(0).values if len(bounds) else None
    whole = len(bounds) > 0 and bool(bounds[0] == 0) and bool(bounds[-1] == len(ids))
    return bounds if whole and bool((bounds.diff() >= 0).all()) else None


def without_padding(
    ids: torch.Tensor,
    bounds: torch.Tensor,
    weights: torch.Tensor | None,
    padding_idx: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return ids (n,), bounds (B + 1,) and weights (n,) of bags without the padding's row."""
    if padding_idx is None:
        return ids, bounds, weights
    kept = ids != padding_idx
    before = torch.cat([torch.zeros(1, dtype=torch.int64, device=ids.device), kept.cumsum(0)])
    return ids[kept], before[bounds], None if weights is None else weights[kept]


def with_padding_last(
    ids: torch.Tensor,
    bounds: torch.Tensor,
    weights: torch.Tensor | None,
    padding_idx: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return what `without_padding` does, with the padding's row after it, in no bag.

    Nothing waits for a device: no size depends on how often the row is there.
    """
    if padding_idx is None:
        return ids, bounds, weights
    kept = ids != padding_idx
    before = torch.cat([torch.zeros(1, dtype=torch.int64, device=ids.device), kept.cumsum(0)])
    places = torch.where(kept, before[1:], before[-1] + (~kept).cumsum(0)) - 1
    moved = torch.empty_like(ids).scatter_(0, places, ids)
    if weights is not None:
        weights = torch.zeros_like(weights).scatter(0, places, weights)
    return moved, before[bounds], weights


def _recorded(
    parameter: TableParameter,
    ids: torch.Tensor,
    offsets: torch.Tensor | None,
    weights: torch.Tensor | None,
) -> torch.Tensor:
    present = parameter.as_ordinary()
    if offsets is None:
        vectors = torch.nn.functional.embedding(ids.long(), present)
        return (vectors if weights is None else vectors * weights[..., None]).sum(dim=-2)
    return torch.nn.functional.embedding_bag(
        ids.long(),
        present,
        offsets.long(),
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )
