"""PyTorch's optimizers, which step tables by rows: at the cost of the batch, with their numbers.

Each is a subclass of PyTorch's of the same name, with its signature. Parameters of rowwise's
modules are stepped row by row, exactly; every other parameter is PyTorch's business. Where a table
cannot be stepped by rows (`weight_decay` that is added to the gradient, `differentiable`...),
PyTorch makes its dense step, with one warning that names the cause.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch

from rowwise.rules import Rule, pytorch
from rowwise.table import Table
from rowwise.torch.lookup import rows_and_gradients
from rowwise.torch.parameter import TableParameter
from rowwise.torch.rules import Group, NoRule, learning_rate, rule_of


class _ByRows(torch.optim.Optimizer):
    """What all of them share. The next class in the order of bases is PyTorch's optimizer."""

    _dense_ids: set[int]

    @property
    def dense_ids(self) -> set[int]:
        """id() of the tables' parameters that PyTorch steps."""
        return self.__dict__.setdefault("_dense_ids", set())

    def add_param_group(self, param_group: Group) -> None:
        """As PyTorch's; backward passes now give rows' gradients to this optimizer's tables."""
        super().add_param_group(param_group)
        self._ask_for_rows()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._ask_for_rows()

    def _ask_for_rows(self) -> None:
        for parameter, _ in self._tables():
            parameter.wanted_by.add(self)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters.

        Args:
            closure: evaluates the model anew and returns the loss.

        Returns:
            what closure returns, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        done = []
        try:
            for parameter, group in self._tables():
                gradient = parameter.raw_gradient()
                if gradient is None:
                    continue
                if self._step_by_rows(parameter, group, gradient):
                    done.append((parameter, gradient))
                    parameter.grad = None
                elif gradient.is_sparse and not parameter.sparse:
                    parameter.grad = gradient.to_dense()
            self._step_the_others()
        finally:
            for parameter, gradient in done:
                parameter.grad = gradient
        return loss

    def state_dict(self) -> dict[str, Any]:
        """As PyTorch's, of plain tensors: either optimizer opens it."""
        found: dict[str, Any] = super().state_dict()
        found["state"] = {
            key: {name: _plain(value) for name, value in state.items()}
            for key, state in found["state"].items()
        }
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As PyTorch's, from either optimizer's state; tables take theirs up at the next step."""
        super().load_state_dict(state_dict)
        for parameter, _ in self._tables():
            if parameter.keeper is not None and parameter.keeper() is self:
                parameter.keeper = None

    # ------------------------------------------------------------------ inner parts

    def _tables(self) -> Iterator[tuple[TableParameter, Group]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if isinstance(parameter, TableParameter) and parameter.slot is None:
                    yield parameter, group

    def _step_the_others(self) -> None:
        step: Any = self._torch_class().step
        while getattr(step, "hooked", False):  # hooks are around our own step already
            step = step.__wrapped__
        step(self)

    @classmethod
    def _torch_class(cls) -> type[torch.optim.Optimizer]:
        return next(kind for kind in cls.__mro__ if not issubclass(kind, _ByRows))

    def _step_by_rows(
        self, parameter: TableParameter, group: Group, gradient: torch.Tensor
    ) -> bool:
        if id(parameter) in self.dense_ids:
            return False
        try:
            rule = rule_of(self._torch_class().__name__, group)
            number = self._iteration(parameter)
            rate = learning_rate(group, number)
            if not 0 <= rate < math.inf:
                raise NoRule(f"the learning rate {rate} is none that a rule by rows takes")
            self._take_up(parameter, rule, number)
        except NoRule as cause:
            self._go_dense(parameter, f"{cause}")
            return False
        ids, gradients = rows_and_gradients(gradient)
        parameter.table.update(
            ids,
            -gradients if group.get("maximize") else gradients,
            rate,
            iteration=number,
            check_finite=False,  # a NaN goes where PyTorch would let it go
        )
        if "step" in (state := self.state.get(parameter, {})):
            state["step"] += 1
        if isinstance(rule, pytorch.NAdam):
            state["mu_product"] = torch.tensor(rule.momentum_product(number))
        return True

    def _iteration(self, parameter: TableParameter) -> int:
        """The number of the step about to be made. SGD tells only the first from all others."""
        state = self.state.get(parameter, {})
        if "step" in state:
            return int(state["step"]) + 1
        return 1 if state.get("momentum_buffer") is None else 2

    def _take_up(self, parameter: TableParameter, rule: Rule, number: int) -> None:
        """Gives the table this rule, with the slots that the optimizer's state has."""
        table = parameter.table
        keeper = parameter.keeper() if parameter.keeper is not None else None
        if keeper is self:
            if rule != table.rule:  # somebody turned a knob
                if table.rule is None or rule.slot_names != table.rule.slot_names:
                    raise NoRule("its hyperparameters now ask for other state than it has")
                table.retune(rule)
            return
        state = self.state.get(parameter, {})
        _check_momentum_product(state, rule, number)
        before = {n: _plain(state[n]) for n in rule.slot_names if state.get(n) is not None}
        if number > 1 and len(before) < len(rule.slot_names):
            raise NoRule(f"its state has no {' or '.join(set(rule.slot_names) - set(before))}")
        if keeper is not None:
            keeper._go_dense(parameter, f"a newer {type(self).__name__} has taken over its table")
        if not (table.rule == rule and all(_lies_on(table, state[n]) for n in before)):
            table.rule = rule
            for name, value in before.items():
                table.buffer(name)[:] = value.numpy()
                table.slots_written()
        if number == 1:
            state = {**self._first_state(), **state}
        slots = {n: TableParameter(table, n, requires_grad=False) for n in rule.slot_names}
        if state or slots:
            self.state[parameter] = {**state, **slots}
        parameter.keeper = weakref.ref(self)

    def _first_state(self) -> dict[str, Any]:
        return {"step": torch.tensor(0.0)}

    def _go_dense(self, parameter: TableParameter, cause: str) -> None:
        """From now on PyTorch makes the steps, over all rows; its state stays where it is."""
        self.dense_ids.add(id(parameter))
        state = self.state.get(parameter, {})
        state.update({name: _plain(value) for name, value in state.items()})
        if parameter.keeper is not None and parameter.keeper() is self:
            parameter.table.rule = None
            parameter.keeper = None
        rows, dim = parameter.table.shape
        warnings.warn(
            f"a table of {rows} rows of {dim}: {cause}; every step visits all {rows} rows, with "
            "PyTorch's own numbers at PyTorch's own speed",
            stacklevel=2,
        )


