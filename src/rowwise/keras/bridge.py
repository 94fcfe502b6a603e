"""Where Keras's optimizers meet tables: every private method of theirs that is taken over.

What an optimizer does with a variable is taken over for a `TableVariable`: `build` (take up the
rule), `add_variable_from_reference` (its slots are the table's), and within `apply`
`_overwrite_variables_directly_with_gradients` (the first thing done: let the rows' gradients stand
for the whole one, so that Keras unscales and clips them as any other), `_apply_weight_decay` (the
rule decays), `_backend_update_step` (the table makes the step) and
`_backend_reset_gradient_accumulators`; in `LossScaleOptimizer`, `check_finite`. For every other
variable they do what they did.

The rest of what is private to Keras: frozen.py, inputs.py, loading.py, scopes.py. A Keras that
changes any of it fails in tests/keras/test_bridge.py first.
"""

from __future__ import annotations

import math
import warnings
import weakref
from typing import Any

import keras
import torch
from keras.src.backend import in_stateless_scope
from keras.src.backend.torch.optimizers.torch_optimizer import TorchOptimizer
from keras.src.backend.torch.optimizers.torch_parallel_optimizer import TorchParallelOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from rowwise.keras.around import around
from rowwise.keras.optimizers import NoRule, iteration, rule_of
from rowwise.keras.variable import AccumulatorVariable, SlotVariable, TableVariable
from rowwise.pooling import coalesce
from rowwise.torch.lookup import rows_and_gradients

_ACCUMULATOR = "gradient_accumulator"  # Keras's name for it


def takes_sparse_gradient(variable: TableVariable) -> bool:
    """Whether the variable's next step will be made by rows."""
    return variable.lazy and _keeper(variable) is not None


def _keeper(variable: TableVariable) -> Any:
    return None if variable.keeper is None else variable.keeper()


def _lazy(optimizer: Any, variable: TableVariable) -> bool:
    """Whether the table makes this optimizer's steps; takes up its rule if it is a new one."""
    if _keeper(variable) is not optimizer:
        _adopt(optimizer, variable)
    elif variable.lazy:
        try:
            rule = rule_of(optimizer, variable)
        except NoRule as cause:
            _go_dense(variable, cause)
        else:
            if rule.slot_names != variable.table.slot_names:
                _go_dense(variable, NoRule(f"the optimizer became {rule} in mid-training"))
            elif rule != variable.table.rule:  # somebody turned a knob
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


def _rows_of(optimizer: Any, variable: TableVariable, gradient: Any) -> Any:
    """What stands for the whole gradient in `apply`: those of the batch's rows, (n, D).

    None where the batch is only one of several whose gradients are summed up first.
    """
    ids, gradients = rows_and_gradients(gradient)
    several = optimizer.gradient_accumulation_steps
    if several or optimizer.clipnorm or optimizer.clipvalue or optimizer.global_clipnorm:
        ids, gradients = coalesce(variable.table, ids, gradients)
    if several:
        accumulator = variable.accumulators[optimizer]
        accumulator.add(ids, gradients)
        if (int(optimizer._iterations.numpy()) + 1) % several:
            return None
        ids, gradients = accumulator.take()
    variable.batches.append(ids)
    return torch.from_numpy(gradients)


def _step(
    optimizer: Any, variable: TableVariable, ids: Any, gradients: Any, learning_rate: Any
) -> None:
    """Makes the optimizer's step by rows. Where that cannot be done, NoRule says why."""
    rate, number = float(keras.ops.convert_to_numpy(learning_rate)), iteration(optimizer)
    try:
        if not 0 <= rate < math.inf:
            raise ValueError(f"the learning rate {rate} is none that a rule by rows takes")
        rule_of(optimizer, variable).scales(rate, number)
    except ValueError as cause:
        raise NoRule(f"{cause}") from cause
    variable.update(
        ids,
        gradients.numpy(),
        rate,
        iteration=number,
        check_finite=False,  # a NaN goes where Keras would let it go
    )


def _whole(variable: TableVariable, ids: Any, gradients: Any) -> Any:
    """The gradient of all rows, from those of the rows ids (n,)."""
    return torch.zeros(tuple(variable.shape)).index_add_(0, torch.from_numpy(ids), gradients)


def _is_wrapper(optimizer: Any) -> bool:
    """Whether the optimizer only hands gradients on to others."""
    return hasattr(optimizer, "inner_optimizer") or hasattr(optimizer, "optimizers")


@around(BaseOptimizer, "build")
def _build(original: Any, self: Any, variables: Any) -> Any:
    if not _is_wrapper(self):
        for variable in variables:
            if isinstance(variable, TableVariable):
                _lazy(self, variable)
    return original(self, variables)


