"""Keras's TensorFlow trainer and exporter around tables.

Errors are raised as what they are, a batch with one is not counted, and steps that a table cannot
make are found before the graph runs. Every public function here wraps the method of Keras's that
`_patches.py` names.
"""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import tensorflow as tf

from rowwise._binding import DenseFallback
from rowwise.keras._ids import id_layers_in
from rowwise.keras._optimizer import check_step, mix_in, next_iteration, rule_of
from rowwise.keras._tensorflow.optimizer import LossScaleMixin, OptimizerMixin
from rowwise.keras._tensorflow.variable import TableVariable
from rowwise.keras._variable import tables_of

# ---------------------------------------------------------------------- training


def make_function(original: Any, model: Any, force: bool = False) -> Any:
    """Make a train, test or predict function, which is made anew where a table changes."""
    name = original.__name__.removeprefix("make_")
    before = getattr(model, name)
    original(model, force)
    made = getattr(model, name)
    if made is before:
        return made
    trains = name == "train_function"
    if trains and model.optimizer is not None and id_layers_in(model):
        mix_in(model.optimizer, OptimizerMixin, LossScaleMixin)
    tables = tables_of(model)
    if not tables:
        return made
    made_for = _assumptions(tables)

    def function(iterator: Any) -> Any:
        if trains:
            _build_optimizer(model)
            _fall_back_before_step(model)
        if _assumptions(tables) != made_for:
            getattr(model, f"make_{name}")(force=True)
            return getattr(model, name)(iterator)
        return made(iterator)

    setattr(model, name, function)
    return function


def _assumptions(tables: list[TableVariable]) -> list[Any]:
    """Return the facts that a graph was traced with: the number of rows, and their place."""
    return [(variable._shape, variable._array is None) for variable in tables]


def _build_optimizer(model: Any) -> None:
    """Build a new optimizer, and bind it to tables, before the graph of the first step is made."""
    optimizer = model.optimizer
    if optimizer is not None and not optimizer.built and model.built:
        try:
            for variable in tables_of(model):
                rule_of(optimizer, variable)
        except DenseFallback:  # Keras builds it in its graph, to numbers of its own
            return
        with keras.name_scope(optimizer.name, caller=optimizer):
            optimizer.build(model.trainable_variables)


def _fall_back_before_step(model: Any) -> None:
    """Leave to Keras those tables whose next step has no exact lazy update."""
    for variable in tables_of(model):
        if variable.trainable and variable.binding.mode == "sparse":
            owner = variable.binding.owner
            try:
                rule = rule_of(owner, variable)
                check_step(rule, float(owner.learning_rate), next_iteration(owner))
            except DenseFallback as reason:
                variable.fall_back_to_dense(reason)


def _errors_of(model: Any) -> list[Any]:
    """Return the errors that graphs met, of all variables that have rows, in tables or not."""
    variables = [v for layer in id_layers_in(model) for v in layer.variables]
    return [v.errors for v in (*tables_of(model), *variables) if hasattr(v, "errors")]


def run(original: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Run fit, evaluate, predict, or one of them on a batch; raise the errors of graphs."""
    try:
        return original(model, *args, **kwargs)
    except tf.errors.OpError as raised:
        text = str(raised)  # of this call: another thread's errors may be there, too
        for errors in _errors_of(model):
            for error in errors.copy():
                if str(error) in text:
                    with contextlib.suppress(ValueError):  # another thread has met the same
                        errors.remove(error)
                    raise error from None
        raise


# ---------------------------------------------------------------------- exporting


def track_resources(original: Any, archive: Any) -> None:
    """Track what the endpoints of an archive use; a table that is tracked itself only once."""
    original(archive)
    serving = archive._tf_trackable
    tracked = {id(variable) for variable in serving.variables}

    def stands_for_another(array: Any) -> bool:
        owner = getattr(array, "_rowwise_variable", None)
        return owner is not None and id(owner()) in tracked

    serving._all_variables = [v for v in serving._all_variables if not stands_for_another(v)]
