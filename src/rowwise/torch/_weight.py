"""The weight of an embedding module: a parameter on a table, which it can also leave."""

from __future__ import annotations

import warnings
import weakref
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal

import torch
from torch.multiprocessing.reductions import reduce_tensor

from rowwise._binding import OptimizerBinding
from rowwise.rules import Rule
from rowwise.store import BagGradient, HostStore, RowGradient, RowStore, in_memory
from rowwise.table import Table
from rowwise.torch._device import DeviceStore, is_device, why_unusable
from rowwise.torch._gradient import RowGradientTensor, as_row_gradient
from rowwise.torch._half import HALVES, TABLES, array_over, host_table
from rowwise.torch._parameter import TableMemory, TableParameter, leave_uncompiled

# Where a weight's table lies: "host", in the host's memory, wherever the model is; "device", where
# the weight is, or moving it is an error; None, where the weight is, or there is no table.
Place = Literal["device", "host"]

# The rowwise optimizers that are alive.
optimizers: weakref.WeakSet[Any] = weakref.WeakSet()


class SteppedByRow:
    """Mixed into a parameter whose gradient may be one of rows, and of bags not yet summed."""

    binding: OptimizerBinding
    asked_sparse: bool = False  # whether the module was asked for sparse gradients
    bags: BagGradient | None = None  # a part of the gradient, not yet summed by row
    table: Any
    grad: Any
    shape: Any
    device: Any
    dtype: Any

    def can_defer_bags(self, accumulation: Any) -> bool:
        """Return whether the next step takes the bags, and nobody sees this gradient before."""
        if self.binding.mode != "sparse" or self.bags is not None or torch.is_grad_enabled():
            return False
        with torch._C.DisableTorchFunctionSubclass():
            if self.grad is not None:
                return False
        try:
            return bool(torch._C._will_engine_execute_node(accumulation))
        except RuntimeError:  # torch.autograd.grad, which hands it to the caller
            return False

    def gradient_for_step(self) -> BagGradient | torch.Tensor | None:
        """Return the gradient, as bags where it is nothing but those."""
        with torch._C.DisableTorchFunctionSubclass():
            gradient = self.grad
            if self.bags is None:
                return gradient
            if gradient is not None and gradient.is_sparse and not gradient._nnz():
                return self.bags
        return self.grad

    def set_gradient(self, gradient: BagGradient | torch.Tensor | None) -> None:
        """Take back what `gradient_for_step` gave."""
        if isinstance(gradient, BagGradient):
            rows = no_rows(tuple(self.shape), self.device).to(self.dtype)
            self.grad, self.bags = rows, gradient
        else:
            self.grad = gradient

    def warn_of_dense_steps(self, reason: object) -> None:
        """Warn once that steps visit every row."""
        self.binding.warn(reason, rows=self.shape[0], stacklevel=3)

    def on_dense_gradient(self) -> None:
        """Warn once that there is a faster way than the step about to be made."""
        if self.binding.owner is None:  # an owner has given its reason itself
            self.warn_of_dense_steps(
                "the gradient is dense: no optimizer of rowwise.torch.optim had this embedding "
                "among its parameters at the forward pass"
            )

    def sum_bags(self) -> Any:
        """Return torch's gradient, in which the bags are summed by row; outside of dispatch."""
        if self.bags is not None:
            rows = sparse_rows(self.table.store, sum_rows(self.table.store, self.bags))
            rows = rows.to(self.dtype)
            self.grad = rows if self.grad is None else self.grad + rows
            self.bags = None
        return self.grad