@around(BaseOptimizer, "add_variable_from_reference")
def _add_slot(
    original: Any, self: Any, reference_variable: Any, name: Any = None, initializer: Any = "zeros"
) -> Any:
    variable = reference_variable
    by_rows = (
        isinstance(variable, TableVariable) and not _is_wrapper(self) and _lazy(self, variable)
    )
    if by_rows and name == _ACCUMULATOR:
        return _add_accumulator(self, variable)
    if not by_rows or name not in variable.table.slot_names:
        return original(self, variable, name=name, initializer=initializer)
    with keras.name_scope(self.name, caller=self):
        slot = SlotVariable(variable.table, name, _full_name(variable, name))
    self._track_variable(slot)
    variable.slots[self][name] = slot
    return slot


def _add_accumulator(optimizer: Any, variable: TableVariable) -> Any:
    """Adds the variable that Keras would, which sums by rows where it can."""
    with keras.name_scope(optimizer.name, caller=optimizer):
        name = _full_name(variable, _ACCUMULATOR)
        accumulator = AccumulatorVariable(*variable.table.shape, name)
    optimizer._track_variable(accumulator)
    variable.accumulators[optimizer] = accumulator
    return accumulator


def _hand_out_sums(optimizer: Any) -> None:
    """What Keras adds to a table's gradient: nothing, where the rows' sums are in it already."""
    for index, variable in enumerate(optimizer._trainable_variables):
        if isinstance(variable, TableVariable) and optimizer in variable.accumulators:
            sums = variable.accumulators[optimizer]
            own = _steps_itself(variable) and _keeper(variable) is optimizer
            optimizer._accumulated_gradients[index] = sums.nothing if own else sums


def _full_name(variable: TableVariable, name: str) -> str:
    return f"{variable.path.replace('/', '_')}_{name}"


@around(BaseOptimizer, "_overwrite_variables_directly_with_gradients")
def _take_rows(original: Any, self: Any, grads: Any, variables: Any) -> Any:
    rest = []
    for variable in variables:
        if isinstance(variable, TableVariable):
            variable.batches.clear()
    for gradient, variable in zip(grads, variables, strict=True):
        if isinstance(variable, TableVariable):
            if not in_stateless_scope():
                if _lazy(self, variable):
                    gradient = _rows_of(self, variable, gradient)
                else:
                    variable.table.stepped_from_outside(rows_and_gradients(gradient)[0])
            if gradient is None:
                continue
            gradient = gradient.to_dense() if gradient.is_sparse else gradient
        rest.append((gradient, variable))
    if self.gradient_accumulation_steps:
        _hand_out_sums(self)
    return original(self, [g for g, _ in rest], [v for _, v in rest])


@around(TorchOptimizer, "_apply_weight_decay")
def _decay_the_others(original: Any, self: Any, variables: Any) -> Any:
    rest = [v for v in variables if not _steps_itself(v)]
    return original(self, rest) if rest else None


def _step_tables(
    original: Any, self: Any, grads: Any, trainable_variables: Any, learning_rate: Any
) -> Any:
    rest = []
    for gradient, variable in zip(grads, trainable_variables, strict=True):
        if _steps_itself(variable):
            ids = variable.batches.pop(0)
            try:
                _step(self, variable, ids, gradient, learning_rate)
                continue
            except NoRule as cause:
                _go_dense(variable, cause)
                self._apply_weight_decay([variable])
                gradient = _whole(variable, ids, gradient)
        rest.append((gradient, variable))
    if rest:
        return original(self, [g for g, _ in rest], [v for _, v in rest], learning_rate)
    if isinstance(self, keras.optimizers.Nadam):  # as its own step would have done
        momentum = self.beta_1 * (1.0 - 0.5 * keras.ops.power(0.96, iteration(self)))
        self._u_product.assign(self._u_product * momentum)
    return None


def _empty_sums(original: Any, self: Any) -> None:
    original(self)
    for variable in self._trainable_variables:
        if isinstance(variable, TableVariable) and self in variable.accumulators:
            variable.accumulators[self].forget()


for _owner in (BaseOptimizer, TorchParallelOptimizer):
    around(_owner, "_backend_update_step")(_step_tables)
    around(_owner, "_backend_reset_gradient_accumulators")(_empty_sums)


def _steps_itself(variable: Any) -> bool:
    return isinstance(variable, TableVariable) and variable.lazy and not in_stateless_scope()


@around(keras.optimizers.LossScaleOptimizer, "check_finite")
def _check_finite(original: Any, self: Any, grads: Any) -> Any:
    return original(self, [g._values() if g is not None and g.is_sparse else g for g in grads])
