"""Sparse steps of Keras's optimizers on TensorFlow."""

from __future__ import annotations

import weakref
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import in_stateless_scope

from rowwise._binding import DenseFallback
from rowwise.keras._gradients import SparseGradient, coalesce
from rowwise.keras._optimizer import SparseGradientOptimizer, TableOptimizer, ensure_bound
from rowwise.keras._tensorflow.host_callback import WeakCallback, call
from rowwise.keras._tensorflow.variable import AccumulatorVariable, TableVariable
from rowwise.keras._variable import variable_of
from rowwise.rules import Rule
from rowwise.store import in_memory

_ROWS = [tf.int64, tf.float32]
_MULTI_OPTIMIZER = getattr(keras.optimizers, "MultiOptimizer", ())  # newer than the oldest Keras


class _OrderedMixin(TableOptimizer):
    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Make a step once all gradients are there: a graph that fails must not count it.

        Gradients of too many rows on a disk are found before, too.
        """
        apply = super().apply  # type: ignore[misc]
        if not self.built:  # what Keras builds in a graph stays as it is
            if not isinstance(self, _MULTI_OPTIMIZER):
                return apply(grads, trainable_variables)
            self.build(trainable_variables)  # its apply builds, but leaves it unbuilt
            self.built = True
        grads = list(grads)
        variables = (
            self._trainable_variables if trainable_variables is None else trainable_variables
        )
        checks = [
            call(WeakCallback(_check_batch, v), tf.float32, _as_rows(g)[0], errors=v.errors)
            for g, v in zip(grads, map(variable_of, variables), strict=True)
            if g is not None and isinstance(v, TableVariable) and v.on_disk
        ]
        first = [gradient for gradient in grads if gradient is not None]
        with tf.control_dependencies(first + checks):
            return apply(grads, trainable_variables)


class OptimizerMixin(_OrderedMixin, SparseGradientOptimizer):
    """Sparse steps of Keras's optimizers on TensorFlow."""

    def read_gradient(self, variable: Any, gradient: Any) -> Any:
        """Return a table's gradient for this step.

        While it is summed up with others', there are no rows in it.
        """
        if in_stateless_scope():
            return gradient
        ids, gradients = _as_rows(gradient)
        if not ensure_bound(self, variable):
            call(WeakCallback(_count_step, variable), tf.float32, ids)
            return tf.convert_to_tensor(gradient)
        steps = self.gradient_accumulation_steps
        if steps or self.clipnorm or self.clipvalue or self.global_clipnorm:
            ids, gradients = call(WeakCallback(_coalesce, variable), _ROWS, ids, gradients)
        if steps:
            now = (self._iterations + 1) % steps == 0
            accumulate = WeakCallback(_accumulate, variable.accumulators[self])
            ids, gradients = call(accumulate, _ROWS, ids, gradients, now)
        gradients.set_shape((None, variable._shape[1]))
        return SparseGradient(ids, gradients)

    def step_table(self, variable: Any, gradient: SparseGradient, learning_rate: Any) -> Any:
        """Make a table's sparse step, when the program comes to it."""
        step = WeakCallback(_step, variable, weakref.ref(self), variable._table.rule)
        numbers = (learning_rate, self.iterations + 1)
        batch = (gradient.ids, gradient.values)
        call(step, tf.float32, *batch, *numbers, errors=variable.errors)

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        """Sum gradients over replicas, if there are several.

        Of one replica's sum TensorFlow would register a gradient, and keep the graph for good.
        """
        if tf.distribute.has_strategy():
            return super()._all_reduce_sum_gradients(grads_and_vars)  # type: ignore[misc]
        return list(grads_and_vars)


class LossScaleMixin(_OrderedMixin):
    """Loss scaling of sparse gradients on TensorFlow."""

    def check_finite(self, grads: Any) -> Any:
        """Return whether every number of every gradient is finite."""
        values = [g.values if isinstance(g, tf.IndexedSlices) else g for g in grads]
        return super().check_finite(values)  # type: ignore[misc]


def _as_rows(gradient: Any) -> tuple[Any, Any]:
    """Return ids (n,) and gradients (n, D); of a dense one, of the rows that are not zero."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.cast(gradient.indices, "int64"), tf.cast(gradient.values, "float32")
    ids = tf.reshape(tf.where(tf.reduce_any(gradient != 0, axis=1)), [-1])
    return ids, tf.cast(tf.gather(gradient, ids), "float32")


# ---------------------------------------------------------------------- what the host does


def _check_batch(variable: TableVariable, ids: Any) -> np.float32:
    variable.check_batch(ids)
    return np.float32(0)


def _coalesce(variable: TableVariable, ids: Any, gradients: Any) -> Any:
    return coalesce(variable._table, ids, np.ascontiguousarray(gradients))


def _accumulate(accumulator: AccumulatorVariable, ids: Any, gradients: Any, now: Any) -> Any:
    accumulator.sums.add(ids, gradients)
    if now:
        return accumulator.sums.pop()
    return np.empty(0, np.int64), np.empty((0, gradients.shape[1]), np.float32)


def _count_step(variable: TableVariable, ids: Any) -> np.float32:
    in_memory(variable._table.store).record_external_step(ids)
    return np.float32(0)


def _step(
    variable: TableVariable,
    optimizer: weakref.ref[Any],
    rule: Rule,
    ids: Any,
    gradients: Any,
    rate: Any,
    iteration: Any,
) -> np.float32:
    """Make the step; a graph may run after another optimizer has been bound."""
    table, own = variable._table, optimizer()
    if own is not None and variable.binding.owner is not own and not ensure_bound(own, variable):
        raise DenseFallback(f"{own.name!r} makes no sparse steps any more; compile the model again")
    if rule is not table.rule and rule != table.rule:
        table.set_hyperparameters(rule)
    variable.step_table(table, ids, gradients, float(rate), int(iteration))
    return np.float32(0)
