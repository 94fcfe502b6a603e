"""The step that the optimizers share: lazy updates of tables, torch's own step for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rowwise._binding import DenseFallback
from rowwise._checks import check_learning_rate
from rowwise.rules import Rule, StepParams, pytorch
from rowwise.store import BagGradient, RowGradient
from rowwise.table import Table
from rowwise.torch._device import DeviceStore
from rowwise.torch._distant_step import (
    bind_distant,
    check_distant,
    distant_set_aside,
    distant_weights,
    step_distant,
)
from rowwise.torch._gradient import RowGradientTensor
from rowwise.torch._half import HALVES
from rowwise.torch._lookup import rows_and_gradients
from rowwise.torch._parameter import TableParameter
from rowwise.torch._rules import Group, learning_rate, rule_of
from rowwise.torch._weight import Weight, failing_kernels, optimizers
from rowwise.torch.optim._count import Count
from rowwise.torch.optim._state import bind_slots, has_slots, release_slots

# No optimizer itself: libraries that make a registry of torch's optimizers by name go through the
# subclasses of Optimizer, and pass over other packages' subclasses of `torch.optim.Adam`.
if TYPE_CHECKING:
    from torch.optim import Optimizer as _Base
else:
    _Base = object


class TableOptimizer(_Base):
    """Mixed into one of torch's optimizers, before it."""

    def add_param_group(self, param_group: Group) -> None:
        """Add a group; this optimizer steps the embeddings in it from now on."""
        super().add_param_group(param_group)
        self.ensure_bound(self.param_groups[-1])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            self.ensure_bound(group)

    def load_state_dict(self, state_dict: Any) -> None:
        """Load a state; that of weights of 16 bits stays float32, where PyTorch would round it."""
        super().load_state_dict(state_dict)
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=True):
            for number, weight in zip(saved["params"], group["params"], strict=True):
                if isinstance(weight, Weight) and weight.dtype in HALVES:
                    for name, value in state_dict["state"].get(number, {}).items():
                        if isinstance(value, torch.Tensor) and value.dtype is torch.float32:
                            self.state[weight][name] = value.clone()

    def ensure_bound(self, group: Group) -> None:
        """Make this optimizer the owner of the group's embeddings."""
        optimizers.add(self)
        bind_distant(self, group)
        for weight in _weights(group):
            weight.binding.attach(self, "dense")
            self._decide(weight, group, aloud=False)

    def _decide(self, weight: Weight, group: Group, aloud: bool = True) -> Rule | None:
        """Return the rule of the weight's next step, or None if torch has to make it."""
        binding = weight.binding
        try:
            rule = rule_of(self, group, self.state.get(weight, {}))
            if isinstance(weight.table.store, DeviceStore):
                reason = failing_kernels(weight, weight.place, rule)
                if reason is not None:
                    raise DenseFallback(reason)
        except DenseFallback as reason:
            if binding.owner is self:
                binding.attach(self, "dense")
            if aloud:
                weight.warn_of_dense_steps(reason)
            return None
        if binding.owner is self:
            binding.attach(self, "sparse")
        return rule

    def rule_of(self, weight: Weight) -> Rule | None:
        """Return the rule of the weight's next step, or None if torch has to make it."""
        group = next(g for g in self.param_groups if any(p is weight for p in g["params"]))
        return self._decide(weight, group, aloud=False)

    @torch.compiler.disable
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or make zeros of them."""
        if set_to_none:  # reading them would sum bags by row first
            for group in self.param_groups:
                for weight in _weights(group):
                    weight.grad = None
                for distant in distant_weights(group):
                    distant.grad = None
        super().zero_grad(set_to_none)

    @torch.compiler.disable
    def step(self, closure: Any = None) -> Any:
        """Make one step of every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss, which is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        check_distant(self)
        sparse_steps = []
        for group in self.param_groups:
            for weight in _weights(group):
                gradient = weight.gradient_for_step()
                if gradient is None:
                    continue
                rule = self._decide(weight, group)
                if rule is not None:
                    sparse_steps.append((weight, gradient, group, rule))
                else:
                    self._prepare_for_torch(weight)
        first = any(r.slot_names and w not in self.state for w, _, _, r in sparse_steps)
        known = set(self.state) if first else set()
        try:
            for weight, _, _, _ in sparse_steps:
                weight.grad = None  # which torch's step passes over
            with distant_set_aside(self):
                _unhooked(super().step)(self)
        finally:
            for weight, gradient, _, _ in sparse_steps:
                weight.set_gradient(gradient)
        for entry in sparse_steps:
            self._step_table(*entry)
        step_distant(self)
        if first:
            self._order_state(known)
        return loss

    def _order_state(self, known: set[Any]) -> None:
        """Bring the state's new entries, all but `known`, into the order of the parameters."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in self.state and parameter not in known:
                    self.state[parameter] = self.state.pop(parameter)

    def _prepare_for_torch(self, weight: Weight) -> None:
        if weight.grad.is_sparse:
            weight.grad = weight.grad.to_dense()
        if has_slots(weight, self.state.get(weight, {})):
            release_slots(weight, self.state[weight])

    @torch.no_grad()
    def _step_table(
        self, weight: Weight, gradient: BagGradient | torch.Tensor, group: Group, rule: Rule
    ) -> None:
        # GradScaler leaves these to a fused optimizer.
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if found_inf is not None and not _can_skip_later(weight, rule, self.state.get(weight, {})):
            if found_inf:
                return
            found_inf = None
        # torch makes an entry for what has a state, and so is it here
        state = self.state[weight] if rule.slot_names or weight in self.state else {}
        count = Count.of(weight, state)
        self._take_over(weight)
        bind_slots(weight, rule, state, fused=bool(group.get("fused")))
        count = count.current()
        iteration = count.next_iteration()
        rate = learning_rate(group, iteration)

        def rescaled(gradients: Any) -> Any:
            return _rescaled(gradients, scale, group["maximize"])

        def step(skipped: int) -> StepParams:
            number = count.next_iteration(skipped)
            return rule.step_params(check_learning_rate(learning_rate(group, number)), number)

        if isinstance(weight.table.store, DeviceStore):
            weight.table.store.on_lost_steps = _uncount(state, rule)
            _update_on_device(weight.table.store, weight, gradient, rescaled, step, found_inf)
        else:
            _update(weight.table, gradient, rescaled, rate, iteration)
        weight.last_step = rate, iteration
        if "step" in state:
            made = None if found_inf is None else found_inf.reshape(()) == 0
            state["step"] += 1 if made is None else made.to(state["step"].device)
        weight.counted = count.after_a_step(state)
        _follow_step(rule, state.get("mu_product"), iteration)
        tensors = [weight, *(t for t in state.values() if isinstance(t, TableParameter))]
        if any(tensor.memory.is_exposed for tensor in tensors):
            weight.table.materialize()
            weight.warn_of_dense_steps(
                "a NumPy array, a storage, another tensor's `data`, an address (`data_ptr()`) or a "
                "retained graph shares the memory of this weight, or of its optimizer's state"
            )
        with torch._C.DisableTorchFunctionSubclass():
            torch.autograd.graph.increment_version(weight)

    def _take_over(self, weight: Weight) -> None:
        """Become the owner of a weight that another optimizer has stepped."""
        binding = weight.binding
        other = binding.owner
        if other is self:
            return
        if other is not None and has_slots(weight, other.state.get(weight, {})):
            weight.warn_of_dense_steps(
                "several optimizers step this table, and at each change the slots change"
            )
        binding.attach(self, "sparse")


def _can_skip_later(weight: Weight, rule: Rule, state: dict[str, Any]) -> bool:
    """Return whether a step may be skipped after the host has made it, by what a GPU finds."""
    if not isinstance(weight.table.store, DeviceStore) or "mu_product" in state:
        return False
    counts_there = "step" not in state or state["step"].device == weight.device
    return counts_there and (not rule.slot_names or has_slots(weight, state))


def _update_on_device(
    store: DeviceStore,
    weight: Weight,
    gradient: BagGradient | torch.Tensor,
    rescaled: Callable[[Any], Any],
    step: Callable[[int], StepParams],
    found_inf: torch.Tensor | None,
) -> None:
    """Make a step; see `DeviceStore.apply_unread` for its numbers."""
    store.skipped_row = weight.skipped_row
    others, rows = None, gradient
    if not isinstance(gradient, BagGradient):
        with torch._C.DisableTorchFunctionSubclass():
            if gradient.is_sparse:
                others = getattr(gradient, "others", None)
                rows = RowGradient(gradient._indices()[0], gradient._values())  # type: ignore[arg-type]
            else:
                rows = store.dense_gradient(gradient)
    rows = rows.with_values(rescaled(rows.values))  # type: ignore[union-attr]
    if found_inf is not None:
        found_inf = found_inf.to(store.tensor_device, non_blocking=True)
    store.apply_unread(rows, step, others=others, found_inf=found_inf)


def _update(
    table: Table,
    gradient: BagGradient | torch.Tensor,
    rescaled: Callable[[Any], Any],
    rate: float,
    iteration: int,
) -> None:
    if isinstance(gradient, BagGradient):
        bags = gradient.with_values(rescaled(gradient.values))
        table.apply(bags, rate, iteration=iteration)
    else:
        ids, gradients = rows_and_gradients(gradient)
        # A NaN goes where torch would let it go.
        table.update(ids, rescaled(gradients), rate, iteration=iteration, check_finite=False)


def _uncount(state: dict[str, Any], rule: Rule) -> Callable[[int], None] | None:
    """Return a function that takes lost steps off a state's count; None where there is none.

    It holds no tensor of the table's, which would keep one another alive.
    """
    count, product = state.get("step"), state.get("mu_product")
    if count is None:
        return None

    def uncount(lost: int) -> None:
        count.sub_(lost)
        _follow_step(rule, product, int(count.item()))

    return uncount


def _follow_step(rule: Rule, mu_product: torch.Tensor | None, iteration: int) -> None:
    """Set NAdam's product of momenta to that after so many steps."""
    if isinstance(rule, pytorch.NAdam) and mu_product is not None:
        mu_product.fill_(rule.momentum_product(iteration))


