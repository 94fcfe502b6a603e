"""Where Keras's optimizers meet tables on JAX: what is taken over of an optimizer's step.

Beside what keeping.py takes over: `_backend_apply_gradients` (the table makes its step after
Keras has made those of the other variables), `_clip_gradients` (a table's norm stands for its
gradient), `stateless_apply` (a step with a bad id moves no variable), and `check_finite` of
`LossScaleOptimizer`. trainer.py has what is taken over of the model.

Which of the two makes a table's steps is settled when a trainer takes the model's state: either
the state holds tokens, and the table makes them; or it holds whole arrays, and Keras does, as it
would for any variable.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
from keras.src.backend.jax.optimizer import JaxOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

import rowwise.keras.jax.trainer  # noqa: F401  (takes over its own part)
from rowwise.keras.around import around
from rowwise.keras.jax.host import call
from rowwise.keras.jax.noting import watching
from rowwise.keras.jax.on_table import is_token, tokens_as_they_are
from rowwise.keras.jax.variable import TableVariable
from rowwise.rules import Rule


class _Step:
    """A table's step within an optimizer's: by how much each backward pass counts."""

    def __init__(self, optimizer: Any, weights: Any, variable: TableVariable) -> None:
        self.variable, self.weights, self._factor = variable, weights, None
        self.now, self._sums = True, None
        if several := optimizer.gradient_accumulation_steps:
            self._sums = optimizer._accumulated_gradients[optimizer._get_variable_index(variable)]
            self.now = (optimizer._iterations + 1) % several == 0
            total = weights + self._sums.given
            self._rest = jnp.where(self.now, jnp.zeros_like(total), total)
            self.weights = total / several

    @property
    def norm(self) -> Any:
        """Of the gradient: ()."""
        return call(self.variable.calling("norm"), (), np.float32, self.weights)

    def scale(self, before: Any, after: Any) -> None:
        """Scales the gradient as a number was scaled."""
        self._factor = jnp.where(before > 0, after / jnp.where(before > 0, before, 1), 1)

    def make(self, optimizer: Any, good: Any) -> None:
        """Asks the host for the step, if all is `good`."""
        variable = self.variable
        # As it is when the program is made: Keras, too, makes programs with the numbers of then.
        rule: Rule = variable._table.rule  # type: ignore[assignment]
        weights = self.weights
        if self._factor is not None:  # which may be NaN: of passes that count, not of all places
            weights = jnp.where(weights == 0, weights, weights * self._factor)
        clipvalue = optimizer.clipvalue or None
        numbers = (optimizer.iterations + 1, optimizer.learning_rate, self.now, good)
        waiting = jnp.zeros(1) if self._sums is None else self._sums.given
        batch = (variable.given, weights, waiting)
        variable.assign(variable.stepped(rule, clipvalue, *batch, *numbers))
        if self._sums is not None:
            self._sums.assign(self._rest)


_clipping: ContextVar[list[_Step]] = ContextVar("clipping", default=[])  # noqa: B039  (not changed)


@around(JaxOptimizer, "_backend_apply_gradients")
def _apply_gradients(original: Any, self: Any, grads: Any, trainable_variables: Any) -> Any:
    steps, rest = [], []
    for gradient, variable in zip(grads, trainable_variables, strict=True):
        if isinstance(variable, TableVariable) and variable.holds_token:
            steps.append(_Step(self, gradient, variable))
        else:
            rest.append((gradient, variable))
    if not steps:
        return original(self, grads, trainable_variables)
    clipping, tokens = _clipping.set(steps), tokens_as_they_are.set(True)
    try:
        original(self, [g for g, _ in rest], [v for _, v in rest])
    finally:
        _clipping.reset(clipping)
        tokens_as_they_are.reset(tokens)
    good = _good.get()
    for step in steps:
        step.make(self, True if good is None else good)
    return None


@around(BaseOptimizer, "_clip_gradients")
def _clip(original: Any, self: Any, grads: Any) -> Any:
    steps = _clipping.get()
    if not steps or not (self.clipnorm or self.global_clipnorm):
        return original(self, grads)
    norms = [step.norm for step in steps]
    clipped = original(self, [*grads, *norms])
    for step, before, after in zip(steps, norms, clipped[len(grads) :], strict=True):
        step.scale(before, after)
    return clipped[: len(grads)]


# Whether all variables may be stepped, by one optimizer or by several behind one.
_good: ContextVar[Any] = ContextVar("good", default=None)


def _stateless_apply(
    original: Any, self: Any, optimizer_variables: Any, grads: Any, trainable_variables: Any
) -> Any:
    if _good.get() is not None:  # within another's
        return original(self, optimizer_variables, grads, trainable_variables)
    watch = watching.get()
    # Known before the step, or all of what it makes would have to stand beside what it had.
    good = True if watch is None else watch.unspoilt(grads)
    before = _good.set(good)
    try:
        result = original(self, optimizer_variables, grads, trainable_variables)
    finally:
        _good.reset(before)
    for variable, value in zip(self._trainable_variables, trainable_variables, strict=True):
        if _is_table(variable) and variable.lazy and not is_token(value):
            variable.warn_of_whole_state()
    if watch is None:
        return result
    # Where the program has met a bad id, all stays as it is. A table has made no step then; its
    # token says so.
    trainable, rest = result
    kept = [
        new if _is_table(v) and is_token(new) else jnp.where(good, new, _value(old))
        for v, new, old in zip(
            self._trainable_variables, trainable, trainable_variables, strict=True
        )
    ]
    pairs = zip(rest, optimizer_variables, strict=True)
    return kept, [jnp.where(good, new, _value(old)) for new, old in pairs]


for _owner in (BaseOptimizer, keras.optimizers.LossScaleOptimizer):
    around(_owner, "stateless_apply")(_stateless_apply)


def _value(given: Any) -> Any:
    return given.value if isinstance(given, keras.Variable) else given


def _is_table(variable: Any) -> bool:
    return isinstance(variable, TableVariable)


@around(keras.optimizers.LossScaleOptimizer, "check_finite")
def _check_finite(original: Any, self: Any, grads: Any) -> Any:
    stand_ins = [
        call(v.calling("finite"), (), np.float32, g) if _is_table(v) and is_token(g) else g
        for g, v in zip(grads, self._trainable_variables, strict=True)
    ]
    return original(self, stand_ins)