class Weight(SteppedByRow, TableParameter):
    """A table's weights as the parameter of a module, with the optimizer that steps it.

    What a table cannot hold (another dtype or device, memory shared between processes) makes an
    ordinary `torch.nn.Parameter` of it, in place.
    """

    last_step: tuple[float, int] | None = None  # learning rate and iteration
    place: Place | None = None  # of the table
    rounding: str | None = None  # of weights of 16 bits; None: no table holds them
    skipped_row: int | None = None  # of a table on a device: a row that no gradient by row touches
    counted: Any = None  # steps by `state["step"]`, while nobody else changes that

    def __new__(cls, data: Any = None, requires_grad: bool = True) -> Any:
        """Return a `torch.nn.Parameter`: for `type(weight)(values)`, by which programs make one."""
        return torch.nn.Parameter(data, requires_grad)

    @classmethod
    def over(cls, table: Table, requires_grad: bool = True) -> Weight:
        """Return a parameter over the table's weights."""
        return super().__new__(cls, table, None, requires_grad)

    def _bind(self, memory: TableMemory) -> None:
        super()._bind(memory)
        if "binding" not in self.__dict__:
            self.binding = OptimizerBinding()

    def set_data(self, values: torch.Tensor) -> None:
        """Lie over the memory of `values`, as `data` is assigned; views of the old stay there."""
        if values is self:
            return
        given, ordinary = values, type(values) is torch.Tensor and not values.requires_grad
        if isinstance(values, TableParameter):
            ordinary = values.memory.table is None  # its table has left it
            values = values.as_left() if ordinary else values.as_ordinary()
        if self.base is not None:
            self.leave_memory(values)
        elif self._moves_to(values):
            self._move(values)
            if ordinary:
                self._adopt(given)
        elif (reason := _owner_of(self) or self._obstacle(values)) is not None:
            state, slots = self._slots_of_owner()
            self.fall_back_to_dense(reason)
            self.data = values
            for name in slots:
                state[name] = state[name].as_ordinary().to(values.device)
        elif values.shape != self.shape or values.dtype != self.dtype:
            place, rounding = self.place, self.rounding
            self._become_ordinary()
            self.data = values
            move_to_table(self, place, rounding)
        elif values.data_ptr() != self.memory.alias.data_ptr():
            table, alias = self.table, values.detach()
            self.memory.release()
            if isinstance(table.store, DeviceStore):
                table.store.use_memory(alias)
            else:
                in_memory(table.store).use_memory(array_over(alias))
            self.rebind(table, alias)
            if ordinary:
                self._adopt(given)  # the caller may hold it, and sees training in it

    def _obstacle(self, values: torch.Tensor) -> str | None:
        return obstacle(values, self.place, self.rounding, self.table.rule) or _order_of(values)

    def _moves_to(self, values: torch.Tensor) -> bool:
        """Return whether the table goes to the device of values of its own shape."""
        if values.shape != self.shape or values.dtype != self.dtype or _owner_of(self):
            return False
        on_device = isinstance(self.table.store, DeviceStore)
        goes = values.device != self.device or goes_to_device(values, self.place) != on_device
        return goes and self._obstacle(values) is None

    def _move(self, values: torch.Tensor) -> None:
        """Move the table to the device of values, with slots, counts and clock.

        The optimizer's state goes along; views of the old memory keep what they have.
        """
        with torch._C.DisableTorchFunctionSubclass():
            self.sum_bags()  # which the store that moves has sorted
        table, before = self.table, self.table.store
        before.materialize()
        self.counted = None
        state, version = before.state(), before.version
        of_owner, slots = self._slots_of_owner()
        alias = values.detach()
        if goes_to_device(values, self.place):
            table.store = DeviceStore.from_state(state, values.device, weights=alias)
        else:
            table.store = HostStore.from_state(state)
            table.store.use_memory(alias.numpy())
        table.store.version = version + 1
        self.rebind(table, alias)
        for name in slots:
            of_owner[name] = TableParameter(table, name, requires_grad=False).detach()

    def _slots_of_owner(self) -> tuple[dict[str, Any], list[str]]:
        """Return the state that the owner keeps of this weight, and its names of the slots."""
        owner = self.binding.owner
        state = {} if owner is None else owner.state.get(self, {})
        names = self.table.slot_names
        return state, [name for name in names if isinstance(state.get(name), TableParameter)]

    def share_memory_with_others(self) -> torch.Tensor:
        """Become an ordinary parameter in shared memory; that of a GPU is shared as it is."""
        if self.is_cuda:
            return self
        (self if self.base is None else self.base).fall_back_to_dense("shared memory")  # type: ignore[attr-defined]
        return self.share_memory_()

    def fall_back_to_dense(self, reason: str) -> None:
        """Make an ordinary parameter of it, in place, and warn with the reason."""
        warnings.warn(
            f"{reason}: this embedding is trained densely from now on, as torch.nn's is; {TABLES}, "
            "in memory that no other process shares",
            stacklevel=4,
        )
        self.leave_table()

    def leave_to_capture(self) -> None:
        """Become an ordinary parameter where a CUDA graph is being captured.

        It stays on its table, and the call is refused, where an optimizer of ours steps it: a graph
        would not see that rows lag.
        """
        store = self.table.store
        if not isinstance(store, DeviceStore) or self.place == "device":
            return
        if self.binding.owner is None and store.is_left_to_capture:
            self.fall_back_to_dense("a CUDA graph is being captured")

    def leave_table(self) -> None:
        """Make an ordinary parameter of it, in place; somebody has said why."""
        self._become_ordinary()
        self.fell_back = True  # the module need not say it again

    def _become_ordinary(self) -> None:
        gradient: Any = self.grad
        self.memory.release()
        if isinstance(gradient, RowGradientTensor):
            if self.asked_sparse:
                gradient.__class__ = torch.Tensor
            else:
                gradient.make_dense()
        for name in (
            "memory",
            "base",
            "_watched",
            "_is_param",
            "binding",
            "asked_sparse",
            "bags",
            "place",
            "rounding",
            "last_step",
            "skipped_row",
            "counted",
        ):
            self.__dict__.pop(name, None)
        self.__class__ = torch.nn.Parameter  # type: ignore[assignment]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func == torch.Tensor.grad.__get__:
            return _gradient_of(args[0])
        if func in _GRADIENT_SETTERS and isinstance(args[0], Weight):
            args[0].bags = None
        return super().__torch_function__(func, types, args, kwargs)

    def _copied(self, memo: dict[int, Any]) -> torch.Tensor:
        # A copy has an optimizer of its own, or none: the slots stay here.
        own = self.as_ordinary(), self.requires_grad, self.table.is_trained(), self.place
        return weight_of(*own, *self._how_rounded())

    def _reduced(self) -> tuple[Any, ...]:
        trained = torch.from_numpy(self.table.is_trained())
        own = self._apart(), self.requires_grad, trained
        if self.rounding is not None:
            return weight_of, (*own, self.place, *self._how_rounded())
        return weight_of, own if self.place is None else (*own, self.place)

    def _how_rounded(self) -> tuple[str | None, int | None, int]:
        """Return the rounding, and where it is random the seed and count of updates."""
        store = self.table.store
        seed = store.rounding_seed if isinstance(store, HostStore) else None
        return self.rounding, seed, 0 if seed is None else store.steps


