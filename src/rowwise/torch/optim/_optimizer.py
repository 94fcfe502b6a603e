"""What the optimizers share: tables stepped by rows, everything else by torch's own step."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

from rowwise.rules import Rule, pytorch
from rowwise.store import BagGradient
from rowwise.table import Table
from rowwise.torch._lookup import rows_and_gradients
from rowwise.torch._parameter import seen_by_numpy
from rowwise.torch._rules import Group, NoRule, learning_rate, rule_of
from rowwise.torch._weight import Weight, optimizers
from rowwise.torch.optim._state import give_back_slots, take_up_slots


class ByRows(torch.optim.Optimizer):
    """Mixed into one of torch's optimizers, before it."""

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group; embeddings in it are in this optimizer's care from now on."""
        super().add_param_group(param_group)
        self.take_into_care(self.param_groups[-1])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            self.take_into_care(group)

    def take_into_care(self, group: Group) -> None:
        """Tells the group's embeddings that this optimizer steps them."""
        optimizers.add(self)
        for weight in _weights(group):
            weight.keeper = weakref.ref(self)
            self._decide(weight, group, aloud=False)

    def _decide(self, weight: Weight, group: Group, aloud: bool = True) -> Rule | None:
        """The rule of the weight's next step, or None if torch has to make it."""
        try:
            rule = rule_of(self, group, self.state.get(weight, {}))
        except NoRule as cause:
            if aloud:
                weight.warn_once(str(cause))
            rule = None
        if weight.keeper is not None and weight.keeper() is self:
            weight.rule = rule
        return rule

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients, or makes zeros of them."""
        if set_to_none:  # untrained: asked for, bags would be summed by rows first
            for group in self.param_groups:
                for weight in _weights(group):
                    weight.grad = None
        super().zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        """Makes one step of every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss, which is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        by_rows = []
        for group in self.param_groups:
            for weight in _weights(group):
                gradient = weight.gradient_for_step()
                if gradient is None:
                    continue
                rule = self._decide(weight, group)
                if rule is not None:
                    by_rows.append((weight, gradient, group, rule))
                else:
                    self._prepare_for_torch(weight)
        try:
            for weight, _, _, _ in by_rows:
                weight.grad = None  # which torch's step passes over
            _unhooked(super().step)(self)
        finally:
            for weight, gradient, _, _ in by_rows:
                weight.set_gradient(gradient)
        for entry in by_rows:
            self._step_by_rows(*entry)
        return loss

    def _prepare_for_torch(self, weight: Weight) -> None:
        if weight.grad.is_sparse:
            weight.grad = weight.grad.to_dense()
        if weight.stepper is not None and weight.stepper() is self:
            give_back_slots(weight, self.state[weight])

    @torch.no_grad()
    def _step_by_rows(
        self, weight: Weight, gradient: BagGradient | torch.Tensor, group: Group, rule: Rule
    ) -> None:
        # GradScaler leaves these to a fused optimizer.
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if found_inf is not None and found_inf:
            return
        # torch makes an entry for what has a state, and so is it here
        state = self.state[weight] if rule.slot_names or weight in self.state else {}
        first = not state.get("step", 0) and state.get("momentum_buffer") is None
        take_up_slots(self, weight, rule, state)
        number = 1 if first else int(state.get("step", 1)) + 1
        _update(
            weight.table,
            gradient,
            lambda gradients: _as_taken(gradients, scale, group["maximize"]),
            learning_rate(group, number),
            number,
        )
        if "step" in state:
            state["step"] += 1
        if isinstance(rule, pytorch.NAdam):
            state["mu_product"].fill_(rule.momentum_product(number))
        if seen_by_numpy(weight.table):
            weight.table.materialize()
        with torch._C.DisableTorchFunctionSubclass():
            torch.autograd.graph.increment_version(weight)


def _update(
    table: Table,
    gradient: BagGradient | torch.Tensor,
    taken: Callable[[Any], Any],
    rate: float,
    number: int,
) -> None:
    if isinstance(gradient, BagGradient):
        bags = gradient.with_values(taken(gradient.values))
        table.apply(bags, rate, iteration=number)
    else:
        ids, gradients = rows_and_gradients(gradient)
        # A NaN goes where torch would let it go.
        table.update(ids, taken(gradients), rate, iteration=number, check_finite=False)


def _as_taken(gradients: Any, scale: torch.Tensor | None, maximize: bool) -> Any:
    if scale is not None:
        gradients = gradients / scale.numpy()
    return -gradients if maximize else gradients


def _weights(group: Group) -> list[Weight]:
    return [p for p in group["params"] if isinstance(p, Weight) and p.owner is None]


def _unhooked(step: Any) -> Any:
    """torch's step without the hooks around it: they have been called around ours."""
    function = step.__func__
    while getattr(function, "hooked", False):
        function = function.__wrapped__
    return function
