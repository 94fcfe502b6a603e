"""The step of an optimizer for sharded weights: every rank makes it, for every weight, in order."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from rowwise._binding import DenseFallback
from rowwise.sharded._exchange import all_reduce
from rowwise.torch._rules import Group, learning_rate, rule_of
from rowwise.torch._sharded_weight import ShardedWeight


def sharded_weights(group: Group) -> list[ShardedWeight]:
    """Return the sharded weights of a parameter group."""
    return [parameter for parameter in group["params"] if isinstance(parameter, ShardedWeight)]


def bind_sharded(optimizer: Any, group: Group) -> None:
    """Make the tables of a group's sharded weights follow the optimizer's rule.

    A table that was loaded goes on with its slots, if they are those of the rule. Any other starts
    fresh ones, as a new optimizer of PyTorch does.

    Raises:
        ValueError: the optimizer has no rule for its options.
    """
    for weight in sharded_weights(group):
        state = optimizer.state.get(weight, {})
        try:
            rule = rule_of(optimizer, group, {})
        except DenseFallback as reason:
            raise ValueError(
                f"{reason}; a sharded embedding is stepped by a rule alone: choose other options, "
                "or rowwise.torch.Embedding on one process"
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
            optimizer.state[weight]["step"] = torch.tensor(float(table.steps))
        weight.resumes = False
        weight.optimizer = weakref.ref(optimizer)


def upcoming_step(weight: ShardedWeight) -> tuple[float, int] | None:
    """Return the learning rate and iteration of the next step, or None without an optimizer."""
    optimizer = None if weight.optimizer is None else weight.optimizer()
    if optimizer is None:
        return None
    group = next(g for g in optimizer.param_groups if any(p is weight for p in g["params"]))
    iteration = int(optimizer.state.get(weight, {}).get("step", 0)) + 1
    return learning_rate(group, iteration), iteration


@contextmanager
def sharded_set_aside(optimizer: Any) -> Iterator[None]:
    """Hide the gradients of sharded weights from torch's own step."""
    hidden = []
    for group in optimizer.param_groups:
        hidden += [(weight, weight.hide_gradient()) for weight in sharded_weights(group)]
    try:
        yield
    finally:
        for weight, gradient in hidden:
            weight.show_gradient(gradient)


@torch.no_grad()
def step_sharded(optimizer: Any) -> None:
    """Make one step of every sharded weight that has a gradient on some rank."""
    scale = getattr(optimizer, "grad_scale", None)
    for group in optimizer.param_groups:
        for weight in sharded_weights(group):
            if weight.requires_grad and not _is_skipped(optimizer, weight):
                _step(optimizer, group, weight, 1.0 if scale is None else 1.0 / float(scale))


def _is_skipped(optimizer: Any, weight: ShardedWeight) -> bool:
    """Return whether a gradient scaler that leaves the step to us found infinity on any rank."""
    found = getattr(optimizer, "found_inf", None)
    if found is None:
        return False
    return bool(all_reduce(weight.table.store.exchange, np.array([float(found)]), np.maximum)[0])


def _step(optimizer: Any, group: Group, weight: ShardedWeight, factor: float) -> None:
    table, state = weight.table, optimizer.state[weight]
    if weight.resumes:
        bind_sharded(optimizer, group)
    state.setdefault("step", torch.tensor(0.0))
    for name in set(state) - {"step"}:  # of torch's own; the slots are the table's
        del state[name]
    rule = rule_of(optimizer, group, {})
    if rule != table.rule:
        table.set_hyperparameters(rule)
    iteration = int(state["step"]) + 1
    factor *= -1.0 if group["maximize"] else 1.0
    before = table.steps
    given: Any = weight.passes() if weight.exchanged is None else weight.exchanged
    if factor != 1.0:
        given = _scaled(given, factor)
    table.apply(given, learning_rate(group, iteration), iteration=iteration, factor=factor)
    if table.steps > before:
        state["step"] += 1
    with torch._C.DisableTorchFunctionSubclass():
        torch.autograd.graph.increment_version(weight)


def _scaled(gradient: Any, factor: float) -> Any:
    if isinstance(gradient, list):
        return [_scaled(part, factor) for part in gradient]
    return gradient.with_values(gradient.values * np.float32(factor))
