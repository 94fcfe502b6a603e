"""The lookup as torch's autograd sees it: vectors out, a row-sparse gradient back."""

from __future__ import annotations

from typing import Any

import torch

from rowwise.ids import as_ids
from rowwise.torch.parameter import TableParameter


class _Lookup(torch.autograd.Function):
    """vectors[..., :] = table[ids[...], :]; its gradient is ids and the vectors' gradient."""

    @staticmethod
    def forward(ctx: Any, parameter: TableParameter, ids: torch.Tensor, sparse: bool) -> Any:
        table = parameter.table
        vectors = torch.empty((*ids.shape, table.dim), dtype=torch.float32)
        table.lookup_into(ids.numpy(), vectors.numpy())
        ctx.save_for_backward(ids)
        ctx.shape, ctx.sparse = table.shape, sparse
        return vectors

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (ids,) = ctx.saved_tensors
        rows, dim = ctx.shape
        gradient = torch.sparse_coo_tensor(
            ids.reshape(1, -1),
            gradients[0].reshape(-1, dim).contiguous(),
            (rows, dim),
            check_invariants=False,
        )
        return gradient if ctx.sparse else gradient.to_dense(), None, None


@torch.compiler.disable
def lookup(parameter: TableParameter, ids: torch.Tensor, sparse: bool) -> torch.Tensor:
    """Present vectors (..., D) of the rows ids (...,), differentiable.

    Args:
        parameter: of the table's weights.
        ids: any integer dtype, or whole floats.
        sparse: whether the optimizer takes a row-sparse gradient; else it gets a dense one.

    Raises:
        IndexError, TypeError, ValueError: as `rowwise.Table.lookup`.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # torch's own operations only
        present = torch.from_numpy(parameter.table.to_numpy())
        return torch.nn.functional.embedding(ids.long(), present)
    vectors: torch.Tensor = _Lookup.apply(parameter, _checked(ids.detach().cpu()), sparse)
    return vectors.to(ids.device)


def _checked(ids: torch.Tensor) -> torch.Tensor:
    if ids.dtype is torch.bfloat16:  # NumPy has none; whole numbers collide from 2^8 on
        if (ids.abs() >= 256).any():
            raise ValueError("ids of 256 and more collide as bfloat16; give ids as integers")
        ids = ids.float()
    return torch.from_numpy(as_ids(ids.numpy()))


def rows_and_gradients(gradient: torch.Tensor) -> tuple[Any, Any]:
    """A gradient of the whole table as ids (n,) and their gradients (n, D), NumPy.

    A dense gradient gives the rows in which it is not zero: to an optimizer, a row with gradient
    zero is a row that the batch did not touch.
    """
    gradient = gradient.detach().cpu()
    if gradient.is_sparse:
        ids, values = gradient._indices()[0], gradient._values()
    else:
        ids = (gradient != 0).any(dim=1).nonzero()[:, 0]
        values = gradient[ids]
    return ids.numpy(), values.to(torch.float32).contiguous().numpy()
