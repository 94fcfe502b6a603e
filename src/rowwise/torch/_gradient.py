"""The gradient of a table as PyTorch hands it out: kept by row until a dense one is needed."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch

from rowwise.store import HostStore, RowGradient
from rowwise.torch._device import DeviceStore


class RowGradientTensor(torch.Tensor):
    """A (rows, dim) gradient as a sparse tensor of ids (n,) and values (n, dim).

    What torch does to gradients between `backward` and `step` is done by row: norms, scaling,
    clamping (`clip_grad_norm_`, `clip_grad_value_`, `GradScaler`). Any other function makes this
    very object an ordinary dense tensor first, so that its views, its memory and its changes are
    what they are in PyTorch.
    """

    parameter: weakref.ref[torch.Tensor] | None = None  # whose gradient it is
    never_dense = False
    lost_zeros = False  # whether the zeros of other rows became NaN, which is not written out
    # () of a device, NaN if they did; None: they did not. To know it here would wait.
    others: torch.Tensor | None = None
    summed_at: int | None = None  # the version that has each id's sum once, of a device

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in _UNCHANGED:
                return func(*args, **kwargs)
            by_row = _BY_ROW.get(func)
            if by_row is not None:
                result = by_row(func, *args, **kwargs)
                if result is not NotImplemented:
                    return result
            for gradient in _row_gradients_in([args, kwargs]):
                if isinstance(gradient, RowGradientTensor):  # it may stand twice
                    gradient.make_dense()
        return func(*args, **kwargs)

    def make_dense(self) -> None:
        """Become an ordinary dense tensor, in place.

        Raises:
            RuntimeError: something else in torch holds this tensor too, and would not follow.
        """
        with torch._C.DisableTorchFunctionSubclass():
            if not self._become(dense(self)):
                raise RuntimeError(
                    "this gradient is held by a graph or by another parameter too, which would "
                    "not see it become dense; give them a copy: gradient.clone()"
                )
            self.__dict__.clear()
            self.__class__ = torch.Tensor  # type: ignore[assignment]

    def sum_repeated(self) -> None:
        """Sum the gradients of each id, in place, unless something else holds this tensor too."""
        with torch._C.DisableTorchFunctionSubclass():
            if not self.is_summed() and self._become(_summed(self)):
                self.summed_at = _version_of(self)

    def store(self) -> HostStore | DeviceStore | None:
        """Return the store of the parameter's table, if it is where the gradient is."""
        parameter = None if self.parameter is None else self.parameter()
        store = getattr(getattr(parameter, "table", None), "store", None)
        if isinstance(store, DeviceStore):
            return store if store.tensor_device == self.device else None
        is_here = isinstance(store, HostStore) and self.is_cpu and self.dtype is torch.float32
        return store if is_here else None

    def is_summed(self) -> bool:
        """Return whether each id's sum stands once."""
        if self.summed_at is None:
            return self.is_coalesced()
        return self.summed_at == _version_of(self) or self.is_coalesced()

    def _become(self, tensor: torch.Tensor) -> bool:
        """Become `tensor`; return False, with nothing done, where another holder would not."""
        parameter = None if self.parameter is None else self.parameter()
        held = parameter is not None and parameter.grad is self
        if held:
            parameter.grad = None  # type: ignore[union-attr]
        try:
            alone = self._use_count() == 1
            if alone:
                torch._C._swap_tensor_impl(self, tensor)
                self.summed_at = None
        finally:
            if held:
                parameter.grad = self  # type: ignore[union-attr]
        return alone

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        with torch._C.DisableTorchFunctionSubclass():
            return repr(self._as_ordinary())

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        twin = memo[id(self)] = self.clone()
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return self._as_ordinary().__reduce_ex__(protocol)

    def _as_ordinary(self) -> torch.Tensor:
        """Return what is shown, and sent to others; outside of dispatch."""
        return dense(self)


def dense(gradient: Any) -> torch.Tensor:
    """Return a sparse gradient as a dense one, with what its other rows have become."""
    values: torch.Tensor = gradient.to_dense()
    others = getattr(gradient, "others", None)
    if others is None:
        return values
    # What is a number has come since the zeros became NaN, or is one of them.
    return torch.where(others.isnan() & values.isfinite(), others.to(values.dtype), values)


def as_row_gradient(gradient: torch.Tensor, parameter: torch.Tensor) -> None:
    """Make the sparse gradient of a parameter answer as a dense one, in place."""
    gradient.__class__ = RowGradientTensor
    gradient.parameter = weakref.ref(parameter)  # type: ignore[attr-defined]


_UNCHANGED = (
    {
        getattr(torch.Tensor, name).__get__
        for name in (
            "grad", "shape", "dtype", "device", "layout", "ndim", "requires_grad", "is_leaf",
            "grad_fn", "is_sparse", "is_cuda", "is_cpu", "is_meta", "is_quantized", "is_mkldnn",
            "is_nested", "itemsize", "_version", "_backward_hooks", "is_mps", "is_xpu",
        )
    }
    | {
        getattr(torch.Tensor, name)
        for name in (
            "__hash__", "__len__", "size", "dim", "numel", "is_complex", "is_floating_point",
            "element_size", "coalesce", "is_coalesced", "indices", "values", "sparse_dim",
            "dense_dim", "neg_",
        )
    }
    | {torch._has_compatible_shallow_copy_type}
)  # fmt: skip


