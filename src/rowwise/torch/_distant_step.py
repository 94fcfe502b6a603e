"""The step of an optimizer for weights that no memory holds, sharded or on a disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rowwise._binding import DenseFallback
from rowwise.torch._distant import DistantWeight
from rowwise.torch._rules import Group, learning_rate, next_iteration, rule_of, state_number


def distant_weights(group: Group) -> list[DistantWeight]:
    """Return the weights of a parameter group that no memory holds."""
    return [parameter for parameter in group["params"] if isinstance(parameter, DistantWeight)]


def bind_distant(optimizer: Any, group: Group) -> None:
    """Make the tables of a group's distant weights follow the optimizer's rule.

    A table that was loaded goes on with its slots, if they are those of the rule. Any other starts
    fresh ones, as a new optimizer of PyTorch does.

    Raises:
        ValueError: the optimizer has no rule for its options.
    """
    for weight in distant_weights(group):
        state = optimizer.state.get(weight, {})
        try:
            rule = rule_of(optimizer, group, {})
        except DenseFallback as reason:
            raise ValueError(
                f"{reason}; {weight.of} is stepped by a rule alone: choose other options, or "
                "rowwise.torch.Embedding in the memory of one process"
            ) from reason
        table = weight.table
        started = bool(state.get("step", 0))
        kept = table.rule is not None and table.rule.slot_names == rule.slot_names
        if not kept or not (weight.resumes or started):
            if table.rule != rule or table.steps:
                table.rule = rule
        elif rule != table.rule:
            table.set_hyperparameters(rule)
        if kept and weight.resumes and not started:
            optimizer.state[weight]["step"] = state_number(table.steps)
        weight.resumes = False
        weight.attach(optimizer)


def upcoming_step(weight: DistantWeight) -> tuple[float, int] | None:
    """Return the learning rate and iteration of the next step, or None without an optimizer."""
    optimizer = weight.owner
    if optimizer is None:
        return None
    group = next(g for g in optimizer.param_groups if any(p is weight for p in g["params"]))
    iteration = next_iteration(optimizer.state.get(weight, {}))
    return learning_rate(group, iteration), iteration


@contextmanager
def distant_set_aside(optimizer: Any) -> Iterator[None]:
    """Hide the gradients of distant weights from torch's own step."""
    hidden = []
    for group in optimizer.param_groups:
        hidden += [(weight, weight.hide_gradient()) for weight in distant_weights(group)]
    try:
        yield
    finally:
        for weight, gradient in hidden:
            weight.show_gradient(gradient)


@torch.no_grad()
def check_distant(optimizer: Any) -> None:
    """Refuse a step of a weight on a disk that would fail, before any parameter has changed.

    Raises:
        MemoryError, ValueError: see `DiskStore.check_step`.
    """
    found_inf = getattr(optimizer, "found_inf", None)
    for group in optimizer.param_groups:
        for weight in distant_weights(group):
            if weight.requires_grad and not (found_inf is not None and float(found_inf)):
                iteration = next_iteration(optimizer.state.get(weight, {}))
                rate = learning_rate(group, iteration)
                weight.check_step(rule_of(optimizer, group, {}), rate, iteration)


@torch.no_grad()
def step_distant(optimizer: Any) -> None:
    """Make one step of every distant weight: of a sharded one on every rank, in the same order."""
    scale, found_inf = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
    for group in optimizer.param_groups:
        for weight in distant_weights(group):
            if not weight.requires_grad:
                continue
            # A gradient scaler leaves it to us to pass over a step.
            if found_inf is None or not weight.is_skipped(float(found_inf)):
                _step(optimizer, group, weight, scale)


def _step(optimizer: Any, group: Group, weight: DistantWeight, scale: Any) -> None:
    table, state = weight.table, optimizer.state[weight]
    if weight.resumes:
        bind_distant(optimizer, group)
    state.setdefault("step", state_number(0))
    for name in set(state) - {"step"}:  # of torch's own; the slots are the table's
        del state[name]
    rule = rule_of(optimizer, group, {})
    if rule != table.rule:
        table.set_hyperparameters(rule)
    iteration = next_iteration(state)
    factor = (-1.0 if group["maximize"] else 1.0) / (1.0 if scale is None else float(scale))
    before = table.steps
    weight.step(learning_rate(group, iteration), iteration, factor)
    if table.steps > before:
        state["step"] += 1
    with torch._C.DisableTorchFunctionSubclass():
        torch.autograd.graph.increment_version(weight)