leave_uncompiled(Weight)
_GRADIENT_SETTERS = (torch.Tensor.grad.__set__, torch.Tensor.grad.__delete__)


def weight_of(
    values: torch.Tensor,
    requires_grad: bool = True,
    trained: Any = None,
    place: Place | None = None,
    rounding: str | None = None,
    seed: int | None = None,
    steps: int = 0,
) -> torch.nn.Parameter:
    """Return a weight on a new table that holds a copy of values (rows, dim).

    On a device whose kernels fail it is an ordinary parameter, with a warning.

    Args:
        values: (rows, dim) float32, or of 16 bits with a rounding.
        requires_grad: of the weight.
        trained: (rows,) which rows count as trained; all unless given.
        place: of the table.
        rounding, seed: see `rowwise.torch._half.host_table`.
        steps: updates that random rounding has drawn for.

    Raises:
        RuntimeError: place="device", and the kernels fail.
    """
    values = values.detach()
    if (reason := obstacle(values, place, rounding)) is not None:
        ordinary: Any = torch.nn.Parameter(values.clone(), requires_grad)
        warn_of_no_table(reason, stacklevel=3)
        ordinary.fell_back = True
        return ordinary  # type: ignore[no-any-return]
    copied = values.clone() if goes_to_device(values, place) else values
    table = table_of(copied, place, rounding, seed)
    if steps:
        in_memory(table.store).steps = steps
    table.mark_trained(None if trained is None else torch.as_tensor(trained).cpu().nonzero()[:, 0])
    weight: Any = Weight.over(table, requires_grad)
    weight.place, weight.rounding = place, rounding
    return weight  # type: ignore[no-any-return]


def table_of(
    values: torch.Tensor,
    place: Place | None,
    rounding: str | None = None,
    seed: int | None = None,
) -> Table:
    """Return a table of values (rows, dim): a copy, or on a device that memory itself."""
    if goes_to_device(values, place):
        return Table.of_store(DeviceStore.over(values))
    return host_table(values.cpu(), rounding, seed)


def goes_to_device(values: torch.Tensor, place: Place | None) -> bool:
    """Return whether a table of values is one of their device, not one of the host."""
    return place != "host" and values.dtype not in HALVES and is_device(values.device)


def warn_of_no_table(reason: str, stacklevel: int) -> None:
    """Warn that a weight which no table holds is trained densely."""
    warnings.warn(
        f"{reason}: this embedding is trained densely, as torch.nn's is; {TABLES}",
        stacklevel=stacklevel + 1,
    )


torch.serialization.add_safe_globals([weight_of])


def _reduce_for_process(weight: Weight) -> Any:
    """Send a weight, or a view of it, to another process: in PyTorch both then share the memory."""
    owner: Any = weight if weight.base is None else weight.base
    if isinstance(owner, Weight):
        owner.fall_back_to_dense("a weight sent to another process shares its memory")
    if type(weight) is Weight:  # a view
        weight.__class__ = torch.Tensor  # type: ignore[assignment]
    return reduce_tensor(weight)


def _reduce_state_for_process(tensor: TableParameter) -> Any:
    """Send a tensor over a slot, of an optimizer's state, to another process."""
    if tensor.base is None:
        return tensor.__reduce_ex__(2)
    tensor.leave_memory(tensor.as_ordinary().clone())  # which lives as long as the state does
    return reduce_tensor(tensor)


ForkingPickler.register(Weight, _reduce_for_process)
ForkingPickler.register(TableParameter, _reduce_state_for_process)