def _itself(func: Any, gradient: Any) -> Any:
    """gradient.data, gradient.detach(): what changes one changes the other."""
    return NotImplemented if gradient.requires_grad else gradient


def _kept_constant(func: Any, gradient: Any, requires_grad: bool = True) -> Any:
    """Return the gradient, of which no gradient is asked: `zero_grad` says so of each."""
    if requires_grad or gradient.requires_grad:
        return NotImplemented
    return gradient


def _zeroed(func: Any, gradient: Any) -> Any:
    """Make all numbers 0, those of the other rows too."""
    gradient.lost_zeros, gradient.others = False, None
    return func(gradient)


def _with_sums(func: Any, gradient: Any) -> Any:
    """Return ids, values or their number, each id once: `GradScaler` must see a sum overflow."""
    gradient.sum_repeated()
    return func(gradient)


def _cloned(func: Any, gradient: Any, **named: Any) -> Any:
    """Return an ordinary copy; the gradient stays by row."""
    return dense(gradient)


def _made_dense(func: Any, gradient: Any, *args: Any, **named: Any) -> Any:
    """Return gradient.to_dense(); the gradient stays by row."""
    return dense(gradient) if gradient.others is not None else func(gradient, *args, **named)


def _moved(func: Any, gradient: Any, *args: Any, **named: Any) -> Any:
    """Return the gradient on another device; itself, where it is there."""
    values = func(gradient._values(), *args, **named)
    if gradient.requires_grad or values.dtype != gradient.dtype:
        return NotImplemented
    if values.device == gradient.device:
        return gradient
    if gradient.others is not None and gradient.others.isnan():
        return NotImplemented
    there = _like(gradient, gradient._indices().to(values.device), values)
    there.lost_zeros = gradient.lost_zeros
    return there


def _assigned(func: Any, gradient: Any, values: Any) -> Any:
    """Make gradient.data = values, of another gradient by row, as `torch.nn.Module.to` does."""
    by_row = isinstance(gradient, RowGradientTensor) and isinstance(values, RowGradientTensor)
    if not by_row or not (values is gradient or gradient._become(values)):
        return NotImplemented
    gradient.lost_zeros, gradient.others = values.lost_zeros, values.others
    return None


def _scaled(func: Any, gradient: Any, factor: Any = None, *rest: Any, **named: Any) -> Any:
    """Return gradient * factor or gradient / factor, for one factor for all."""
    if not isinstance(gradient, RowGradientTensor) or isinstance(factor, RowGradientTensor):
        return NotImplemented
    if rest or named:
        return NotImplemented
    if isinstance(factor, torch.Tensor) and (factor.dim() or factor.requires_grad):
        return NotImplemented
    divides = "div" in func.__name__
    # Not to be read here, if it is a GPU's: NaN or infinity is found out by the step. That takes
    # sums, as of numbers that became infinite one by one there is none.
    is_summed = gradient.is_summed()
    later = (
        is_summed and isinstance(factor, torch.Tensor) and isinstance(gradient.store(), DeviceStore)
    )
    zeros_stay = later or (math.isfinite(float(factor)) and not (divides and not factor))
    if not zeros_stay and not gradient.never_dense:
        return NotImplemented
    others, result = gradient.others, gradient
    values = func(gradient._values(), factor)
    if later:
        others = values.new_zeros(()) if others is None else others
        others = others / factor if divides else others * factor
        ids = gradient._indices()[0]  # ascending; where one stands again there are zeros
        again = torch.zeros_like(ids, dtype=torch.bool)
        torch.eq(ids[1:], ids[:-1], out=again[1:])
        values.masked_fill_(again[:, None], -0.0)
    if func.__name__ not in _IN_PLACE:
        result = _like(gradient, gradient._indices(), values)
    result.lost_zeros, result.others = gradient.lost_zeros or not zeros_stay, others
    if is_summed:
        result.summed_at = _version_of(result)
    return result


def _norm(func: Any, gradient: Any, ord: Any = 2, *rest: Any, **named: Any) -> Any:
    """Return the norm of all numbers."""
    ord = named.pop("p", ord)
    ord = 2 if ord in (None, "fro") else ord  # as `Tensor.norm` calls it
    plain = all(value is None or value is False for value in (*rest, *named.values()))
    if not plain or not isinstance(ord, int | float) or ord <= 0:
        return NotImplemented
    gradient.sum_repeated()
    values = _summed(gradient)._values()
    # torch has no largest of no numbers; here there are zeros in the other rows.
    norm = torch.linalg.vector_norm(values if len(values) else values.new_zeros(1), ord)
    return norm if gradient.others is None else norm + gradient.others


