"""Rows of a module added, dropped and moved: the weight stays the same parameter."""

from __future__ import annotations

from typing import Any

from rowwise.torch._parameter import TableParameter
from rowwise.torch._weight import Weight


def lie_over_new_memory(weight: Weight) -> None:
    """Takes up the memory of the weight's table, which has been reordered, and so do the slots
    in the state of its optimizer.
    """
    table = weight.table
    weight.lie_over_new_memory()
    optimizer: Any = None if weight.stepper is None else weight.stepper()
    if optimizer is not None:
        for name in table.slot_names:
            slot = TableParameter(table, name, requires_grad=False)
            optimizer.state[weight][name] = slot.detach()
