"""An optimizer's state of a table: PyTorch's names, as tensors over the table's slots."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from rowwise.rules import Rule, pytorch
from rowwise.torch._parameter import TableParameter
from rowwise.torch._weight import Weight

State = dict[str, Any]


def take_up_slots(optimizer: Any, weight: Weight, rule: Rule, state: State) -> None:
    """Sees to it that the weight's table follows `rule` with the slots that `state` has.

    What of the state is not on the table (it was loaded, or made when torch stepped) is brought
    there; what there is none of starts as the rule says.
    """
    table = weight.table
    if weight.stepper is None or weight.stepper() is not optimizer or rule != table.rule:
        stays = weight.stepper is not None and weight.stepper() is optimizer
        if stays and table.rule is not None and table.slot_names == rule.slot_names:
            table.set_hyperparameters(rule)
        else:
            if not stays and weight.stepper is not None and weight.stepper() is not None:
                weight.warn_once(
                    "several optimizers step this table: the newer one has taken over, and at each "
                    "change"
                )
            table.rule = rule  # and fresh slots; tensors over the old ones keep what they have
            weight.stepper = weakref.ref(optimizer)
    if rule.slot_names and type(rule) is not pytorch.SGD:
        state.setdefault("step", torch.tensor(0.0))
        if isinstance(rule, pytorch.NAdam):
            state.setdefault("mu_product", torch.ones(()))
    for name in rule.slot_names:
        if not _lies_on(table.store.memory(name), state.get(name)):
            slot = TableParameter(table, name, requires_grad=False)
            if state.get(name) is not None:
                slot.copy_(state[name])
            state[name] = slot.detach()


def give_back_slots(weight: Weight, state: State) -> None:
    """Leaves the table without a rule, and the state with ordinary tensors: torch steps now."""
    for name in weight.table.slot_names:
        if isinstance(state.get(name), TableParameter):
            state[name] = state[name].plain().clone()
    weight.table.rule = None
    weight.stepper = None


def _lies_on(memory: Any, tensor: Any) -> bool:
    if not isinstance(tensor, TableParameter):
        return False
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.data_ptr() == memory.ctypes.data