def _plain(value: Any) -> Any:
    """A tensor of the table's memory, brought to now, as a plain one; anything else as it is."""
    return value.detach() if isinstance(value, TableParameter) else value


def _lies_on(table: Table, value: Any) -> bool:
    return isinstance(value, TableParameter) and value.table is table


def _check_momentum_product(state: dict[str, Any], rule: Rule, number: int) -> None:
    """NAdam keeps the product of its momentums beside the count of its steps."""
    if isinstance(rule, pytorch.NAdam) and "mu_product" in state:
        kept, expected = float(state["mu_product"]), rule.momentum_product(number - 1)
        if not math.isclose(kept, expected, rel_tol=1e-3, abs_tol=1e-6):
            raise NoRule(f"its momentum product is {kept:g}, where its steps make {expected:g}")


class SGD(_ByRows, torch.optim.SGD):
    """`torch.optim.SGD`, by rows; `weight_decay` only without momentum (else dense)."""

    def _first_state(self) -> dict[str, Any]:
        return {}


class Adam(_ByRows, torch.optim.Adam):
    """`torch.optim.Adam`, by rows; dense with `weight_decay` that is not decoupled."""


class AdamW(_ByRows, torch.optim.AdamW):
    """`torch.optim.AdamW`, by rows."""


class RMSprop(_ByRows, torch.optim.RMSprop):
    """`torch.optim.RMSprop`, by rows; dense with `weight_decay`."""


class Adagrad(_ByRows, torch.optim.Adagrad):
    """`torch.optim.Adagrad`, by rows; dense with `weight_decay`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for parameter, _ in self._tables():  # its sums are the table's, from the first step on
            del self.state[parameter]


class Adadelta(_ByRows, torch.optim.Adadelta):
    """`torch.optim.Adadelta`, by rows; dense with `weight_decay`."""


class Adamax(_ByRows, torch.optim.Adamax):
    """`torch.optim.Adamax`, by rows; dense with `weight_decay`."""


class NAdam(_ByRows, torch.optim.NAdam):
    """`torch.optim.NAdam`, by rows; dense with `weight_decay` that is not decoupled."""

    def _first_state(self) -> dict[str, Any]:
        return {"step": torch.tensor(0.0), "mu_product": torch.ones(())}


__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RMSprop"]
