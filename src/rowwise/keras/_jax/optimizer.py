"""Sparse steps of Keras's optimizers on JAX.

Who makes a table's steps is decided when a trainer takes the model's state: either the state holds
tokens, and the table makes them; or it holds whole arrays, and Keras does, as it would for any
variable.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from rowwise import _native
from rowwise.jax._host_callback import call_table
from rowwise.keras._jax.deferred_errors import no_errors, watching
from rowwise.keras._jax.variable import TableVariable, is_token, keep_tokens
from rowwise.keras._optimizer import TableOptimizer
from rowwise.rules import Rule


class _TableStep:
    """A table's step within an optimizer's: by how much each backward pass counts."""

    def __init__(self, optimizer: Any, weights: Any, variable: TableVariable) -> None:
        self.variable, self.weights, self._factor = variable, weights, None
        self.now, self._sums = True, None
        divided_by = optimizer.loss_scale_factor or _loss_scale.get()
        self.weights = weights = _checked_size(weights, divided_by)
        if several := optimizer.gradient_accumulation_steps:
            self._sums = optimizer._accumulated_gradients[optimizer._get_variable_index(variable)]
            self.now = (optimizer._iterations + 1) % several == 0
            total = weights + self._sums.given
            self._rest = jnp.where(self.now, jnp.zeros_like(total), total)
            self.weights = total / several

    @property
    def norm(self) -> Any:
        """The norm () of the gradient."""
        return self.variable.norm(self.weights)

    def scale(self, before: Any, after: Any) -> None:
        """Scale the gradient as a number was scaled."""
        self._factor = jnp.where(before > 0, after / jnp.where(before > 0, before, 1), 1)

    def make(self, optimizer: Any) -> None:
        """Ask the host for the step."""
        variable = self.variable
        # As it is when the program is made: Keras, too, makes programs with the numbers of then.
        rule: Rule = variable._table.rule  # type: ignore[assignment]
        weights = self.weights
        if self._factor is not None:  # which may be NaN: of passes that count, not of all places
            weights = jnp.where(weights == 0, weights, weights * self._factor)
        clipvalue = optimizer.clipvalue or None
        numbers = (optimizer.iterations + 1, optimizer.learning_rate, self.now)
        variable.assign(variable.stepped(rule, clipvalue, variable.given, weights, *numbers))
        if self._sums is not None:
            self._sums.assign(self._rest)


# The tables' steps whose gradients are being clipped with the others'.
_clipping: ContextVar[list[_TableStep]] = ContextVar("clipping", default=[])  # noqa: B039
# The optimizer whose step is being made, by itself or by several behind it.
_outermost: ContextVar[Any] = ContextVar("outermost", default=None)
# By what that one has divided the gradients.
_loss_scale: ContextVar[Any] = ContextVar("loss_scale", default=1.0)


class _StatelessMixin(TableOptimizer):
    def stateless_apply(
        self, optimizer_variables: Any, grads: Any, trainable_variables: Any
    ) -> Any:
        """Make a step; where the program has met a bad id, no variable moves."""
        apply = super().stateless_apply  # type: ignore[misc]
        if _outermost.get() is not None:  # within another's step
            return apply(optimizer_variables, grads, trainable_variables)
        variables, watched = self._trainable_variables, watching.get()

        def step() -> Any:
            before = _outermost.set(self)
            scale = _loss_scale.set(self._loss_scale_in(optimizer_variables))
            try:
                return apply(optimizer_variables, grads, trainable_variables)
            finally:
                _loss_scale.reset(scale)
                _outermost.reset(before)

        def refuse() -> Any:
            mine: Any = self.variables  # type: ignore[attr-defined]
            state = list(zip(mine, optimizer_variables, strict=True))
            batch = zip(variables, trainable_variables, grads, strict=True)
            trained = [
                _discarded(v, _value(value), state)
                if _is_table(v) and is_token(gradient)
                else _value(value)
                for v, value, gradient in batch
            ]
            return trained, [_value(value) for _, value in state]

        if watched is None:
            result = step()
        else:
            # One branch or the other. To choose between two values of every variable afterwards,
            # a program would keep both, and pass over them once more.
            good = no_errors(watched, grads)
            if isinstance(good, jax.core.Tracer):
                result = jax.lax.cond(good, step, refuse)
            else:  # nothing is compiled
                result = step() if good else refuse()
        for variable, value in zip(variables, trainable_variables, strict=True):
            if _is_table(variable) and variable.binding.mode == "sparse" and not is_token(value):
                variable.warn_of_dense_loop()
        return result

    def _loss_scale_in(self, optimizer_variables: Any) -> Any:
        """Return the loss scale in the optimizer's state; 1 where it has none."""
        return 1.0


