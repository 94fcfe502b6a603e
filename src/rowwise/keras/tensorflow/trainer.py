"""Where Keras's TensorFlow trainer meets tables: errors are raised as what they are, and steps
that a table cannot make are found before the graph runs."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

from rowwise.keras.around import around
from rowwise.keras.keeping import go_dense, keeper_of
from rowwise.keras.optimizers import NoRule, check_step, iteration
from rowwise.keras.tensorflow.variable import TableVariable


def _tables_of(model: Any) -> list[TableVariable]:
    return [v for v in model.variables if isinstance(v, TableVariable)]


def _guarded(original: Any, self: Any, force: bool = False) -> Any:
    name = original.__name__.removeprefix("make_")
    before = getattr(self, name)
    original(self, force)
    made = getattr(self, name)
    tables = _tables_of(self)
    if made is before or not tables:
        return made
    shapes = [variable.shape for variable in tables]

    def function(iterator: Any) -> Any:
        gave_way = name == "train_function" and _give_way(self)
        if gave_way:  # what was made before knows nothing of that
            self.test_function = self.predict_function = None
        if gave_way or [variable.shape for variable in tables] != shapes:
            getattr(self, f"make_{name}")(force=True)
            return getattr(self, name)(iterator)
        return made(iterator)

    setattr(self, name, function)
    return function


def _give_way(model: Any) -> bool:
    """Leaves to Keras those tables whose next step has no rule; whether there was one."""
    gave_way = False
    for variable in _tables_of(model):
        keeper = keeper_of(variable)
        if variable.trainable and variable.lazy and keeper is not None:
            try:
                check_step(keeper, variable, float(keeper.learning_rate), iteration(keeper))
            except NoRule as cause:
                go_dense(variable, cause)
                gave_way = True
    return gave_way


def _telling(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    tables = _tables_of(self)
    for variable in tables:
        variable.errors.clear()
    try:
        return original(self, *args, **kwargs)
    except tf.errors.OpError as told:
        errors = [error for variable in _tables_of(self) for error in variable.errors]
        if not errors:
            raise
        raise errors[0] from told


for _method in ("train", "test", "predict"):
    around(TensorFlowTrainer, f"make_{_method}_function")(_guarded)
    around(TensorFlowTrainer, f"{_method}_on_batch")(_telling)
for _method in ("fit", "evaluate", "predict"):
    around(TensorFlowTrainer, _method)(_telling)
