"""Torch tensors that lie in a table's own memory and are up to date whenever they are read."""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch._dynamo.decorators import skip_code
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from rowwise.store import HostStore, RowStore, in_memory
from rowwise.table import Table
from rowwise.torch._device import DeviceStore
from rowwise.torch._half import array_over, tensor_over

# Questions that are answered without reading a number.
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

# Functions whose result reaches the memory without any call that torch would announce.
_UNWATCHED = (
    torch.Tensor.numpy,
    torch.Tensor.__array__,
    torch.Tensor.__dlpack__,
    torch.Tensor.untyped_storage,
    torch.Tensor.storage,
)

# How CuPy and Numba reach the memory of a GPU: by its address.
_CUDA_ARRAY = torch.Tensor.__cuda_array_interface__.__get__  # type: ignore[attr-defined]

# Top-level packages that ask for an address to compare it, as their tests for shared memory do.
_COMPARE_ADDRESSES = {
    "rowwise", "torch", "safetensors", "huggingface_hub", "transformers", "accelerate", "peft",
    "lightning", "lightning_fabric", "pytorch_lightning",
}  # fmt: skip

# sys.getrefcount of an object that one attribute holds, and of a storage's object, which torch
# holds too.
_tensor = torch.empty(1)
_storage, _object = _tensor.untyped_storage(), object()
_STORAGE_WITH_ONE_HOLDER, _ONE_HOLDER = sys.getrefcount(_storage), sys.getrefcount(_object)

# Tables by the address of their memory, for tensors over it that are not of this class.
_at: weakref.WeakValueDictionary[int, Table] = weakref.WeakValueDictionary()


def shared(store: RowStore) -> HostStore | DeviceStore:
    """Return a store whose rows are one array, in this process's memory or a device's.

    Raises:
        TypeError: the rows lie elsewhere.
    """
    return store if isinstance(store, DeviceStore) else in_memory(store)


def over_memory(store: RowStore, slot: str | None) -> torch.Tensor:
    """Return an ordinary tensor over the weights of a store or a slot, in a storage of its own."""
    if isinstance(store, DeviceStore):
        return torch.from_dlpack(store.memory(slot))
    return tensor_over(in_memory(store).memory(slot), store.dtype if slot is None else "float32")


def address_of(store: RowStore, slot: str | None) -> int:
    """Return the address of the weights of a store, or of a slot."""
    memory = shared(store).memory(slot)
    return memory.data_ptr() if isinstance(memory, torch.Tensor) else memory.ctypes.data


class TableMemory:
    """The memory of a table's weights, or of a slot, as tensors share it.

    Attributes:
        table: None once the table has other memory; these numbers then stay what they are.
        slot: name of the slot; None for the weights.
        data: an ordinary tensor over the memory, in the storage of the parameter and its views.
        alias: another, in a storage of its own. What cannot be watched (NumPy arrays, DLPack
            capsules, storages) is made from it.
        watched: held by the parameter and by each of its views, to count them.
        watched_alias: held by views in the storage of `alias`: what was assigned to `data`.
        address_known: whether a program has asked for the address, which it may keep.
    """

    def __init__(self, table: Table, slot: str | None, alias: torch.Tensor | None = None) -> None:
        self.table: Table | None = table
        self.slot = slot
        self.data = over_memory(table.store, slot)
        self.alias = over_memory(table.store, slot) if alias is None else alias
        self.watched, self.watched_alias = object(), object()
        self.address_known = False
        self._data_storage = self.data.untyped_storage()
        self._alias_storage = self.alias.untyped_storage()
        # The table's array is one; on a device its tensor is the alias itself.
        on_device = isinstance(table.store, DeviceStore)
        self._alias_users = 3 if alias is not None and not on_device else 2
        _at[self.data.data_ptr()] = table

    def materialize(self) -> None:
        """Bring rows up to date before torch reads the memory or writes to it."""
        if self.table is not None:
            shared(self.table.store).begin_external_write(self.slot)

    def release(self) -> None:
        """Leave the memory, up to date, to the tensors over it."""
        store = None if self.table is None else self.table.store
        if not (isinstance(store, DeviceStore) and store.is_left_to_capture):
            self.materialize()
        self.table = None

    @property
    def is_exposed(self) -> bool:
        """Whether something that cannot be watched reaches the memory.

        Torch counts the users of a storage: beside these tensors and storage objects, and those
        that are watched, there is none.
        """
        watched = sys.getrefcount(self.watched) - _ONE_HOLDER
        watched_alias = sys.getrefcount(self.watched_alias) - _ONE_HOLDER
        return (
            self.address_known
            or users_of(self._data_storage) > 2 + watched
            or users_of(self._alias_storage) > self._alias_users + watched_alias
            or sys.getrefcount(self._alias_storage) > _STORAGE_WITH_ONE_HOLDER
        )


