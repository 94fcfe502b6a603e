"""Which Keras optimizers a table can follow by itself, and as which rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from rowwise import rules
from rowwise.rules import Rule

_RULES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "SGD": lambda o: {"momentum": o.momentum, "nesterov": o.nesterov},
    "RMSprop": lambda o: {
        "rho": o.rho, "momentum": o.momentum, "epsilon": o.epsilon, "centered": o.centered,
    },
    "Adagrad": lambda o: {
        "initial_accumulator_value": o.initial_accumulator_value, "epsilon": o.epsilon,
    },
    "Adam": lambda o: {"beta_1": o.beta_1, "beta_2": o.beta_2, "epsilon": o.epsilon},
    "AdamW": lambda o: {"beta_1": o.beta_1, "beta_2": o.beta_2, "epsilon": o.epsilon},
}  # fmt: skip

# Options that need the whole gradient or the whole table at every step.
_DENSE_OPTIONS = (
    "amsgrad",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "gradient_accumulation_steps",
)


class NoRule(Exception):
    """Why an optimizer's steps have to be made densely; the message names the cause."""


def rule_of(optimizer: Any, variable: Any) -> Rule:
    """The rule by which `optimizer` moves the table behind `variable`.

    Raises:
        NoRule: Keras has to make the steps itself.
    """
    name = type(optimizer).__name__
    # A user's subclass may do anything; only Keras's own classes are known by heart.
    if name not in _RULES or not type(optimizer).__module__.startswith("keras."):
        raise NoRule(f"the optimizer {name} has no rule by rows")
    for option in _DENSE_OPTIONS:
        if getattr(optimizer, option, None):
            raise NoRule(f"{name}({option}={getattr(optimizer, option)!r}) needs whole gradients")
    if variable.constraint is not None:
        raise NoRule("embeddings_constraint applies to every row at every step")
    decays = optimizer.weight_decay and optimizer._use_weight_decay(variable)
    try:
        return getattr(rules, name)(
            # The step's own rate comes with the step: it may follow a schedule.
            learning_rate=0.0,
            weight_decay=float(optimizer.weight_decay) if decays else None,
            **_RULES[name](optimizer),
        )
    except (TypeError, ValueError) as error:
        raise NoRule(f"{name}: {error}") from error


def learning_rate(optimizer: Any) -> float:
    """The rate of the step about to be made."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def iteration(optimizer: Any) -> int:
    """The number of the step about to be made, counted from 1."""
    return int(keras.ops.convert_to_numpy(optimizer.iterations)) + 1
