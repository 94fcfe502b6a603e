"""The weight of an embedding module: a parameter on a table, which it can also leave."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import torch

from rowwise.rules import Rule
from rowwise.store import BagGradient
from rowwise.table import Table
from rowwise.torch._gradient import RowGradient
from rowwise.torch._parameter import TableParameter

# The rowwise optimizers that are alive.
optimizers: weakref.WeakSet[Any] = weakref.WeakSet()


class Weight(TableParameter):
    """A table's weights as the parameter of a module, with the optimizer that has it in its care.

    What a table cannot hold (another dtype or device, memory shared between processes) makes an
    ordinary `torch.nn.Parameter` of it, in place.
    """

    keeper: weakref.ref[Any] | None = None  # the rowwise optimizer that has it in a group
    rule: Rule | None = None  # by which the keeper steps it by rows; None: densely
    stepper: weakref.ref[Any] | None = None  # the optimizer whose slots the table has
    warned = False
    bags: BagGradient | None = None  # a part of the gradient, not yet summed by rows

    @property
    def takes_rows(self) -> bool:
        """Whether the next step will be made by rows."""
        return self.rule is not None and self.keeper is not None and self.keeper() is not None

    def takes_bags(self, accumulation: Any) -> bool:
        """Whether its keeper's step will take the bags: nobody else sees this gradient first."""
        if not self.takes_rows or self.bags is not None or torch.is_grad_enabled():
            return False
        with torch._C.DisableTorchFunctionSubclass():
            if self.grad is not None:
                return False
        try:
            return bool(torch._C._will_engine_execute_node(accumulation))
        except RuntimeError:  # torch.autograd.grad, which hands it to the caller
            return False

    def gradient_for_step(self) -> BagGradient | torch.Tensor | None:
        """The gradient, as bags where it is nothing but those."""
        if self.bags is not None:
            with torch._C.DisableTorchFunctionSubclass():
                if self.grad is not None and self.grad.is_sparse and not self.grad._nnz():
                    return self.bags
        return self.grad

    def set_gradient(self, gradient: BagGradient | torch.Tensor | None) -> None:
        """Takes back what `gradient_for_step` gave."""
        if isinstance(gradient, BagGradient):
            self.grad, self.bags = no_rows(tuple(self.shape)), gradient
        else:
            self.grad = gradient

    def warn_once(self, cause: str) -> None:
        """Says why steps are made densely, the first time."""
        if not self.warned:
            warnings.warn(
                f"{cause}; every step visits all {self.shape[0]} rows of this embedding, with "
                "PyTorch's own numbers at PyTorch's own speed",
                stacklevel=3,
            )
        self.warned = True

    def dense_gradient_made(self) -> None:
        """Says once that there is a faster way than the step about to be made."""
        if self.keeper is None or self.keeper() is None:  # a keeper has said why itself
            self.warn_once(
                "the gradient is dense: no optimizer of rowwise.torch.optim had this embedding "
                "in its care at the forward pass"
            )

    def leave_table(self, cause: str) -> None:
        """Makes an ordinary parameter of it, in place."""
        warnings.warn(
            f"{cause}: this embedding is trained densely from now on, as torch.nn's is; "
            "rowwise's tables are float32 in this process's own memory",
            stacklevel=4,
        )
        self._become_ordinary()

    def _become_ordinary(self) -> None:
        self.table.materialize()
        gradient: Any = _gradient_of(self)
        if gradient is not None and gradient.is_sparse:
            self.grad = gradient.to_dense()
        for name in (
            *("table", "slot", "owner", "_is_param"),
            *("keeper", "rule", "stepper", "warned", "bags"),
        ):
            self.__dict__.pop(name, None)
        self.__class__ = torch.nn.Parameter  # type: ignore[assignment]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func == torch.Tensor.grad.__get__:
            return _gradient_of(args[0])
        if func in _SET_GRADIENT and isinstance(args[0], Weight):
            args[0].bags = None
        if func == torch.Tensor.data.__set__ and isinstance(args[0], Weight):
            return _set_data(*args)
        if func == torch.Tensor.share_memory_:
            weight = args[0]
            (weight if weight.owner is None else weight.owner).leave_table("shared memory")
            return func(*args)
        return super().__torch_function__(func, types, args, kwargs)

    def _copied(self, memo: dict[int, Any]) -> torch.Tensor:
        # A copy has an optimizer of its own, or none: the slots stay here.
        table = self.table
        return Weight(
            Table(*table.shape, init=lambda _: table.to_numpy()), None, self.requires_grad
        )

    def _reduced(self) -> tuple[Any, ...]:
        return weight_of, (self.plain(), self.requires_grad)


