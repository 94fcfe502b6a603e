"""The update rule of a parameter group of a torch optimizer, where there is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from rowwise._binding import DenseFallback
from rowwise.rules import Rule, pytorch
from rowwise.torch import _rowwise_adagrad

Group = dict[str, Any]


def _adam(group: Group) -> dict[str, Any]:
    beta_1, beta_2 = group["betas"]
    return {"beta_1": float(beta_1), "beta_2": float(beta_2), "epsilon": group["eps"]}


# Classes of torch.optim, each with its rule and the rule's arguments; the first match counts.
_RULES: dict[type, tuple[type[Rule], Callable[[Group], dict[str, Any]]]] = {
    torch.optim.SGD: (
        pytorch.SGD,
        lambda group: {name: group[name] for name in ("momentum", "dampening", "nesterov")},
    ),
    torch.optim.RMSprop: (
        pytorch.RMSprop,
        lambda group: {
            "rho": group["alpha"],
            "epsilon": group["eps"],
            "momentum": group["momentum"],
            "centered": group["centered"],
        },
    ),
    torch.optim.Adagrad: (
        pytorch.Adagrad,
        lambda group: {
            "initial_accumulator_value": group["initial_accumulator_value"],
            "epsilon": group["eps"],
        },
    ),
    _rowwise_adagrad.RowwiseAdagrad: (
        pytorch.RowwiseAdagrad,
        lambda group: {
            "initial_accumulator_value": group["initial_accumulator_value"],
            "epsilon": group["eps"],
        },
    ),
    torch.optim.Adadelta: (
        pytorch.Adadelta,
        lambda group: {"rho": group["rho"], "epsilon": group["eps"]},
    ),
    # AdamW is no kind of Adam before torch 2.7.
    **dict.fromkeys(
        (torch.optim.Adam, torch.optim.AdamW),
        (pytorch.Adam, lambda group: {**_adam(group), "amsgrad": group["amsgrad"]}),
    ),
    torch.optim.Adamax: (pytorch.Adamax, _adam),
    torch.optim.NAdam: (
        pytorch.NAdam,
        lambda group: {**_adam(group), "momentum_decay": group["momentum_decay"]},
    ),
}


def rule_of(optimizer: torch.optim.Optimizer, group: Group, state: Group) -> Rule:
    """Return the rule by which `optimizer` steps a table of a parameter group, in this state.

    Raises:
        DenseFallback: torch has to make the steps itself.
    """
    name = type(optimizer).__name__
    for option in ("differentiable", "capturable"):
        if group.get(option):
            raise DenseFallback(f"{name}({option}=True) has no exact lazy update")
    rate = float(group["lr"])
    if not math.isfinite(rate):
        raise DenseFallback(f"the learning rate {rate} is none that an exact lazy update takes")
    rule, arguments = next(entry for kind, entry in _RULES.items() if isinstance(optimizer, kind))
    try:
        found = rule(
            # The step's own rate comes with the step: it may follow a schedule.
            learning_rate=0.0,
            weight_decay=_decoupled_decay(optimizer, group),
            **arguments(group),
        )
    except (TypeError, ValueError) as error:
        raise DenseFallback(f"{name}: {error}") from error
    if isinstance(found, pytorch.NAdam) and "mu_product" in state:
        _check_momentum_product(state, found)
    return found


def _check_momentum_product(state: Group, rule: pytorch.NAdam) -> None:
    """Check the product of NAdam's momentums against the count of its steps."""
    stored, expected = float(state["mu_product"]), rule.momentum_product(int(state["step"]))
    if not math.isclose(stored, expected, rel_tol=1e-3, abs_tol=1e-6):
        raise DenseFallback(
            f"its momentum product is {stored:g}, where its steps make {expected:g}"
        )


def _decoupled_decay(optimizer: torch.optim.Optimizer, group: Group) -> float | None:
    decay = float(group["weight_decay"])
    if not decay:
        return None
    # lr (g + decay w) is a decay of w by itself where nothing but lr stands before it
    apart = group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
    if isinstance(optimizer, torch.optim.SGD):
        apart = not group["momentum"]
    if not apart:
        raise DenseFallback(
            f"{type(optimizer).__name__}(weight_decay={decay:g}) gives every row a gradient at "
            "every step (AdamW's does not)"
        )
    return decay


def learning_rate(group: Group, iteration: int) -> float:
    """Return the rate of a group's step `iteration`, counted from 1."""
    return float(group["lr"]) / (1 + (iteration - 1) * group.get("lr_decay", 0))


def next_iteration(state: Group) -> int:
    """Return the number of a parameter's next step, counted from 1, by its optimizer's state."""
    first = not state.get("step", 0) and state.get("momentum_buffer") is None
    return 1 if first else int(state.get("step", 1)) + 1


def state_number(value: float) -> torch.Tensor:
    """Return a number for an optimizer's state, in PyTorch's dtype: 16 bits count only to 256."""
    dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
    return torch.tensor(value, dtype=dtype)
