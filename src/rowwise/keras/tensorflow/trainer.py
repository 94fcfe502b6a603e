"""Where Keras's TensorFlow trainer meets tables: errors are raised as what they are, and steps
that a table cannot make are found before the graph runs."""

from __future__ import annotations

import weakref
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from rowwise.keras.around import around
from rowwise.keras.inputs import layers_of_ids
from rowwise.keras.keeping import go_dense, keeper_of
from rowwise.keras.optimizers import NoRule, check_step, iteration, rule_of
from rowwise.keras.tensorflow.variable import TableVariable


def _tables_of(model: Any) -> list[TableVariable]:
    return [v for v in model.variables if isinstance(v, TableVariable)]


# Optimizers of models in which an id may be bad.
_waiting: weakref.WeakSet[Any] = weakref.WeakSet()


@around(BaseOptimizer, "apply")
def _apply(original: Any, self: Any, grads: Any, trainable_variables: Any = None) -> Any:
    """A graph whose gradients fail must not count the step before that."""
    if self not in _waiting or not self.built:  # what Keras builds in a graph stays as it is
        return original(self, grads, trainable_variables)
    given = list(grads)
    with tf.control_dependencies([gradient for gradient in given if gradient is not None]):
        return original(self, given, trainable_variables)


def _guarded(original: Any, self: Any, force: bool = False) -> Any:
    name = original.__name__.removeprefix("make_")
    before = getattr(self, name)
    original(self, force)
    made = getattr(self, name)
    if name == "train_function" and self.optimizer is not None and layers_of_ids(self):
        _waiting.add(self.optimizer)
    tables = _tables_of(self)
    if made is before or not tables:
        return made
    made_for = _kinds(tables)

    def function(iterator: Any) -> Any:
        if name == "train_function":
            _build_optimizer(self)
            _give_way(self)
        if _kinds(tables) != made_for:
            getattr(self, f"make_{name}")(force=True)
            return getattr(self, name)(iterator)
        return made(iterator)

    setattr(self, name, function)
    return function


def _kinds(tables: list[TableVariable]) -> list[Any]:
    """What a graph takes for granted: how many rows there are, and whether they are a table's."""
    return [(variable._shape, variable._array is None) for variable in tables]


def _build_optimizer(model: Any) -> None:
    """Settles who makes a new optimizer's steps, before the graph of the first one is made."""
    optimizer = model.optimizer
    if optimizer is not None and not optimizer.built and model.built:
        try:
            for variable in _tables_of(model):
                rule_of(optimizer, variable)
        except NoRule:  # Keras builds it in its graph, to numbers of its own
            return
        with keras.name_scope(optimizer.name, caller=optimizer):
            optimizer.build(model.trainable_variables)


def _give_way(model: Any) -> None:
    """Leaves to Keras those tables whose next step has no rule."""
    for variable in _tables_of(model):
        keeper = keeper_of(variable)
        if variable.trainable and variable.lazy and keeper is not None:
            try:
                check_step(keeper, variable, float(keeper.learning_rate), iteration(keeper))
            except NoRule as cause:
                go_dense(variable, cause)


def _errors_of(model: Any) -> list[list[Exception]]:
    """What graphs noted of the variables that have rows, in tables or not."""
    variables = [v for layer in layers_of_ids(model) for v in layer.variables]
    return [v.errors for v in (*_tables_of(model), *variables) if hasattr(v, "errors")]


def _telling(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    for errors in _errors_of(self):
        errors.clear()
    try:
        return original(self, *args, **kwargs)
    except tf.errors.OpError:
        errors = [error for errors in _errors_of(self) for error in errors]
        if not errors:
            raise
        raise errors[0] from None


for _method in ("train", "test", "predict"):
    around(TensorFlowTrainer, f"make_{_method}_function")(_guarded)
    around(TensorFlowTrainer, f"{_method}_on_batch")(_telling)
for _method in ("fit", "evaluate", "predict"):
    around(TensorFlowTrainer, _method)(_telling)
