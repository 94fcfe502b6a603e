"""A torch parameter that lies in a table's own memory and is current whenever it is read."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch

from rowwise.table import Table
from rowwise.torch.gradient import RowGradient

# What can be asked of the parameter without reading a number of it.
_METADATA = {
    getattr(torch.Tensor, name).__get__
    for name in (
        "grad", "shape", "dtype", "device", "layout", "ndim", "requires_grad", "is_leaf",
        "grad_fn", "is_sparse", "is_cuda", "is_cpu", "is_meta", "is_quantized", "is_mkldnn",
        "is_nested", "itemsize", "nbytes", "_version", "_backward_hooks", "is_mps", "is_xpu",
    )
} | {
    torch.Tensor.grad.__set__,
    torch.Tensor.requires_grad.__set__,
    torch.Tensor.__hash__,
    torch.Tensor.__len__,
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.numel,
    torch.Tensor.stride,
    torch.Tensor.is_contiguous,
    torch.Tensor.is_complex,
    torch.Tensor.is_floating_point,
    torch.Tensor.element_size,
    torch.Tensor.requires_grad_,
    torch.Tensor.register_hook,
    torch.Tensor.register_post_accumulate_grad_hook,
}  # fmt: skip

_GET_GRADIENT = torch.Tensor.grad.__get__  # type: ignore[attr-defined]
_SET_GRADIENT = torch.Tensor.grad.__set__  # type: ignore[attr-defined]


class TableParameter(torch.nn.Parameter):
    """The weights, or a slot, of a table: (rows, dim) float32, no copy.

    Rows of a table may lag behind; this parameter brings them to now before torch, NumPy or an
    optimizer reads or writes the memory. Questions about its shape or its gradient cost nothing.
    """

    table: Table
    slot: str | None
    wanted_by: weakref.WeakSet[Any]  # optimizers that step it by rows
    keeper: weakref.ref[Any] | None  # the one whose rule the table has
    sparse: bool  # whether the user asked for torch's own sparse gradients

    def __new__(
        cls, table: Table, slot: str | None = None, requires_grad: bool = True
    ) -> TableParameter:
        """Lays a parameter over the table's weights, or over the slot named."""
        memory = torch.from_numpy(table.buffer(slot))
        self = torch.Tensor._make_subclass(cls, memory, requires_grad)
        self.table, self.slot = table, slot
        self.wanted_by, self.keeper, self.sparse = weakref.WeakSet(), None, False
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def bring_to_now(self) -> None:
        """Called before the memory is touched."""
        self.table.sync()
        if self.slot is not None:  # torch may be about to write to it
            self.table.slots_written()

    def stepped_by_rows(self) -> bool:
        """Whether some optimizer that steps the table by rows waits for its gradient."""
        return any(id(self) not in optimizer.dense_ids for optimizer in self.wanted_by)

    def raw_gradient(self) -> torch.Tensor | None:
        """The gradient as autograd left it."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.grad

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == _SET_GRADIENT and isinstance(args[1], RowGradient):
            args = (args[0], args[1].by_rows())
        if func not in _METADATA:
            for parameter in _parameters_in([args, kwargs]):
                parameter.bring_to_now()
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if func == _GET_GRADIENT and result is not None and result.is_sparse:
            return result if args[0].sparse else RowGradient.of(result, args[0])
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> TableParameter:
        twin = TableParameter(copy.deepcopy(self.table, memo), self.slot, self.requires_grad)
        twin.sparse = self.sparse
        memo[id(self)] = twin
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        return TableParameter, (self.table, self.slot, self.requires_grad)


def _parameters_in(values: Any) -> list[TableParameter]:
    if isinstance(values, TableParameter):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return []
    return [found for value in values for found in _parameters_in(value)]