def obstacle(
    values: torch.Tensor,
    place: Place | None = None,
    rounding: str | None = None,
    rule: Rule | None = None,
) -> str | None:
    """Return why a table cannot take the values of a tensor; None if it can.

    Args:
        values: of a weight.
        place: of the table.
        rounding: of weights of 16 bits, which stay on the CPU; None: they are left to PyTorch.
        rule: of the table.

    Raises:
        RuntimeError: place="device", and the kernels of the values' device fail.
    """
    is_half = rounding is not None and values.dtype in HALVES
    places = ("cpu",) if is_half or place == "host" else ("cpu", "cuda")
    if not (is_half or values.dtype is torch.float32) or values.device.type not in places:
        return f"{values.dtype} on {values.device}"
    if values.layout is not torch.strided:
        return f"a weight of layout {values.layout}"
    if values.dim() != 2 or not values.numel():
        return f"a weight of shape {tuple(values.shape)}"
    # torch says of all memory of a GPU that it is shared
    if not values.is_cuda and values.is_shared():
        return "shared memory"
    if (owner := _owner_of(values)) is not None:
        return owner
    return failing_kernels(values, place, rule) if goes_to_device(values, place) else None


def failing_kernels(values: torch.Tensor, place: Place | None, rule: Rule | None) -> str | None:
    """Return why the kernels of a rule do not serve on the device of values; None if they do.

    Raises:
        RuntimeError: place="device", and they do not.
    """
    reason = why_unusable(values.device, rule)
    if reason is not None and place == "device":
        raise RuntimeError(
            f'{reason}; nothing has changed; leave out table="device" to train densely there'
        )
    return reason


def _owner_of(values: torch.Tensor) -> str | None:
    """Return who lays a parameter into memory of its own, which it also resizes; None if nobody."""
    return "FSDP" if getattr(values, "_fsdp_flattened", False) else None


def _order_of(values: torch.Tensor) -> str | None:
    return None if values.is_contiguous() else "memory that is not contiguous"


def table_can_hold(
    values: torch.Tensor, place: Place | None = None, rounding: str | None = None
) -> bool:
    """Return whether a table can take the values of a tensor, see `obstacle`."""
    return obstacle(values, place, rounding) is None


def is_part(values: torch.Tensor) -> bool:
    """Return whether a tensor's memory is a part of a larger one's."""
    return values.layout is torch.strided and values.untyped_storage().nbytes() > values.nbytes


def move_to_table(
    parameter: torch.nn.Parameter, place: Place | None = None, rounding: str | None = None
) -> None:
    """Make a `Weight` of an ordinary parameter, in place: its memory is a new table's.

    Rowwise optimizers that have it among their parameters step it from now on.

    Args:
        parameter: a table can take its values.
        place: of the table.
        rounding: of weights of 16 bits.
    """
    memory = TableMemory(table_of(parameter.detach(), place, rounding), None)
    parameter.data = memory.data
    parameter.__class__ = Weight
    parameter._bind(memory)
    parameter.place, parameter.rounding = place, rounding
    for optimizer in list(optimizers):
        for group in optimizer.param_groups:
            if any(other is parameter for other in group["params"]):
                optimizer.ensure_bound(group)


def no_rows(shape: tuple[int, ...], device: Any = None) -> torch.Tensor:
    """Return a sparse gradient of no row."""
    # In torch's own memory: another gradient may be added to it in place.
    ids = torch.empty((1, 0), dtype=torch.int64, device=device)
    gradients = torch.empty((0, shape[1]), dtype=torch.float32, device=device)
    return torch.sparse_coo_tensor(ids, gradients, shape, check_invariants=False)


def sum_rows(store: RowStore, gradient: BagGradient) -> RowGradient:
    """Return ids, ascending, each with its sum; on a device without waiting for their number.

    There an id may stand again, with a gradient of zeros.
    """
    return (store.sum_repeated if isinstance(store, DeviceStore) else store.coalesce)(gradient)


def sparse_rows(store: RowStore, rows: RowGradient) -> torch.Tensor:
    """Return what `sum_rows` gave as a sparse tensor of the store's shape."""
    return torch.sparse_coo_tensor(
        torch.as_tensor(rows.ids).reshape(1, -1),
        torch.as_tensor(rows.values),
        store.shape,
        check_invariants=False,
        is_coalesced=not isinstance(store, DeviceStore),
    )


def _gradient_of(weight: Any) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        gradient = weight.sum_bags()
        if gradient is None or type(gradient) is not torch.Tensor or not gradient.is_sparse:
            return gradient
        if weight.asked_sparse and weight.binding.mode == "dense":
            return gradient
        if gradient.requires_grad:  # with a graph of its own
            weight.grad = gradient = gradient.to_dense()
        else:
            as_row_gradient(gradient, weight)
        return gradient
