"""Which optimizers of PyTorch a table can follow by itself, and as which rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rowwise.rules import Rule, pytorch

Group = dict[str, Any]  # of an optimizer's param_groups


class NoRule(Exception):
    """Why an optimizer's steps have to be made densely; the message names the cause."""


def _betas(group: Group) -> dict[str, Any]:
    return {
        "beta_1": float(group["betas"][0]),
        "beta_2": float(group["betas"][1]),
        "epsilon": group["eps"],
    }


_RULES: dict[str, tuple[type[Rule], Callable[[Group], dict[str, Any]]]] = {
    "SGD": (
        pytorch.SGD,
        lambda g: {name: g[name] for name in ("momentum", "dampening", "nesterov")},
    ),
    "RMSprop": (
        pytorch.RMSprop,
        lambda g: {
            "rho": g["alpha"],
            "momentum": g["momentum"],
            "epsilon": g["eps"],
            "centered": g["centered"],
        },
    ),
    "Adagrad": (
        pytorch.Adagrad,
        lambda g: {
            "initial_accumulator_value": g["initial_accumulator_value"],
            "epsilon": g["eps"],
        },
    ),
    "Adadelta": (pytorch.Adadelta, lambda g: {"rho": g["rho"], "epsilon": g["eps"]}),
    "Adam": (pytorch.Adam, lambda g: {**_betas(g), "amsgrad": g["amsgrad"]}),
    "AdamW": (pytorch.Adam, lambda g: {**_betas(g), "amsgrad": g["amsgrad"]}),
    "Adamax": (pytorch.Adamax, _betas),
    "NAdam": (pytorch.NAdam, lambda g: {**_betas(g), "momentum_decay": g["momentum_decay"]}),
}


def rule_of(name: str, group: Group) -> Rule:
    """The rule by which PyTorch's optimizer `name` moves the parameters of a group.

    Raises:
        NoRule: torch has to make the steps itself.
    """
    kind, arguments = _RULES[name]
    for option in ("differentiable", "capturable"):
        if group.get(option):
            raise NoRule(f"{name}({option}=True) is made of torch's own operations")
    decay = float(group["weight_decay"]) or None
    decoupled = group.get("decoupled_weight_decay") or (name == "SGD" and not group["momentum"])
    if decay and not decoupled:
        raise NoRule(f"{name}(weight_decay={decay}) gives every row a gradient at every step")
    try:
        # The step's own rate comes with the step: it may follow a schedule.
        return kind(learning_rate=0.0, weight_decay=decay, **arguments(group))  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise NoRule(f"{name}: {error}") from error


def learning_rate(group: Group, iteration: int) -> float:
    """The rate of step `iteration` (counted from 1)."""
    rate = float(group["lr"].item() if isinstance(group["lr"], torch.Tensor) else group["lr"])
    return rate / (1.0 + (iteration - 1) * float(group.get("lr_decay", 0.0)))