_SET_GRADIENT = (torch.Tensor.grad.__set__, torch.Tensor.grad.__delete__)


def weight_of(values: torch.Tensor, requires_grad: bool = True) -> Weight:
    """A weight on a new table that holds a copy of values (rows, dim)."""
    return Weight(Table(*values.shape, init=lambda _: values.detach().numpy()), None, requires_grad)


torch.serialization.add_safe_globals([weight_of])


def table_can_hold(values: Any) -> bool:
    """Whether a table can take the values of this tensor."""
    return (
        values.dtype is torch.float32
        and values.device.type == "cpu"
        and values.layout is torch.strided
        and values.dim() == 2
        and values.numel() > 0
        and not values.is_shared()
    )


def move_to_table(parameter: torch.nn.Parameter) -> None:
    """Makes a `Weight` of an ordinary parameter, in place: its memory is a new table's.

    Rowwise optimizers that have it take it into their care.
    """
    table = Table(*parameter.shape, init=lambda _: parameter.detach().numpy())
    parameter.data = torch.from_numpy(table.store.memory())
    parameter.__class__ = Weight
    parameter._lie_over(table, None)
    for optimizer in list(optimizers):
        for group in optimizer.param_groups:
            if any(other is parameter for other in group["params"]):
                optimizer.take_into_care(group)


def no_rows(shape: tuple[int, ...]) -> torch.Tensor:
    """A sparse gradient of no row."""
    # In torch's own memory: another gradient may be added to it in place.
    ids, gradients = torch.empty((1, 0), dtype=torch.int64), torch.empty((0, shape[1]))
    return torch.sparse_coo_tensor(ids, gradients, shape, check_invariants=False)


def sparse_rows(ids: Any, gradients: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """A sparse tensor of distinct ids (m,) ascending and their gradients (m, dim), NumPy."""
    return torch.sparse_coo_tensor(
        torch.from_numpy(ids).reshape(1, -1),
        torch.from_numpy(gradients),
        shape,
        check_invariants=False,
        is_coalesced=True,
    )


def _gradient_of(weight: Any) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        gradient, bags = weight.grad, weight.bags
        if bags is not None:
            summed = weight.table.store.coalesce(bags)
            rows = sparse_rows(summed.ids, summed.values, tuple(weight.shape))
            gradient = rows if gradient is None else gradient + rows
            weight.grad, weight.bags = gradient, None
        if gradient is None or type(gradient) is not torch.Tensor:
            return gradient
        if gradient.is_sparse and weight.takes_rows:  # else the user asked for a sparse one
            gradient.__class__ = RowGradient
        return gradient


def _set_data(weight: Weight, values: torch.Tensor) -> None:
    """weight.data = values"""
    if values is weight:
        return
    if isinstance(values, TableParameter):
        values = values.plain()
    fits = table_can_hold(values) and values.shape == weight.shape
    if weight.owner is None and fits:
        memory = weight.plain()
        if memory.data_ptr() != values.data_ptr() or not values.is_contiguous():
            memory.copy_(values)
        return
    if weight.owner is None and table_can_hold(values):  # of another shape
        weight._become_ordinary()
        weight.data = values
        move_to_table(weight)
        return
    if weight.owner is None:
        weight.leave_table(f"{values.dtype} on {values.device}")
    else:  # a view that goes its own way
        weight.__class__ = (
            torch.nn.Parameter if hasattr(weight, "_is_param") else torch.Tensor  # type: ignore[assignment]
        )
    weight.data = values
