"""Rules for the rows of tables, with the numbers, names and defaults of optax's optimizers.

Each is one of optax's with the arguments that an exact lazy update takes. Not there, because no
rule has their numbers: `optax.amsgrad`, RMSprop with Nesterov's momentum, and the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from rowwise import rules
from rowwise.rules import Rule, pytorch

Schedule = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class RowOptimizer:
    """A rule, and the learning rate of its steps.

    Attributes:
        rule: the formula; its own learning rate is that of steps outside of programs.
        learning_rate: a number, or a function of the steps so far, as optax's schedules are.
    """

    rule: Rule
    learning_rate: float | jax.Array | Schedule

    def rate(self, count: Any) -> Any:
        """Return the learning rate () after `count` steps."""
        rate = self.learning_rate
        return rate(count) if callable(rate) else rate


def _made(rule: Rule, learning_rate: Any) -> RowOptimizer:
    if isinstance(learning_rate, int | float):
        rule = replace(rule, learning_rate=float(learning_rate))
    return RowOptimizer(rule, learning_rate)


def sgd(
    learning_rate: float | Schedule, momentum: float | None = None, nesterov: bool = False
) -> RowOptimizer:
    """Step rows as `optax.sgd` does.

    Example:
        >>> sgd(0.1, momentum=0.9).rule.slot_names
        ('momentum_buffer',)
    """
    return _made(pytorch.SGD(momentum=momentum or 0.0, nesterov=nesterov), learning_rate)


def adam(
    learning_rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> RowOptimizer:
    """Step rows as `optax.adam` does."""
    return _made(pytorch.Adam(beta_1=b1, beta_2=b2, epsilon=eps), learning_rate)


def adamw(
    learning_rate: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    weight_decay: float = 1e-4,
) -> RowOptimizer:
    """Step rows as `optax.adamw` does; all rows decay at every step, at the cost of the batch's."""
    rule = pytorch.AdamW(beta_1=b1, beta_2=b2, epsilon=eps, weight_decay=weight_decay or None)
    return _made(rule, learning_rate)


def nadam(
    learning_rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> RowOptimizer:
    """Step rows as `optax.nadam` does."""
    return nadamw(learning_rate, b1, b2, eps, weight_decay=0.0)


def nadamw(
    learning_rate: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    weight_decay: float = 1e-4,
) -> RowOptimizer:
    """Step rows as `optax.nadamw` does."""
    rule = pytorch.NAdam(
        beta_1=b1,
        beta_2=b2,
        epsilon=eps,
        momentum_decay=1e6,  # PyTorch's momentum grows to b1; optax's is b1 from the first step on
        weight_decay=weight_decay or None,
    )
    return _made(rule, learning_rate)


def adamax(
    learning_rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> RowOptimizer:
    """Step rows as `optax.adamax` does."""
    return adamaxw(learning_rate, b1, b2, eps, weight_decay=0.0)


def adamaxw(
    learning_rate: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    weight_decay: float = 1e-4,
) -> RowOptimizer:
    """Step rows as `optax.adamaxw` does."""
    rule = pytorch.Adamax(beta_1=b1, beta_2=b2, epsilon=eps, weight_decay=weight_decay or None)
    return _made(rule, learning_rate)


def rmsprop(
    learning_rate: float | Schedule,
    decay: float = 0.9,
    eps: float = 1e-8,
    *,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: float | None = None,
) -> RowOptimizer:
    """Step rows as `optax.rmsprop` does.

    Raises:
        ValueError: momentum with eps_in_sqrt=False, of which no rule has the numbers.
    """
    kind = rules.RMSprop if eps_in_sqrt else pytorch.RMSprop
    if momentum and not eps_in_sqrt:
        raise ValueError("rmsprop with momentum needs eps_in_sqrt=True")
    rule = kind(rho=decay, epsilon=eps, centered=centered, momentum=momentum or 0.0)
    return _made(rule, learning_rate)


def adagrad(
    learning_rate: float | Schedule, initial_accumulator_value: float = 0.1, eps: float = 1e-7
) -> RowOptimizer:
    """Step rows as `optax.adagrad` does."""
    rule = rules.Adagrad(initial_accumulator_value=initial_accumulator_value, epsilon=eps)
    return _made(rule, learning_rate)


def adadelta(learning_rate: float | Schedule, rho: float = 0.9, eps: float = 1e-6) -> RowOptimizer:
    """Step rows as `optax.adadelta` does."""
    return _made(rules.Adadelta(rho=rho, epsilon=eps), learning_rate)


def lion(
    learning_rate: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.99,
    *,
    weight_decay: float = 1e-3,
) -> RowOptimizer:
    """Step rows as `optax.lion` does."""
    rule = rules.Lion(beta_1=b1, beta_2=b2, weight_decay=weight_decay or None)
    return _made(rule, learning_rate)
