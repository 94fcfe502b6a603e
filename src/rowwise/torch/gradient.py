"""What `.grad` of a table's parameter gives where only some rows have one."""

from __future__ import annotations

from typing import Any

import torch

from rowwise import pooling

# Done on the rows that have a gradient: a row without one would not be changed by it.
_BY_ROWS = {
    torch.linalg.vector_norm,
    torch.Tensor.mul_,
    torch.Tensor.__imul__,
    torch.Tensor.div_,
    torch.Tensor.__itruediv__,
    torch.Tensor.clamp_,
    torch.Tensor.clamp_min_,
    torch.Tensor.clamp_max_,
    torch.Tensor.nan_to_num_,
    torch._foreach_norm,
    torch._foreach_mul_,
    torch._foreach_clamp_min_,
    torch._foreach_clamp_max_,
}
# Questions that need no sum over duplicates.
_METADATA = {
    getattr(torch.Tensor, name).__get__
    for name in ("shape", "dtype", "device", "layout", "is_sparse", "requires_grad", "grad_fn")
} | {torch.Tensor.size, torch.Tensor.dim, torch.Tensor.__hash__}


class RowGradient(torch.Tensor):
    """A row-sparse gradient that can be used as if it were whole.

    It *is* the parameter's gradient: what is done to it in place is done to that. Norms, scaling
    and clipping visit only the rows that it has. What torch has no sparse operation for is done
    on a dense copy; in place, it is torch's error.
    """

    _raw: torch.Tensor
    _owner: Any

    @staticmethod
    def of(gradient: torch.Tensor, owner: Any = None) -> RowGradient:
        """Stands for `gradient`, sparse, which is the gradient of the parameter `owner`, if any."""
        proxy: RowGradient = torch.Tensor._make_subclass(RowGradient, gradient)
        proxy._raw, proxy._owner = gradient, owner
        return proxy

    def by_rows(self) -> torch.Tensor:
        """The gradient as it arose, with duplicates, sparse."""
        return self._raw

    def summed(self) -> torch.Tensor:
        """The gradient with duplicates summed up, in batch order, sparse."""
        with torch._C.DisableTorchFunctionSubclass():
            if not self._raw.is_coalesced():
                self._raw = _coalesced(self._raw, self._owner)
                if self._owner is not None:
                    self._owner.grad = self._raw
            return self._raw

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in _METADATA:
                return func(args[0]._raw, *args[1:], **kwargs)
            if func in _BY_ROWS:
                result = func(_values(args[0]), *_plain(args[1:]), **kwargs)
                return args[0] if _in_place(func) else result
            try:
                result = func(*_plain(args), **_plain(kwargs))
            except (NotImplementedError, RuntimeError, TypeError):
                if _in_place(func):
                    raise
                result = func(*_plain(args, dense=True), **_plain(kwargs, dense=True))
            if _in_place(func):
                return args[0]
            sparse = isinstance(result, torch.Tensor) and result.is_sparse
            return RowGradient.of(result.coalesce()) if sparse else result

    def __deepcopy__(self, memo: Any) -> torch.Tensor:
        return self.summed().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.summed().__reduce_ex__(protocol)


def _values(gradients: Any) -> Any:
    """The numbers (n, dim) of a gradient's rows, in place, or of those of a list."""
    if isinstance(gradients, RowGradient):
        return gradients.summed()._values()
    return [_values(g) for g in gradients] if type(gradients) in (list, tuple) else gradients


def _in_place(func: Any) -> bool:
    name: str = func.__name__
    return name.startswith("__i") if name.endswith("__") else name.endswith("_")


def _coalesced(gradient: torch.Tensor, owner: Any) -> torch.Tensor:
    if owner is None:
        return gradient.coalesce()
    ids, values = gradient._indices()[0], gradient._values().contiguous()
    distinct, sums = pooling.coalesce(owner.table, ids.numpy(), values.detach().numpy())
    return sparse_rows(torch.from_numpy(distinct), torch.from_numpy(sums), owner.table.shape, True)


def sparse_rows(
    ids: torch.Tensor, values: torch.Tensor, shape: tuple[int, int], distinct: bool = False
) -> torch.Tensor:
    """The sparse (rows, dim) tensor of rows ids (n,), whether distinct and ascending or not."""
    return torch.sparse_coo_tensor(
        ids[None], values, shape, check_invariants=False, is_coalesced=distinct
    )


def _plain(values: Any, dense: bool = False) -> Any:
    if isinstance(values, RowGradient):
        return values.summed().to_dense() if dense else values.summed()
    if isinstance(values, dict):
        return {name: _plain(value, dense) for name, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)(_plain(value, dense) for value in values)
    return values
