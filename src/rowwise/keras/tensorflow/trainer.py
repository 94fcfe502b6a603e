"""Where Keras's TensorFlow trainer meets tables: errors are raised as what they are, a batch of
which there was one is not counted, and steps that a table cannot make are found before the graph
runs.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.optimizers.multi_optimizer import MultiOptimizer

from rowwise.keras.around import around
from rowwise.keras.inputs import layers_of_ids
from rowwise.keras.keeping import go_dense, keeper_of, tables_of
from rowwise.keras.optimizers import NoRule, check_step, iteration, rule_of
from rowwise.keras.tensorflow.variable import TableVariable

# Optimizers of models in which an id may be bad.
_waiting: weakref.WeakSet[Any] = weakref.WeakSet()


def _apply(original: Any, self: Any, grads: Any, trainable_variables: Any = None) -> Any:
    """A graph whose gradients fail must not count the step before that."""
    grads = list(grads)
    stepped = getattr(self, "_trainable_variables", ())
    if trainable_variables is not None:
        stepped = trainable_variables = list(trainable_variables)
    waits = self in _waiting or any(isinstance(v, TableVariable) for v in stepped)
    if not waits or not self.built:  # what Keras builds in a graph stays as it is
        return original(self, grads, trainable_variables)
    with tf.control_dependencies([gradient for gradient in grads if gradient is not None]):
        return original(self, grads, trainable_variables)


for _owner in (BaseOptimizer, MultiOptimizer):
    around(_owner, "apply")(_apply)


def _guarded(original: Any, self: Any, force: bool = False) -> Any:
    name = original.__name__.removeprefix("make_")
    before = getattr(self, name)
    original(self, force)
    made = getattr(self, name)
    if name == "train_function" and self.optimizer is not None and layers_of_ids(self):
        _waiting.add(self.optimizer)
    tables = tables_of(self)
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
            for variable in tables_of(model):
                rule_of(optimizer, variable)
        except NoRule:  # Keras builds it in its graph, to numbers of its own
            return
        with keras.name_scope(optimizer.name, caller=optimizer):
            optimizer.build(model.trainable_variables)


def _give_way(model: Any) -> None:
    """Leaves to Keras those tables whose next step has no rule."""
    for variable in tables_of(model):
        keeper = keeper_of(variable)
        if variable.trainable and variable.lazy and keeper is not None:
            try:
                check_step(keeper, variable, float(keeper.learning_rate), iteration(keeper))
            except NoRule as cause:
                go_dense(variable, cause)


def _errors_of(model: Any) -> list[Any]:
    """What graphs noted of the variables that have rows, in tables or not."""
    variables = [v for layer in layers_of_ids(model) for v in layer.variables]
    return [v.errors for v in (*tables_of(model), *variables) if hasattr(v, "errors")]


def _telling(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return original(self, *args, **kwargs)
    except tf.errors.OpError as raised:
        text = str(raised)  # of this call: another thread's may have been noted, too
        for errors in _errors_of(self):
            for error in errors.copy():
                if str(error) in text:
                    with contextlib.suppress(ValueError):  # another thread has met the same
                        errors.remove(error)
                    raise error from None
        raise


for _method in ("train", "test", "predict"):
    around(TensorFlowTrainer, f"make_{_method}_function")(_guarded)
    around(TensorFlowTrainer, f"{_method}_on_batch")(_telling)
for _method in ("fit", "evaluate", "predict"):
    around(TensorFlowTrainer, _method)(_telling)
