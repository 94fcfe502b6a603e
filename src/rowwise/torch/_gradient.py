"""A table's gradient, kept by rows, that answers as a dense gradient would."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


class RowGradient(torch.Tensor):
    """A (rows, dim) gradient as a sparse tensor of ids (n,) and values (n, dim).

    What torch does to gradients between `backward` and `step` is done by rows: norms, scaling,
    clamping (`clip_grad_norm_`, `clip_grad_value_`, `GradScaler`). Anything else is done to the
    dense gradient, which costs what it costs.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in _AS_IT_IS:
                return func(*args, **kwargs)
            by_rows = _BY_ROWS.get(func)
            if by_rows is not None:
                result = by_rows(func, *args, **kwargs)
                if result is not NotImplemented:
                    return result
            return _densely(func, args, kwargs)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        with torch._C.DisableTorchFunctionSubclass():
            return repr(self.detach())

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            twin = memo[id(self)] = self.detach().clone()
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return self.detach().__reduce_ex__(protocol)


_AS_IT_IS = (
    {
        getattr(torch.Tensor, name).__get__
        for name in (
            "grad", "shape", "dtype", "device", "layout", "ndim", "requires_grad", "is_leaf",
            "grad_fn", "is_sparse", "is_cuda", "is_cpu", "is_meta", "is_quantized", "is_mkldnn",
            "is_nested", "itemsize", "_version", "_backward_hooks", "is_mps", "is_xpu", "data",
        )
    }
    | {
        getattr(torch.Tensor, name)
        for name in (
            "__hash__", "__len__", "size", "dim", "numel", "is_complex", "is_floating_point",
            "element_size", "requires_grad_", "coalesce", "is_coalesced", "_indices", "_values",
            "indices", "values", "_nnz", "sparse_dim", "dense_dim", "to_dense", "detach",
            "detach_", "clone", "zero_", "neg", "neg_",
        )
    }
    | {torch.clone, torch.neg, torch.Tensor.data.__set__, torch._has_compatible_shallow_copy_type}
)  # fmt: skip


def _scaled(func: Any, gradient: Any, factor: Any = None, *rest: Any, **named: Any) -> Any:
    """gradient * factor, gradient / factor, for one factor for all."""
    if not isinstance(gradient, RowGradient) or rest or named or isinstance(factor, RowGradient):
        return NotImplemented
    if isinstance(factor, torch.Tensor) and (factor.dim() or factor.requires_grad):
        return NotImplemented
    divides = "div" in func.__name__
    if not math.isfinite(float(factor)) or (divides and not factor):  # makes something of zeros
        return NotImplemented
    values = func(gradient._values(), factor)
    if func.__name__ in _IN_PLACE:
        return gradient
    return _like(gradient, gradient._indices(), values)


def _norm(func: Any, gradient: Any, ord: Any = 2, *rest: Any, **named: Any) -> Any:
    """The norm of all numbers."""
    ord = named.pop("p", ord)
    if rest or named or not isinstance(ord, int | float) or ord <= 0:
        return NotImplemented
    return torch.linalg.vector_norm(gradient.coalesce()._values(), ord)


def _clamped(func: Any, gradient: Any, min: Any = None, max: Any = None) -> Any:
    """Values within bounds that zero is within."""
    if isinstance(min, torch.Tensor) or isinstance(max, torch.Tensor):
        return NotImplemented
    if (min is not None and min > 0) or (max is not None and max < 0):
        return NotImplemented
    whole = gradient.coalesce()
    clamped = _like(gradient, whole._indices(), torch.clamp(whole._values(), min, max))
    if func is torch.Tensor.clamp_:
        gradient.copy_(clamped)
        return gradient
    return clamped


_IN_PLACE = {"mul_", "div_", "__imul__", "__itruediv__"}
_BY_ROWS: dict[Any, Callable[..., Any]] = {
    **{
        getattr(torch.Tensor, name): _scaled
        for name in ("mul", "div", "__mul__", "__truediv__", *_IN_PLACE)
    },
    torch.mul: _scaled,
    torch.div: _scaled,
    torch.linalg.vector_norm: _norm,
    torch.norm: _norm,
    torch.Tensor.norm: _norm,
    torch.Tensor.clamp: _clamped,
    torch.Tensor.clamp_: _clamped,
    torch.clamp: _clamped,
}


def _like(gradient: torch.Tensor, ids: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    result = torch.sparse_coo_tensor(ids, values, gradient.shape, check_invariants=False)
    result.__class__ = RowGradient
    return result


def _densely(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """func of the dense gradients; what it changes in place is brought back by rows."""
    dense: dict[int, tuple[Any, torch.Tensor, int]] = {}

    def densified(value: Any) -> Any:
        if isinstance(value, RowGradient):
            if id(value) not in dense:
                whole = value.to_dense()
                dense[id(value)] = value, whole, whole._version
            return dense[id(value)][1]
        if type(value) in (list, tuple):
            return type(value)(densified(part) for part in value)
        return value

    result = func(*densified(args), **{name: densified(value) for name, value in kwargs.items()})
    for gradient, changed, version in dense.values():
        if changed._version > version:
            gradient.copy_(changed.to_sparse(1))
        if result is changed:
            result = gradient
    return result