def _rescaled(gradients: Any, scale: torch.Tensor | None, maximize: bool) -> Any:
    if scale is not None:
        on_device = isinstance(gradients, torch.Tensor)
        gradients = gradients / (scale.to(gradients.device) if on_device else scale.cpu().numpy())
    return -gradients if maximize else gradients


@torch.compiler.disable
def _make_gradients_dense(optimizer: Any, args: Any, kwargs: Any) -> None:
    """Give an optimizer of torch's own the dense gradients that it expects, before its step.

    Gradients are kept by row where one of ours has the weight among its parameters, too. On a GPU
    a weight that none of ours steps leaves its table: torch steps all parameters of a group at once
    there (foreach, fused), unless one is of a class that it does not know. A compiled
    step calls this as it is, and then meets an ordinary parameter.
    """
    if isinstance(optimizer, TableOptimizer):
        return
    if not type(optimizer).step.__module__.startswith("torch.optim."):
        return  # one that wraps ours may hand it the gradient
    for group in optimizer.param_groups:
        for distant in distant_weights(group):
            if distant.grad is not None:
                distant.refuse(f"a step of torch.optim.{type(optimizer).__name__}")
    if isinstance(optimizer, torch.optim.SparseAdam):
        return
    for group in optimizer.param_groups:
        for weight in _weights(group):
            gradient = weight.grad
            if isinstance(gradient, RowGradientTensor):
                gradient.make_dense()
                weight.warn_of_dense_steps(
                    f"torch.optim.{type(optimizer).__name__} steps it beside an optimizer of "
                    "rowwise.torch.optim"
                )
            elif (
                isinstance(weight.table.store, DeviceStore)
                and weight.binding.owner is None
                and gradient is not None
                and not gradient.is_sparse
            ):
                weight.leave_table()  # with a warning from the backward pass


register_optimizer_step_pre_hook(_make_gradients_dense)


def _weights(group: Group) -> list[Weight]:
    return [p for p in group["params"] if isinstance(p, Weight) and p.base is None]


def _unhooked(step: Any) -> Any:
    """Return torch's step without the hooks around it: they have been called around ours."""
    function = step.__func__
    while getattr(function, "hooked", False):
        function = function.__wrapped__
    return function
