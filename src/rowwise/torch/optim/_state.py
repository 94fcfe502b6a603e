"""An optimizer's state of a table: PyTorch's names, as tensors over the table's slots."""

from __future__ import annotations

from typing import Any

import torch

from rowwise.rules import Rule, pytorch
from rowwise.torch._parameter import TableParameter, address_of
from rowwise.torch._rules import state_number
from rowwise.torch._weight import Weight

State = dict[str, Any]


def bind_slots(weight: Weight, rule: Rule, state: State, *, fused: bool = False) -> None:
    """Make the weight's table follow `rule` with the slots that `state` holds.

    The state is what counts: a slot that it holds elsewhere (it was loaded, or made when torch
    stepped) is copied to the table, and one that it does not hold starts as the rule says.
    """
    table = weight.table
    kept = table.rule is not None and table.slot_names == rule.slot_names
    if kept and all(_lies_on_slot(weight, name, state) for name in rule.slot_names):
        if rule != table.rule:
            table.set_hyperparameters(rule)
    else:
        table.rule = rule  # with fresh slots; tensors over the old ones keep what they have
    if rule.slot_names and type(rule) is not pytorch.SGD:
        if "step" not in state:  # where PyTorch counts
            there = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["step"] = there if fused else state_number(0)
        if isinstance(rule, pytorch.NAdam):
            state.setdefault("mu_product", state_number(1))
    for name in rule.slot_names:
        if not _lies_on_slot(weight, name, state):
            slot, loaded = TableParameter(table, name, requires_grad=False), state.get(name)
            if loaded is None:
                state[name] = slot.detach()
            else:
                slot.copy_(loaded)
                state[name] = slot.as_view(loaded)


def release_slots(weight: Weight, state: State) -> None:
    """Leave the table without a rule, and the state with ordinary tensors: torch steps now."""
    for name, value in list(state.items()):
        if isinstance(value, TableParameter):
            state[name] = value.as_ordinary().to(weight.dtype, copy=True)
    weight.table.rule = None


def has_slots(weight: Weight, state: State) -> bool:
    """Return whether the slots of the weight's table are those of this state."""
    return any(_lies_on_slot(weight, name, state) for name in weight.table.slot_names)


def _lies_on_slot(weight: Weight, name: str, state: State) -> bool:
    tensor = state.get(name)
    if not isinstance(tensor, TableParameter):
        return False
    with torch._C.DisableTorchFunctionSubclass():
        address: int = tensor.data_ptr()
    return address == address_of(weight.table.store, name)