class OptimizerMixin(_StatelessMixin):
    """Sparse steps of Keras's optimizers on JAX."""

    def _backend_apply_gradients(self, grads: Any, trainable_variables: Any) -> None:
        steps, rest = [], []
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            if _is_table(variable) and variable.holds_token:
                steps.append(_TableStep(self, gradient, variable))
            else:
                rest.append((gradient, variable))
        if not steps:
            return super()._backend_apply_gradients(grads, trainable_variables)
        clipping, tokens = _clipping.set(steps), keep_tokens.set(True)
        try:
            super()._backend_apply_gradients([g for g, _ in rest], [v for _, v in rest])
        finally:
            _clipping.reset(clipping)
            keep_tokens.reset(tokens)
        for step in steps:
            step.make(self)
        return None

    def _clip_gradients(self, grads: Any) -> Any:
        """Clip gradients, the tables' by their norms."""
        clip = super()._clip_gradients  # type: ignore[misc]
        steps = _clipping.get()
        if not steps or not (self.clipnorm or self.global_clipnorm):
            return clip(grads)
        norms = [step.norm for step in steps]
        clipped = clip([*grads, *norms])
        for step, before, after in zip(steps, norms, clipped[len(grads) :], strict=True):
            step.scale(before, after)
        return clipped[: len(grads)]


class LossScaleMixin(_StatelessMixin):
    """Loss scaling around sparse steps on JAX."""

    def _loss_scale_in(self, optimizer_variables: Any) -> Any:
        """Return the loss scale in the optimizer's state."""
        state = zip(self.variables, optimizer_variables, strict=True)  # type: ignore[attr-defined]
        scale = self.dynamic_scale  # type: ignore[attr-defined]
        return next(_value(value) for v, value in state if v is scale)

    def check_finite(self, grads: Any) -> Any:
        """Return whether every number of every gradient is finite."""
        values = [
            call_table(v, "finite", (), np.float32, g) if _is_table(v) and is_token(g) else g
            for g, v in zip(grads, self._trainable_variables, strict=True)
        ]
        return super().check_finite(values)  # type: ignore[misc]


def _checked_size(weights: Any, divided_by: Any) -> Any:
    """Return weights whose step is refused where a factor is below 2^-30 or above 2^30.

    Such factors are of norms: of gradients among which a token is not what it stands for.
    """
    largest = jnp.max(jnp.abs(weights[1:-1])) * divided_by
    whole = _native.PROGRAM_WHOLE
    usual = (largest >= whole * 2.0**-30) & (largest <= whole * 2.0**30)
    good = (largest == 0) | usual | jnp.isnan(largest)
    return weights.at[-1].set(jnp.where(good, weights[-1], jnp.inf))


def _discarded(variable: TableVariable, token: Any, state: list[tuple[Any, Any]]) -> Any:
    """Return the token after the batch's gradients were dropped; those summed up wait on.

    Args:
        variable: the table.
        token: what stands for it.
        state: variables of its optimizers, each with its value.
    """
    own = [*variable.accumulators.values()]
    sums = [value for v, value in state if any(v is one for one in own) and is_token(value)]
    return variable.discarded(token, sum(map(abs, sums), jnp.zeros(1)))


def _value(given: Any) -> Any:
    return given.value if isinstance(given, keras.Variable) else given


def _is_table(variable: Any) -> bool:
    return isinstance(variable, TableVariable)
