"""Sharded embeddings beside DDP and FSDP2, and in the norm of all gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from rowwise.sharded._batch import coalesced
from rowwise.sharded._exchange import all_reduce
from rowwise.sharded._norm import WORDS, Sums, root, sum_of_squares
from rowwise.store import RowGradient
from rowwise.torch._lookup import rows_and_gradients
from rowwise.torch._sharded_weight import ShardedWeight


def exclude_sharded(model: torch.nn.Module) -> set[torch.nn.Parameter]:
    """Mark a model's sharded weights as none of DDP's, and return them for FSDP2 to ignore.

    Args:
        model: before it is wrapped.

    Returns:
        the weights of the model's `ShardedEmbedding` and `ShardedEmbeddingBag` modules.

    Example:
        model = Model(rowwise.torch.ShardedEmbedding(100_000_000, 64))
        exclude_sharded(model)
        model = DistributedDataParallel(model)

        fully_shard(model, ignored_params=exclude_sharded(model))  # or FSDP2
    """
    named = {
        name: parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if isinstance(parameter, ShardedWeight)
    }
    others = set(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
    model._ddp_params_and_buffers_to_ignore = list(others | set(named))  # type: ignore[assignment]
    return set(named.values())


@torch.no_grad()
def clip_grad_norm_(
    parameters: torch.Tensor | Iterable[torch.Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> torch.Tensor:
    """Scale the gradients of all parameters down to a norm, and return the norm they had.

    The norm is that of the whole gradient: rows of sharded weights summed over all processes and
    counted once; dense parameters as they are on this process, which under DDP is the same on
    all; shards of FSDP2 over their processes. It is exact, rounded once, so that it is the same
    number for any number of processes. Numbers of a gradient are taken as float32.

    Every process calls it, between the last `backward` and `optimizer.step`.

    Args:
        parameters: of the model, sharded or not.
        max_norm: the norm that the gradient has at most.
        norm_type: 2, or infinity.
        error_if_nonfinite: raise if the norm is NaN or infinity.

    Raises:
        ValueError: another norm_type.
        RuntimeError: the norm is not finite, and error_if_nonfinite.
    """
    given = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    if norm_type not in (2, math.inf):
        raise ValueError(f"norm_type={norm_type} is neither 2 nor infinity")
    sharded = [p for p in given if isinstance(p, ShardedWeight) and p.requires_grad]
    dense = [p.grad for p in given if not isinstance(p, ShardedWeight) and p.grad is not None]
    norm = _norm(sharded, dense) if norm_type == 2 else _largest(sharded, dense)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(
            f"the norm of the gradients is {norm}; leave out error_if_nonfinite to go on with it"
        )
    factor = min(1.0, max_norm / (norm + 1e-6)) if not math.isnan(norm) else math.nan
    for gradient in dense:
        gradient.mul_(factor)
    for weight in sharded:
        if weight.exchanged is not None:
            scaled = weight.exchanged.values * np.float32(factor)
            weight.exchanged = weight.exchanged.with_values(scaled)
    return torch.tensor(norm)


def _norm(sharded: list[ShardedWeight], dense: list[Any]) -> float:
    sums = np.zeros(WORDS, np.int64)
    for weight in sharded:
        exchanged = weight.exchange()
        if exchanged is not None:
            sums += weight.table.store.squares(exchanged)
    by_mesh: dict[Any, Sums] = {}
    for gradient in dense:
        squares = sum_of_squares(_numbers(gradient))
        by_mesh[_mesh(gradient)] = by_mesh.get(_mesh(gradient), 0) + squares
    for mesh, squares in by_mesh.items():
        sums += _reduced(mesh, squares, dist.ReduceOp.SUM)
    return root(sums)


def _largest(sharded: list[ShardedWeight], dense: list[Any]) -> float:
    largest = [0.0]
    for weight in sharded:
        exchanged = weight.exchange()
        if exchanged is not None:
            store = weight.table.store
            here = np.array([_max(store.local.coalesce(exchanged.gradient).values)])
            largest.append(float(all_reduce(store.exchange, here, np.maximum)[0]))
    for gradient in dense:
        own = np.array([_max(_numbers(gradient))])
        largest.append(float(_reduced(_mesh(gradient), own, dist.ReduceOp.MAX)[0]))
    return float(np.max(largest))


def _max(values: Any) -> float:
    return float(np.abs(values).max()) if values.size else 0.0


def _numbers(gradient: Any) -> Any:
    """Return the numbers of a gradient that lie on this process, each row once."""
    with torch._C.DisableTorchFunctionSubclass():  # `RowGradientTensor` would answer as a dense one
        if gradient.is_sparse:
            return coalesced(RowGradient(*rows_and_gradients(gradient))).values
    local = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return local.detach().float().cpu().numpy()


def _mesh(gradient: Any) -> Any:
    """Return over which dimensions of which mesh a DTensor is sharded; None for the rest."""
    if not hasattr(gradient, "placements"):
        return None
    if any(placement.is_partial() for placement in gradient.placements):
        raise ValueError("a gradient is a partial sum; call its redistribute() first")
    dims = tuple(i for i, placement in enumerate(gradient.placements) if placement.is_shard())
    return gradient.device_mesh, dims


def _reduced(mesh: Any, numbers: Any, operation: Any) -> Any:
    if mesh is None:
        return numbers
    device_mesh, dims = mesh
    total = torch.from_numpy(numbers.copy())
    for dim in dims:
        dist.all_reduce(total, operation, group=device_mesh.get_group(dim))
    return total.numpy()
