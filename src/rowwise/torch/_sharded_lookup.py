"""Lookups in a sharded table as torch's autograd sees them; gradients stay here until a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from rowwise.store import Bags, RowGradient
from rowwise.torch._lookup import empty
from rowwise.torch._sharded_weight import ShardedWeight, as_sparse
from rowwise.torch._weight import no_rows


class Lookup(torch.autograd.Function):
    """vectors[..., :] = rows[ids[...], :], from all ranks.

    The gradient of an id is divided by counts (n,) float32, unless they are None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        weight: ShardedWeight,
        ids: Any,
        error: Exception | None,
        frozen: int | None,
        counts: Any,
    ) -> Any:
        found, wanted = weight.table.store.fetch(ids, error)
        vectors = empty(ids.shape, weight.table.dim)
        if ids.size:
            out = vectors.numpy().reshape(ids.size, -1)
            np.take(found, wanted.inverse, axis=0, out=out, mode="clip")
        ctx.weight, ctx.ids, ctx.wanted = weight, ids.reshape(-1), wanted
        ctx.frozen, ctx.counts = frozen, counts
        return vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        ids, wanted, dim = ctx.ids, ctx.wanted, ctx.weight.table.dim
        values = gradient.reshape(-1, dim).contiguous().numpy()
        if ctx.counts is not None:
            values = values / ctx.counts[:, None]
        if ctx.frozen is not None:
            moving = ids != ctx.frozen
            ids, values, wanted = ids[moving], values[moving], None
        return _to_weight(ctx, RowGradient(ids, values), wanted), None, None, None, None


class Pool(torch.autograd.Function):
    """pooled[b, :] = sum of weights[i] * rows[ids[i], :] over bag b, divided by divisors[b].

    The gradient of an id is divided by counts (n,) float32, unless they are None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        weight: ShardedWeight,
        ids: torch.Tensor,
        bounds: torch.Tensor,
        weights: torch.Tensor | None,
        divisors: torch.Tensor | None,
        counts: Any,
    ) -> Any:
        factors = None if weights is None else weights.detach().contiguous().numpy()
        ctx.bags = Bags(ids.numpy(), bounds.numpy(), factors)
        ctx.store, ctx.here = weight.table.store.fetch_bags(ctx.bags)
        pooled = empty((len(bounds) - 1,), weight.table.dim)
        ctx.store.gather_bags(ctx.here, pooled.numpy())
        if divisors is not None:
            pooled /= divisors
        ctx.weight, ctx.divisors, ctx.counts = weight, divisors, counts
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        own = gradient if ctx.divisors is None else gradient / ctx.divisors
        values = own.contiguous().numpy()
        of_rows = of_weights = None
        if ctx.needs_input_grad[0]:
            bags = ctx.bags
            if ctx.counts is not None:
                factors = np.float32(1) if bags.weights is None else bags.weights
                bags = replace(bags, weights=factors / ctx.counts)
            of_rows = _to_weight(ctx, ctx.weight.table.store.bag_gradient(bags, values))
        if ctx.needs_input_grad[3]:
            of_weights = torch.from_numpy(ctx.store.bag_weight_gradient(ctx.here, values))
        return of_rows, None, None, of_weights, None, None


class PoolMax(torch.autograd.Function):
    """pooled[b, d] = the largest rows[ids[i], d] over the positions i of bag b."""

    @staticmethod
    def forward(ctx: Any, weight: ShardedWeight, ids: torch.Tensor, bounds: torch.Tensor) -> Any:
        ctx.bags = Bags(ids.numpy(), bounds.numpy())
        store, here = weight.table.store.fetch_bags(ctx.bags)
        pooled = empty((len(bounds) - 1,), weight.table.dim)
        ctx.argmax = np.empty(pooled.shape, np.int64)
        store.gather_bags_max(here, pooled.numpy(), ctx.argmax)
        ctx.weight = weight
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        values = gradient.contiguous().numpy()
        store = ctx.weight.table.store
        return _to_weight(ctx, store.bag_max_gradient(ctx.bags, ctx.argmax, values)), None, None


def _to_weight(ctx: Any, gradient: Any, wanted: Any = None) -> torch.Tensor:
    """Hand a gradient to the weight, and torch one without rows; or torch the rows themselves."""
    weight = ctx.weight
    try:
        accumulates = torch._C._will_engine_execute_node(ctx.next_functions[0][0])
    except RuntimeError:  # torch.autograd.grad, which hands it to the caller
        accumulates = False
    if accumulates:
        weight.add_pass(gradient, wanted)
        return no_rows(weight.table.shape)
    rows = weight.table.store.row_gradient(gradient)
    return as_sparse(rows.ids, rows.values * np.float32(weight.share), weight.table.shape)
