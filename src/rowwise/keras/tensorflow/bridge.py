"""Where Keras's optimizers meet tables on TensorFlow: what is taken over of an optimizer's step.

Beside what keeping.py takes over, for a `TableVariable`, within `apply`:
`_overwrite_variables_directly_with_gradients` (the first thing done: let the rows' gradients stand
for the whole one, so that Keras unscales and clips them as any other), `_apply_weight_decay` (the
rule decays), `_backend_update_step` (the table makes the step), and
`_backend_increment_gradient_accumulators` and `_backend_reset_gradient_accumulators` (sums are the
table's); in `LossScaleOptimizer`, `check_finite`. trainer.py has what is taken over of the model.
"""

from __future__ import annotations

import weakref
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import in_stateless_scope
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

import rowwise.keras.tensorflow.export
import rowwise.keras.tensorflow.trainer  # noqa: F401  (both take over their parts)
from rowwise.keras.around import around
from rowwise.keras.bags import coalesce
from rowwise.keras.in_care import step_but_for
from rowwise.keras.keeping import by_rows, hand_out_sums, keeper_of, steps_itself
from rowwise.keras.optimizers import NoRule
from rowwise.keras.tensorflow.host import Weakly, call
from rowwise.keras.tensorflow.variable import AccumulatorVariable, TableVariable
from rowwise.rules import Rule

_PAIR = [tf.int64, tf.float32]


def _rows_of(optimizer: Any, variable: TableVariable, gradient: Any) -> Any:
    """What stands for the whole gradient in `apply`: those of the batch's rows, (n, D).

    Where the batch is only one of several whose gradients are summed up first, there are none.
    """
    ids, gradients = _as_rows(gradient)
    several = optimizer.gradient_accumulation_steps
    if several or optimizer.clipnorm or optimizer.clipvalue or optimizer.global_clipnorm:
        ids, gradients = call(Weakly(_summed, variable), _PAIR, ids, gradients)
    if several:
        now = (optimizer._iterations + 1) % several == 0
        sums = Weakly(_accumulated, variable.accumulators[optimizer])
        ids, gradients = call(sums, _PAIR, ids, gradients, now)
    gradients.set_shape((None, variable._shape[1]))
    variable.batches.append(ids)
    return gradients


def _as_rows(gradient: Any) -> tuple[Any, Any]:
    """A gradient as ids (n,) and gradients (n, D); of a whole one, the rows that are not zero."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.cast(gradient.indices, "int64"), tf.cast(gradient.values, "float32")
    ids = tf.reshape(tf.where(tf.reduce_any(gradient != 0, axis=1)), [-1])
    return ids, tf.cast(tf.gather(gradient, ids), "float32")


def _summed(variable: TableVariable, ids: Any, gradients: Any) -> Any:
    return coalesce(variable._table, ids, np.ascontiguousarray(gradients))


def _accumulated(accumulator: AccumulatorVariable, ids: Any, gradients: Any, now: Any) -> Any:
    accumulator.by_row.add(ids, gradients)
    if now:
        return accumulator.by_row.take()
    return np.empty(0, np.int64), np.empty((0, gradients.shape[1]), np.float32)


def _step(
    variable: TableVariable,
    optimizer: weakref.ref[Any],
    rule: Rule,
    ids: Any,
    gradients: Any,
    rate: Any,
    iteration: Any,
) -> np.float32:
    """Makes the step, on the host; a graph outlives the turn of its optimizer."""
    table, own = variable._table, optimizer()
    if own is not None and keeper_of(variable) is not own and not by_rows(own, variable):
        raise NoRule(f"{own.name!r} has no rule by rows any more; compile the model again")
    if rule != table.rule:
        table.set_hyperparameters(rule)
    gradients = np.ascontiguousarray(gradients)
    step_but_for(variable.frozen_row, table, ids, gradients, float(rate), int(iteration))
    return np.float32(0)


def _count_step(variable: TableVariable, ids: Any) -> np.float32:
    variable._table.store.record_external_step(ids)
    return np.float32(0)


@around(BaseOptimizer, "_overwrite_variables_directly_with_gradients")
def _take_rows(original: Any, self: Any, grads: Any, trainable_variables: Any) -> Any:
    taken = []
    for variable in trainable_variables:
        if isinstance(variable, TableVariable):
            variable.batches.clear()
    for gradient, variable in zip(grads, trainable_variables, strict=True):
        if isinstance(variable, TableVariable) and not in_stateless_scope():
            if by_rows(self, variable):
                gradient = _rows_of(self, variable, gradient)
            else:
                call(Weakly(_count_step, variable), tf.float32, _as_rows(gradient)[0])
                gradient = tf.convert_to_tensor(gradient)
        taken.append(gradient)
    if self.gradient_accumulation_steps:
        hand_out_sums(self)
    return original(self, taken, trainable_variables)


@around(TFOptimizer, "_apply_weight_decay")
def _decay_the_others(original: Any, self: Any, variables: Any) -> Any:
    rest = [v for v in variables if not steps_itself(v)]
    return original(self, rest) if rest else None


@around(TFOptimizer, "_backend_update_step")
def _step_tables(
    original: Any, self: Any, grads: Any, trainable_variables: Any, learning_rate: Any
) -> Any:
    rest = []
    for gradient, variable in zip(grads, trainable_variables, strict=True):
        if steps_itself(variable):
            step = Weakly(_step, variable, weakref.ref(self), variable._table.rule)
            numbers = (learning_rate, self.iterations + 1)
            batch = (variable.batches.pop(0), gradient)
            call(step, tf.float32, *batch, *numbers, errors=variable.errors)
        else:
            rest.append((gradient, variable))
    return original(self, [g for g, _ in rest], [v for _, v in rest], learning_rate)


@around(BaseOptimizer, "_backend_reset_gradient_accumulators")
def _empty_sums(original: Any, self: Any) -> Any:
    original(self)
    for variable in self._trainable_variables:
        if isinstance(variable, TableVariable) and self in variable.accumulators:
            call(Weakly(_forgotten, variable.accumulators[self]), tf.float32)


def _forgotten(accumulator: AccumulatorVariable) -> np.float32:
    accumulator.by_row.take()
    return np.float32(0)


@around(TFOptimizer, "_backend_increment_gradient_accumulators")
def _increment_the_others(original: Any, self: Any, grads: Any, acc_grads: Any) -> Any:
    tables = [v for v in self._trainable_variables if isinstance(v, TableVariable)]
    nothing = {id(own.nothing) for v in tables for own in v.accumulators.values()}
    pairs = zip(grads, acc_grads, strict=True)
    rest = [(g, sums) for g, sums in pairs if id(sums) not in nothing]
    return original(self, [g for g, _ in rest], [sums for _, sums in rest])


@around(keras.optimizers.LossScaleOptimizer, "check_finite")
def _check_finite(original: Any, self: Any, grads: Any) -> Any:
    return original(self, [g.values if isinstance(g, tf.IndexedSlices) else g for g in grads])