def _clamped(func: Any, gradient: Any, min: Any = None, max: Any = None, **named: Any) -> Any:
    """Return values within bounds that zero is within."""
    if named or isinstance(min, torch.Tensor) or isinstance(max, torch.Tensor):
        return NotImplemented
    if (min is not None and min > 0) or (max is not None and max < 0):
        return NotImplemented
    if gradient.others is not None:  # a clamped infinity would be taken for a number
        return NotImplemented
    whole = _summed(gradient)
    clamped = _like(gradient, whole._indices(), torch.clamp(whole._values(), min, max))
    if func is torch.Tensor.clamp_:
        gradient.copy_(clamped)
        return gradient
    return clamped


def _clamped_below(func: Any, gradient: Any, min: Any) -> Any:
    return _clamped(torch.Tensor.clamp_, gradient, min)


def _clamped_above(func: Any, gradient: Any, max: Any) -> Any:
    return _clamped(torch.Tensor.clamp_, gradient, None, max)


def _each(one: Any) -> Callable[..., Any]:
    """Return the function of many tensors that does to each what `one` does."""

    def of_many(func: Any, tensors: Any, *rest: Any, **named: Any) -> Any:
        if named or any(isinstance(value, list | tuple) for value in rest):
            return NotImplemented
        results = []
        for tensor in tensors:
            result = NotImplemented
            if isinstance(tensor, RowGradientTensor):
                result = _BY_ROW[one](one, tensor, *rest)
                if result is NotImplemented:
                    tensor.make_dense()
            results.append(one(tensor, *rest) if result is NotImplemented else result)
        return results

    return of_many


_FACTOR = ("mul", "div", "multiply", "divide", "true_divide")  # Keras has `divide`
_IN_PLACE = {*(f"{name}_" for name in _FACTOR), "__imul__", "__itruediv__"}
_BY_ROW: dict[Any, Callable[..., Any]] = {
    **{
        getattr(torch.Tensor, name): _scaled
        for name in (*_FACTOR, "__mul__", "__truediv__", *_IN_PLACE)
    },
    **{getattr(torch, name): _scaled for name in _FACTOR},
    **dict.fromkeys((torch.Tensor.data.__get__, torch.Tensor.detach), _itself),
    **dict.fromkeys((torch.Tensor.clone, torch.clone), _cloned),
    torch.Tensor.to_dense: _made_dense,
    **dict.fromkeys((torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda), _moved),
    torch.Tensor.data.__set__: _assigned,
    torch.Tensor.requires_grad_: _kept_constant,
    torch.Tensor.zero_: _zeroed,
    torch.linalg.vector_norm: _norm,
    torch.norm: _norm,
    torch.Tensor.norm: _norm,
    torch.Tensor.clamp: _clamped,
    torch.Tensor.clamp_: _clamped,
    torch.clamp: _clamped,
    torch.Tensor.clamp_min_: _clamped_below,
    torch.Tensor.clamp_max_: _clamped_above,
    **dict.fromkeys((torch.Tensor._indices, torch.Tensor._values, torch.Tensor._nnz), _with_sums),
    # With foreach=True.
    torch._foreach_norm: _each(torch.linalg.vector_norm),
    torch._foreach_zero_: _each(torch.Tensor.zero_),
    torch._foreach_mul_: _each(torch.Tensor.mul_),
    torch._foreach_clamp_min_: _each(torch.Tensor.clamp_min_),
    torch._foreach_clamp_max_: _each(torch.Tensor.clamp_max_),
}


def _version_of(tensor: torch.Tensor) -> int | None:
    """Return how often a tensor was written to; None for one of inference mode, which has none."""
    return None if tensor.is_inference() else tensor._version


def _summed(gradient: Any) -> Any:
    """Return a gradient with each id's sum once, of a device without waiting for it."""
    if gradient.is_summed():
        return gradient
    store, ids, values = gradient.store(), gradient._indices(), gradient._values()
    if isinstance(store, DeviceStore):
        rows: Any = store.sum_repeated(RowGradient(ids[0], values))
        return _like(gradient, rows.ids[None], rows.values)
    if store is None:
        return gradient.coalesce()
    # In the order of the batch, as a step sums them, which torch's own function does not promise.
    rows = store.coalesce(RowGradient(ids[0].numpy(), values.numpy()))
    summed = torch.from_numpy(rows.ids[None]), torch.from_numpy(rows.values)
    return _like(gradient, *summed, is_coalesced=True)


def _like(
    gradient: torch.Tensor, ids: torch.Tensor, values: torch.Tensor, is_coalesced: bool = False
) -> torch.Tensor:
    result = torch.sparse_coo_tensor(
        ids, values, gradient.shape, check_invariants=False, is_coalesced=is_coalesced
    )
    result.__class__ = RowGradientTensor
    result.parameter = gradient.parameter  # which may take it as its gradient
    return result


def _row_gradients_in(values: Any) -> list[RowGradientTensor]:
    if isinstance(values, RowGradientTensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return []
    return [found for value in values for found in _row_gradients_in(value)]
