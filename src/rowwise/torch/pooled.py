"""The pooled lookup as torch's autograd sees it: one vector per bag out, distinct rows back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from rowwise import pooling
from rowwise.torch.gradient import sparse_rows
from rowwise.torch.lookup import being_recorded, empty, whole_ids
from rowwise.torch.parameter import TableParameter


class _Pool(torch.autograd.Function):
    """pooled[b, :] = sum of weights[i] * table[ids[i], :] over the positions i of bag b."""

    @staticmethod
    def forward(
        ctx: Any,
        parameter: TableParameter,
        ids: torch.Tensor,
        offsets: torch.Tensor,
        weights: torch.Tensor | None,
        sparse: bool,
        by_frequency: bool,
    ) -> Any:
        table = parameter.table
        pooled = empty((len(offsets) - 1,), table.dim)
        factors = None if weights is None else weights.detach().numpy()
        pooling.pool_into(table, ids.numpy(), offsets.numpy(), factors, pooled.numpy())
        ctx.save_for_backward(ids, offsets, weights)
        ctx.table, ctx.sparse, ctx.by_frequency = table, sparse, by_frequency
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        ids, offsets, weights = ctx.saved_tensors
        batch = ctx.table, ids.numpy(), offsets.numpy()
        bags = gradient.contiguous().numpy()
        of_rows = of_weights = None
        if ctx.needs_input_grad[0]:
            factors = None if weights is None else weights.detach().numpy()
            distinct, sums = pooling.pool_gradient(*batch, factors, bags)
            if ctx.by_frequency:
                sums /= np.unique(batch[1], return_counts=True)[1][:, None]
            of_rows = _of_rows(ctx, distinct, sums)
        if ctx.needs_input_grad[3]:
            of_weights = torch.from_numpy(pooling.pool_weight_gradient(*batch, bags))
        return of_rows, None, None, of_weights, None, None


class _PoolMax(torch.autograd.Function):
    """pooled[b, :] = the largest of table[ids[i], :] over the positions i of bag b."""

    @staticmethod
    def forward(
        ctx: Any, parameter: TableParameter, ids: torch.Tensor, offsets: torch.Tensor, sparse: bool
    ) -> Any:
        table = parameter.table
        pooled = empty((len(offsets) - 1,), table.dim)
        argmax = torch.empty(pooled.shape, dtype=torch.int64)
        batch = ids.numpy(), offsets.numpy()
        pooling.pool_max_into(table, *batch, pooled.numpy(), argmax.numpy())
        ctx.save_for_backward(ids, offsets, argmax)
        ctx.table, ctx.sparse = table, sparse
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        ids, offsets, argmax = (tensor.numpy() for tensor in ctx.saved_tensors)
        bags = gradient.contiguous().numpy()
        found = pooling.pool_max_gradient(ctx.table, ids, offsets, argmax, bags)
        return _of_rows(ctx, *found), None, None, None


def _of_rows(ctx: Any, distinct: Any, sums: Any) -> torch.Tensor:
    """The gradient of the table, from those of distinct rows."""
    ids, values = torch.from_numpy(distinct), torch.from_numpy(sums)
    gradient = sparse_rows(ids, values, ctx.table.shape, distinct=True)
    return gradient if ctx.sparse else gradient.to_dense()


@torch.compiler.disable
def pool(
    parameter: TableParameter,
    ids: torch.Tensor,
    offsets: torch.Tensor | None,
    weights: torch.Tensor | None,
    sparse: bool,
    by_frequency: bool = False,
) -> torch.Tensor:
    """Weighted sums of the rows of each bag, differentiable in the rows and the weights.

    Args:
        parameter: of the table's weights.
        ids: (..., length), the last axis a bag; or (n,) with offsets. Any integer dtype, or whole
            floats.
        offsets: (bags + 1,) ascending from 0 to n.
        weights: floats of the shape of ids; None: all are 1.
        sparse: whether the optimizer takes a row-sparse gradient, of distinct ids; else it gets a
            dense one.
        by_frequency: whether a row's gradient is divided by how often it is in the batch.

    Returns:
        pooled (..., D) or (bags, D) float32; 0 for an empty bag.

    Raises:
        IndexError, TypeError, ValueError: as `rowwise.Table.pool`.
    """
    if being_recorded():
        return _recorded(parameter, ids, offsets, weights)
    if offsets is None:
        shape = ids.shape[:-1]
        bounds = torch.from_numpy(pooling.offsets_of(tuple(ids.shape)))
    else:
        shape = torch.Size([len(offsets) - 1])
        bounds = offsets.detach().to("cpu", torch.int64).contiguous()
    if weights is not None:
        weights = weights.to("cpu", torch.float32).reshape(-1).contiguous()
    pooled: torch.Tensor = _Pool.apply(
        parameter, whole_ids(ids).cpu().contiguous(), bounds, weights, sparse, by_frequency
    )
    return pooled.reshape(*shape, pooled.shape[-1]).to(ids.device)


@torch.compiler.disable
def pool_max(
    parameter: TableParameter, ids: torch.Tensor, offsets: torch.Tensor, sparse: bool
) -> torch.Tensor:
    """The largest values (bags, D) of each bag, differentiable in the rows; see `pool`."""
    if being_recorded():
        return _recorded(parameter, ids, offsets, None, mode="max")
    bounds = offsets.detach().to("cpu", torch.int64).contiguous()
    pooled: torch.Tensor = _PoolMax.apply(
        parameter, whole_ids(ids).cpu().contiguous(), bounds, sparse
    )
    return pooled.to(ids.device)


def _recorded(
    parameter: TableParameter,
    ids: torch.Tensor,
    offsets: torch.Tensor | None,
    weights: torch.Tensor | None,
    mode: str = "sum",
) -> torch.Tensor:
    present = torch.from_numpy(parameter.table.to_numpy())
    if offsets is None:
        vectors = torch.nn.functional.embedding(ids.long(), present)
        return (vectors if weights is None else vectors * weights[..., None]).sum(dim=-2)
    return torch.nn.functional.embedding_bag(
        ids.long(),
        present,
        offsets.long(),
        mode=mode,
        per_sample_weights=weights,
        include_last_offset=True,
    )
