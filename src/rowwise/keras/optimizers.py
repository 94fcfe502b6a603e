"""Which Keras optimizers a table can follow by itself, and as which rule."""

from __future__ import annotations

import math
from typing import Any

import keras

from rowwise import rules
from rowwise.rules import Rule

# The arguments of a Keras optimizer that its rule takes, by the names both have.
_ARGUMENTS = {
    "SGD": ("momentum", "nesterov"),
    "RMSprop": ("rho", "momentum", "epsilon", "centered"),
    "Adagrad": ("initial_accumulator_value", "epsilon"),
    "Adadelta": ("rho", "epsilon"),
    "Adam": ("beta_1", "beta_2", "epsilon", "amsgrad"),
    "AdamW": ("beta_1", "beta_2", "epsilon", "amsgrad"),
    "Adamax": ("beta_1", "beta_2", "epsilon"),
    "Nadam": ("beta_1", "beta_2", "epsilon"),
    "Lion": ("beta_1", "beta_2"),
    "Ftrl": (
        "learning_rate_power",
        "initial_accumulator_value",
        "l1_regularization_strength",
        "l2_regularization_strength",
        "beta",
    ),
}

# Options that need the whole table at every step.
_DENSE_OPTIONS = ("use_ema", "l2_shrinkage_regularization_strength")


class NoRule(Exception):
    """Why an optimizer's steps have to be made densely; the message names the cause."""


def rule_of(optimizer: Any, variable: Any) -> Rule:
    """The rule by which `optimizer` moves the table behind `variable`.

    Raises:
        NoRule: Keras has to make the steps itself.
    """
    name = type(optimizer).__name__
    # A user's subclass may do anything; only Keras's own classes are known by heart.
    if name not in _ARGUMENTS or not type(optimizer).__module__.startswith("keras."):
        raise NoRule(f"the optimizer {name} has no rule by rows")
    for option in _DENSE_OPTIONS:
        if getattr(optimizer, option, None):
            raise NoRule(
                f"{name}({option}={getattr(optimizer, option)!r}) needs every row at every step"
            )
    if variable.constraint is not None:
        raise NoRule("embeddings_constraint applies to every row at every step")
    decays = optimizer.weight_decay and optimizer._use_weight_decay(variable)
    try:
        rule: Rule = getattr(rules, name)(
            # The step's own rate comes with the step: it may follow a schedule.
            learning_rate=0.0,
            weight_decay=float(optimizer.weight_decay) if decays else None,
            **{argument: getattr(optimizer, argument) for argument in _ARGUMENTS[name]},
        )
    except (TypeError, ValueError) as error:
        raise NoRule(f"{name}: {error}") from error
    if isinstance(rule, rules.Nadam) and hasattr(optimizer, "_u_product"):
        _check_momentum_product(optimizer, variable, rule)
    return rule


def check_step(optimizer: Any, variable: Any, rate: float, number: int) -> None:
    """Refuses a step that the optimizer's rule cannot make by rows.

    Raises:
        NoRule: because of its learning rate, or of its number.
    """
    try:
        if not 0 <= rate < math.inf:
            raise ValueError(f"the learning rate {rate} is none that a rule by rows takes")
        rule_of(optimizer, variable).step_scales(rate, number)
    except ValueError as cause:
        raise NoRule(f"{cause}") from cause


def _check_momentum_product(optimizer: Any, variable: Any, rule: rules.Nadam) -> None:
    """Nadam keeps the product of its momentums beside the count of its iterations."""
    kept = variable.number(lambda: optimizer._u_product)
    made = variable.number(lambda: optimizer.iterations)
    if kept is None or made is None:  # a program is still making them
        return
    expected = rule.momentum_product(int(made))
    if not math.isclose(kept, expected, rel_tol=1e-3, abs_tol=1e-6):
        raise NoRule(f"its momentum product is {kept:g}, where its iterations make {expected:g}")


def iteration(optimizer: Any) -> int:
    """The number of the step about to be made, counted from 1."""
    return int(keras.ops.convert_to_numpy(optimizer.iterations)) + 1
