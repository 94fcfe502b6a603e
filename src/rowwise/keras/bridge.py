"""Where Keras's optimizers meet tables, by what is private to Keras (so do inputs.py, frozen.py).

An optimizer does four things with a variable, and each is taken over for a `TableVariable`:
`build` (take up the rule), `add_variable_from_reference` (its slots are the table's),
`_overwrite_variables_directly_with_gradients` (Keras's own place for variables that are not
stepped as usual, inside `apply`: make the step) and, in `LossScaleOptimizer`, `check_finite`.
For every other variable they do what they did. A fifth thing belongs to files:
`_retrieve_class_or_fn`, which finds a saved layer's class. And of Keras's scopes three are asked
for: whether values are cast (mixed precision), are a caller's (stateless), or count at all.
"""

from __future__ import annotations

import functools
import math
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
from keras.src.backend import (
    AutocastScope,
    get_autocast_scope,
    in_stateless_scope,
    in_symbolic_scope,
)
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.saving import serialization_lib

from rowwise.keras.optimizers import NoRule, iteration, learning_rate, rule_of
from rowwise.keras.variable import SlotVariable, TableVariable
from rowwise.torch.lookup import rows_and_gradients


def takes_sparse_gradient(variable: TableVariable) -> bool:
    """Whether the variable's next step will be made by rows."""
    return variable.lazy and variable.keeper is not None and variable.keeper() is not None


def uncast_value(variable: Any) -> Any:
    """The variable's value here and now, not cast to the dtype of a mixed-precision layer."""
    with AutocastScope(None):
        return variable.value


def cast_as_read(variable: Any, rows: Any) -> Any:
    """Rows of the variable's uncast value, cast as the value itself would be here and now."""
    scope = get_autocast_scope()
    return rows if scope is None or not variable._autocast else scope.maybe_cast(rows)


def only_shapes_count() -> bool:
    """Whether Keras is calling layers on placeholders, to learn the shapes of their outputs."""
    return in_symbolic_scope()


def _lazy(optimizer: Any, variable: TableVariable) -> bool:
    """Whether the table makes this optimizer's steps; takes up its rule if it is a new one."""
    if variable.keeper is None or variable.keeper() is not optimizer:
        _adopt(optimizer, variable)
    elif variable.lazy:
        try:
            rule = rule_of(optimizer, variable)
        except NoRule as cause:
            _go_dense(variable, cause)
        else:
            if rule != variable.table.rule:  # somebody turned a knob
                variable.table.retune(rule)
    return variable.lazy


def _adopt(optimizer: Any, variable: TableVariable) -> None:
    """Gives the table the optimizer's rule, with the slots it had here before, or fresh ones."""
    known = variable.slots.setdefault(optimizer, {})
    before = {name: slot.numpy() for name, slot in known.items()}
    variable.keeper = weakref.ref(optimizer)
    try:
        rule = rule_of(optimizer, variable)
        if optimizer.built and set(rule.slot_names) != set(known):
            raise NoRule("its slots were made when it could not be followed by rows")
    except NoRule as cause:
        _go_dense(variable, cause)
        return
    if variable.regularizer is not None:  # a step by rows like any other, but of all of them
        _warn(variable, NoRule("embeddings_regularizer gives every row a gradient"))
    table = variable.table
    table.rule = rule
    variable.lazy = True
    for name, values in before.items():
        table.buffer(name)[:] = values
        table.slots_written()
        known[name].lie_over(table)


def _go_dense(variable: TableVariable, cause: NoRule) -> None:
    """From now on Keras makes the steps, over all rows; slots stay where they are."""
    variable.table.rule = None
    variable.lazy = False
    _warn(variable, cause)


def _warn(variable: TableVariable, cause: NoRule) -> None:
    warnings.warn(
        f"{variable.path}: {cause}; every training step visits all {variable.shape[0]} rows, "
        "with Keras's own numbers at Keras's own speed",
        stacklevel=2,
    )