class TableParameter(torch.Tensor):
    """The weights, or a slot, of a table: (rows, dim) float32, without a copy.

    Rows of a table may lag behind. Before torch or an optimizer reads or writes the memory, this
    class brings them up to date. Questions about the shape or the gradient cost nothing. Views of
    it (`detach`, `data`, `weight[3]`) are of this class too, but, to torch, no parameters.
    """

    memory: TableMemory
    base: TableParameter | None  # the parameter that a view was taken of

    def __new__(cls, table: Table, slot: str | None = None, requires_grad: bool = True) -> Self:
        """Make a parameter over the table's weights, or over the slot named."""
        memory = TableMemory(table, slot)
        self: Self = torch.Tensor._make_subclass(cls, memory.data, requires_grad)
        self._bind(memory)
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _bind(self, memory: TableMemory) -> None:
        self.memory, self.base, self._watched = memory, None, memory.watched
        self._is_param = True  # torch's own sign: isinstance(self, torch.nn.Parameter)

    @property
    def table(self) -> Table:
        """The table whose memory this is."""
        table = self.memory.table
        if table is None:
            raise ValueError("the table of this tensor has other memory now")
        return table

    def rebind(self, table: Table, alias: torch.Tensor | None = None) -> None:
        """Lie over the memory that the table has now; views of the old memory stay there.

        It stays the same parameter: modules and optimizers hold it by itself, not by name.

        Args:
            table: of the same slots.
            alias: the tensor whose memory the table took.
        """
        memory = TableMemory(table, self.memory.slot, alias)
        with torch._C.DisableTorchFunctionSubclass():
            self.data = memory.data
        self.memory.table = None
        self._bind(memory)

    def can_defer_bags(self, accumulation: Any) -> bool:
        """Return whether a gradient bound for this node of torch's graph may stay one of bags."""
        return False

    def materialize(self) -> None:
        """Bring rows up to date before the memory is read or written."""
        self.memory.materialize()

    def as_ordinary(self) -> torch.Tensor:
        """Return an ordinary tensor over the same memory, up to date now but not later."""
        self.materialize()
        with torch._C.DisableTorchFunctionSubclass():
            alias = self.memory.alias.detach()
            offset = alias.storage_offset() + self.storage_offset()
            return alias.as_strided(self.shape, self.stride(), offset)

    def storage_for_a_graph(self) -> torch.UntypedStorage:
        """Return the storage, of which a compiled graph will read and write the memory."""
        self.memory.address_known = True
        with unrecorded():
            return self.as_ordinary().untyped_storage()

    def as_left(self) -> torch.Tensor:
        """Return an ordinary tensor in the same storage, which the table has left."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.detach()

    def _apart(self) -> torch.Tensor:
        """Return `as_ordinary` in a storage of its own, which others may move elsewhere."""
        self.materialize()
        with torch._C.DisableTorchFunctionSubclass():
            data, dtype = self.memory.data, str(self.memory.data.dtype).removeprefix("torch.")
            whole = (
                torch.from_dlpack(data) if data.is_cuda else tensor_over(array_over(data), dtype)
            )
            return whole.as_strided(self.shape, self.stride(), self.storage_offset())

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        return cls._on_memory(func, args, kwargs)

    @classmethod
    @torch.compiler.disable  # a compiled graph would read the memory as it lies there
    def _on_memory(cls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function of torch's that may read or write the memory."""
        first = args[0] if args else None
        if isinstance(first, TableParameter):
            if func == torch.Tensor.data.__set__:
                return first.set_data(args[1])
            if func is torch.Tensor.share_memory_:
                return first.share_memory_with_others()
            if func is torch.Tensor.data_ptr and not _caller_compares():
                first.memory.address_known = True
            if func == _CUDA_ARRAY and first.memory.data.is_cuda:
                first.memory.address_known = True
            if func is torch.Tensor.untyped_storage and _is_made_fake():
                return first.storage_for_a_graph()
            if func in _UNWATCHED:
                ordinary = first.as_ordinary().requires_grad_(first.requires_grad)
                return func(ordinary, *args[1:], **kwargs)
        if torch.jit.is_tracing() or get_proxy_mode() is not None:
            # The trace reads an ordinary tensor, which exposes the memory as long as it lives.
            with unrecorded():
                args, kwargs = tree_map_only(TableParameter, cls.as_ordinary, (args, kwargs))
            return func(*args, **kwargs)
        parameters = _parameters_in([args, kwargs])
        for parameter in parameters:
            parameter.materialize()
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            for parameter in parameters:
                parameter._adopt_views(result)
        return result

    def set_(self, *args: Any, **kwargs: Any) -> TableParameter:  # type: ignore[override]
        """Use other memory, as `torch.Tensor.set_`, a call that torch does not dispatch."""
        alone = len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor)
        self.set_data(args[0] if alone else torch.empty(0).set_(*args, **kwargs))
        return self

    def set_data(self, values: torch.Tensor) -> None:
        """Copy `values` into the memory, as `data` is assigned."""
        if values is self:
            return
        if self.base is not None:
            self.leave_memory(values)
            return
        if values.dtype != self.dtype or values.shape != self.shape:
            raise RuntimeError(
                f"the memory of a rowwise table, {tuple(self.shape)} {self.dtype}, cannot become "
                f"{tuple(values.shape)} {values.dtype}; a layer that has to move there is "
                "keras.layers.Embedding"
            )
        values = values.as_ordinary() if isinstance(values, TableParameter) else values
        memory = self.as_ordinary()
        if memory.data_ptr() != values.data_ptr() or memory.stride() != values.stride():
            with torch.no_grad():
                memory.copy_(values)

    def share_memory_with_others(self) -> torch.Tensor:
        """Refuse: the memory is this process's."""
        raise RuntimeError(
            f"the memory of a rowwise table, {tuple(self.shape)} {self.dtype}, cannot become "
            "shared memory; a layer that has to move there is keras.layers.Embedding"
        )

    def leave_memory(self, values: torch.Tensor) -> None:
        """Make a view an ordinary tensor of `values`."""
        self.__class__ = torch.nn.Parameter if hasattr(self, "_is_param") else torch.Tensor  # type: ignore[assignment]
        self.data = values

    def as_view(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a view of this parameter: `tensor` itself, where it can become one.

        Whoever else holds the tensor sees the changes to come, as of a state that torch has loaded.
        """
        with torch._C.DisableTorchFunctionSubclass():
            if tensor.shape != self.shape or tensor.dtype != self.dtype or tensor.requires_grad:
                tensor = self.detach()
            tensor.data = self.memory.data
        self._adopt(tensor)
        return tensor

    def _adopt(self, view: Any) -> None:
        view.__class__ = type(self)
        memory = view.memory = self.memory
        with torch._C.DisableTorchFunctionSubclass():
            in_alias = view.untyped_storage()._cdata == memory._alias_storage._cdata
        view._watched = memory.watched_alias if in_alias else memory.watched
        view.base = self if self.base is None else self.base

    def _adopt_views(self, result: Any) -> None:
        """Make what lies in the same memory a view, as up to date as this parameter is."""
        if type(result) is torch.Tensor:
            if _same_memory(self, result):
                self._adopt(result)
        elif type(result) in (list, tuple):
            for part in result:
                self._adopt_views(part)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        shown = repr(self.as_ordinary().requires_grad_(self.requires_grad))
        return "Parameter containing:\n" + shown if hasattr(self, "_is_param") else shown

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            memo[id(self)] = self._view_copied() if self.base is not None else self._copied(memo)
        return memo[id(self)]

    def _copied(self, memo: dict[int, Any]) -> torch.Tensor:
        return type(self)(copy.deepcopy(self.table, memo), self.memory.slot, self.requires_grad)

    def _view_copied(self) -> torch.Tensor:
        if not self.is_leaf:
            raise RuntimeError("only leaves of the graph can be copied; detach() it first")
        twin = self.as_ordinary().clone().requires_grad_(self.requires_grad)
        return torch.nn.Parameter(twin) if hasattr(self, "_is_param") else twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.base is None:
            return self._reduced()
        return self._apart().requires_grad_(self.requires_grad).__reduce_ex__(protocol)

    def _reduced(self) -> tuple[Any, ...]:
        return type(self), (self.table, self.memory.slot, self.requires_grad)


def leave_uncompiled(kind: type[torch.Tensor]) -> None:
    """Let a class's `__torch_function__` run as it is where a compiled program breaks its graph."""
    skip_code(kind.__torch_function__.__func__.__code__)


leave_uncompiled(TableParameter)


def materialize(tensor: Any) -> None:
    """Bring the table up to date that a tensor lies over, wrapped by torch.func or not."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    if isinstance(tensor, TableParameter):
        tensor.materialize()
    elif type(tensor) in (torch.Tensor, torch.nn.Parameter) and _at:
        table = _at.get(tensor.data_ptr())
        if table is not None:
            shared(table.store).begin_external_write()


@contextmanager
def unrecorded() -> Iterator[None]:
    """Leave what is done out of the trace being made, if any."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        with _disable_current_modes():
            yield
    finally:
        torch._C._set_tracing_state(state)


def users_of(storage: torch.UntypedStorage) -> int:
    """Return how many tensors, and Python objects, use a storage; `storage` is one."""
    users: int = torch._C._storage_Use_Count(storage._cdata)
    return users


def _caller_compares() -> bool:
    """Return whether the function that calls a torch function is of a package that compares."""
    frame, dispatch = sys._getframe(1), "__torch_function__"
    while frame.f_code.co_name != dispatch and frame.f_back is not None:
        frame = frame.f_back
    while frame.f_code.co_name == dispatch and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_globals.get("__name__", "").partition(".")[0] in _COMPARE_ADDRESSES


def _is_made_fake() -> bool:
    """Return whether a compiler is making its stand-in of a tensor, which a graph will be given."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


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
