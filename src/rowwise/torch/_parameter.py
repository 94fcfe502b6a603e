"""A torch parameter that lies in a table's own memory and is current whenever it is read."""

from __future__ import annotations

import copy
import weakref
from typing import Any, Self

import numpy as np
import torch

from rowwise.table import Table

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
    torch.Tensor.is_shared,
}  # fmt: skip

# What would give the parameter other memory than its table's.
_MOVES = (torch.Tensor.data.__set__, torch.Tensor.share_memory_)

# Tables by the address of their memory, for tensors over it that are not of this class.
_at: weakref.WeakValueDictionary[int, Table] = weakref.WeakValueDictionary()
# NumPy's views of a table's memory, which nobody can bring to now when they are read.
_arrays: weakref.WeakKeyDictionary[Table, list[weakref.ref[Any]]] = weakref.WeakKeyDictionary()


class TableParameter(torch.Tensor):
    """The weights, or a slot, of a table: (rows, dim) float32, no copy.

    Rows of a table may lag behind; this parameter brings them to now before torch, NumPy or an
    optimizer reads or writes the memory. Questions about its shape or its gradient cost nothing.
    Views of it (`detach`, `data`, `weight[3]`) do the same; they are of this class but, to torch,
    no parameters.
    """

    table: Table
    slot: str | None
    owner: TableParameter | None  # what a view is a view of

    def __new__(cls, table: Table, slot: str | None = None, requires_grad: bool = True) -> Self:
        """Lays a parameter over the table's weights, or over the slot named."""
        memory = torch.from_numpy(table.store.memory(slot))
        self: Self = torch.Tensor._make_subclass(cls, memory, requires_grad)
        self._lie_over(table, slot)
        return self

    def _lie_over(self, table: Table, slot: str | None) -> None:
        self.table, self.slot, self.owner = table, slot, None
        self._is_param = True  # torch's own sign: isinstance(self, torch.nn.Parameter)
        _at[table.store.memory(slot).ctypes.data] = table

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def lie_over_new_memory(self) -> None:
        """Takes up the memory that its table has now; the gradient, of other rows, is dropped.

        It stays the same parameter: modules and optimizers hold it by itself, not by name.
        """
        self.grad: Any = None
        with torch._C.DisableTorchFunctionSubclass():
            self.data = torch.from_numpy(self.table.store.memory(self.slot))
        self._lie_over(self.table, self.slot)

    def takes_bags(self, accumulation: Any) -> bool:
        """Whether a gradient on its way to this node of torch's graph may stay one of bags."""
        return False

    def bring_to_now(self) -> None:
        """Called before the memory is touched."""
        self.table.store.begin_external_write(self.slot)  # torch may be about to write to it

    def plain(self) -> torch.Tensor:
        """An ordinary tensor over the same memory, current now but not later."""
        self.bring_to_now()
        with torch._C.DisableTorchFunctionSubclass():
            # A storage of its own: whoever moves that elsewhere leaves the table where it is.
            owner = self if self.owner is None else self.owner
            whole = torch.from_numpy(owner.detach().numpy())
            return whole.as_strided(self.shape, self.stride(), self.storage_offset())

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in _MOVES and isinstance(args[0], TableParameter):
            return args[0].take_memory(func, *args[1:])
        parameters = _parameters_in([args, kwargs])
        for parameter in parameters:
            parameter.bring_to_now()
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            for parameter in parameters:
                parameter._watch(result)
        return result

    def take_memory(self, func: Any, *args: Any) -> Any:
        """self.data = values, or share_memory_(): the memory stays the table's."""
        values = args[0] if args else None
        if values is self:
            return None
        if values is not None and self.owner is not None:  # a view that goes its own way
            self.__class__ = torch.Tensor
            return func(self, values)
        if values is None or values.dtype != self.dtype or values.shape != self.shape:
            what = "shared memory" if values is None else f"{tuple(values.shape)} {values.dtype}"
            raise RuntimeError(
                f"the memory of a rowwise table, {tuple(self.shape)} {self.dtype}, cannot become "
                f"{what}; a layer that has to move there is keras.layers.Embedding"
            )
        values = values.plain() if isinstance(values, TableParameter) else values
        memory = self.plain()
        if memory.data_ptr() != values.data_ptr() or memory.stride() != values.stride():
            with torch.no_grad():
                memory.copy_(values)
        return None

    def _watch(self, result: Any) -> None:
        """Makes what lies in the same memory as current as this parameter is."""
        if type(result) is torch.Tensor:
            if _same_memory(self, result):
                result.__class__ = type(self)
                result.table, result.slot = self.table, self.slot  # type: ignore[attr-defined]
                result.owner = self if self.owner is None else self.owner  # type: ignore[attr-defined]
        elif type(result) in (list, tuple):
            for part in result:
                self._watch(part)
        elif isinstance(result, np.ndarray) and np.may_share_memory(result, self.detach().numpy()):
            _arrays.setdefault(self.table, []).append(weakref.ref(result))

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        shown = repr(self.plain().requires_grad_(self.requires_grad))
        return "Parameter containing:\n" + shown if hasattr(self, "_is_param") else shown

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            memo[id(self)] = self._view_copied() if self.owner is not None else self._copied(memo)
        return memo[id(self)]

    def _copied(self, memo: dict[int, Any]) -> torch.Tensor:
        return type(self)(copy.deepcopy(self.table, memo), self.slot, self.requires_grad)

    def _view_copied(self) -> torch.Tensor:
        if not self.is_leaf:
            raise RuntimeError("only leaves of the graph can be copied; detach() it first")
        twin = self.plain().clone().requires_grad_(self.requires_grad)
        return torch.nn.Parameter(twin) if hasattr(self, "_is_param") else twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.owner is None:
            return self._reduced()
        return self.plain().requires_grad_(self.requires_grad).__reduce_ex__(protocol)

    def _reduced(self) -> tuple[Any, ...]:
        return type(self), (self.table, self.slot, self.requires_grad)


def bring_to_now(tensor: Any) -> None:
    """Brings the table to now that a tensor lies over, wrapped by torch.func or not."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    if isinstance(tensor, TableParameter):
        tensor.bring_to_now()
    elif type(tensor) in (torch.Tensor, torch.nn.Parameter) and _at:
        table = _at.get(tensor.data_ptr())
        if table is not None:
            table.materialize()


def seen_by_numpy(table: Table) -> bool:
    """Whether there is an array over the table's memory; it is current only if all rows are."""
    alive = [array for array in _arrays.get(table, ()) if array() is not None]
    if table in _arrays:
        _arrays[table] = alive
    return bool(alive)


def _same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    try:
        return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # a tensor without a storage
        return False


def _parameters_in(values: Any) -> list[TableParameter]:
    if isinstance(values, TableParameter):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return []
    return [found for value in values for found in _parameters_in(value)]