def _step(optimizer: Any, variable: TableVariable, gradient: Any) -> bool:
    """Makes the optimizer's step by rows, where that can be done."""
    if in_stateless_scope() or not _lazy(optimizer, variable):
        return False
    rate = learning_rate(optimizer)
    if not 0 <= rate < math.inf:
        _go_dense(variable, NoRule(f"the learning rate {rate} is none that a rule by rows takes"))
        return False
    ids, gradients = rows_and_gradients(gradient)
    if optimizer.loss_scale_factor is not None:
        gradients = gradients / optimizer.loss_scale_factor
    variable.update(
        ids,
        gradients,
        rate,
        iteration=iteration(optimizer),
        check_finite=False,  # a NaN goes where Keras would let it go
    )
    return True


def _is_wrapper(optimizer: Any) -> bool:
    """Whether the optimizer only hands gradients on to others."""
    return hasattr(optimizer, "inner_optimizer") or hasattr(optimizer, "optimizers")


def _around(owner: Any, method: str) -> Any:
    """Replaces a method or function by `wrapper(original, ...)`."""

    def decorate(wrapper: Any) -> Any:
        original = getattr(owner, method)

        @functools.wraps(original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

        setattr(owner, method, replaced)
        return wrapper

    return decorate


@_around(BaseOptimizer, "build")
def _build(original: Any, self: Any, variables: Any) -> Any:
    if not _is_wrapper(self):
        for variable in variables:
            if isinstance(variable, TableVariable):
                _lazy(self, variable)
    return original(self, variables)


@_around(BaseOptimizer, "add_variable_from_reference")
def _add_slot(
    original: Any, self: Any, reference_variable: Any, name: Any = None, initializer: Any = "zeros"
) -> Any:
    variable = reference_variable
    if not (
        isinstance(variable, TableVariable)
        and _lazy(self, variable)
        and name in variable.table.slot_names
    ):
        return original(self, reference_variable, name=name, initializer=initializer)
    full_name = f"{variable.path.replace('/', '_')}_{name}"
    with keras.name_scope(self.name, caller=self):
        slot = SlotVariable(variable.table, name, full_name)
    self._track_variable(slot)
    variable.slots[self][name] = slot
    return slot


@_around(BaseOptimizer, "_overwrite_variables_directly_with_gradients")
def _step_tables(original: Any, self: Any, grads: Any, variables: Any) -> Any:
    rest = []
    for gradient, variable in zip(grads, variables, strict=True):
        if isinstance(variable, TableVariable):
            if _step(self, variable, gradient):
                continue
            if not in_stateless_scope():
                variable.table.stepped_from_outside(rows_and_gradients(gradient)[0])
            gradient = gradient.to_dense() if gradient.is_sparse else gradient
        rest.append((gradient, variable))
    return original(self, [g for g, _ in rest], [v for _, v in rest])


@_around(keras.optimizers.LossScaleOptimizer, "check_finite")
def _check_finite(original: Any, self: Any, grads: Any) -> Any:
    return original(self, [g._values() if g is not None and g.is_sparse else g for g in grads])


_stand_in: ContextVar[Any] = ContextVar("stand_in", default=None)


@contextmanager
def opening_embeddings_with(layer: type) -> Iterator[None]:
    """While it lasts, a saved embedding layer, Keras's or ours, is opened as a `layer`."""
    token = _stand_in.set(layer)
    try:
        yield
    finally:
        _stand_in.reset(token)


@_around(serialization_lib, "_retrieve_class_or_fn")
def _retrieve(
    original: Any, name: Any, registered_name: Any, module: Any, *args: Any, **kwargs: Any
) -> Any:
    saved_embedding = name == "Embedding" and module in ("keras.layers", "rowwise.keras.embedding")
    if saved_embedding and _stand_in.get() is not None:
        return _stand_in.get()
    return original(name, registered_name, module, *args, **kwargs)
