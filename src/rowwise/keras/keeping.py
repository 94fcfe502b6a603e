"""Which optimizer has a table in its care, and whether the table makes that optimizer's steps.

Two of Keras's methods are taken over for that: `build` (take up the rule) and
`add_variable_from_reference` (the optimizer's slots are the table's). What happens in a step is
told by the backend's own bridge.
"""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import keras
from keras.src.backend import in_stateless_scope
from keras.src.optimizers.base_optimizer import BaseOptimizer

from rowwise.keras.around import around
from rowwise.keras.optimizers import NoRule, rule_of
from rowwise.keras.variables import AccumulatorVariable, SlotVariable, TableVariable

_ACCUMULATOR = "gradient_accumulator"  # Keras's name for it


def tables_of(model: Any) -> list[TableVariable]:
    """The tables among a model's variables."""
    return [v for v in model.variables if isinstance(v, TableVariable)]


def keeper_of(variable: TableVariable) -> Any:
    """The optimizer whose rule the table has, if it is still there."""
    return None if variable.keeper is None else variable.keeper()


def steps_by_rows(variable: TableVariable) -> bool:
    """Whether the variable's next step will be made by rows."""
    return variable.lazy and keeper_of(variable) is not None


def by_rows(optimizer: Any, variable: TableVariable) -> bool:
    """Whether the table makes this optimizer's steps; takes up its rule if it is a new one."""
    if keeper_of(variable) is not optimizer:
        _adopt(optimizer, variable)
    elif variable.lazy:
        try:
            rule = rule_of(optimizer, variable)
        except NoRule as cause:
            go_dense(variable, cause)
        else:
            if rule.slot_names != variable.table.slot_names:
                go_dense(variable, NoRule(f"the optimizer became {rule} in mid-training"))
            elif rule != variable.table.rule:  # somebody turned a knob
                variable.table.set_hyperparameters(rule)
    return variable.lazy


def _adopt(optimizer: Any, variable: TableVariable) -> None:
    """Gives the table the optimizer's rule, with the slots it had here before, or fresh ones."""
    known = variable.slots.setdefault(optimizer, {})
    before = {name: slot.numpy() for name, slot in known.items()}
    variable.keeper = weakref.ref(optimizer)
    try:
        variable.check_followed_by_rows(optimizer)
        rule = rule_of(optimizer, variable)
        if optimizer.built and set(rule.slot_names) != set(known):
            raise NoRule("its slots were made when it could not be followed by rows")
    except NoRule as cause:
        go_dense(variable, cause)
        return
    variable.part_from_others(optimizer)
    if variable.regularizer is not None:  # a step by rows like any other, but of all of them
        _warn(variable, NoRule("embeddings_regularizer gives every row a gradient"))
    table = variable.table
    table.rule = rule
    variable.lazy = True
    for name, values in before.items():
        table.store.write_slot(name, values)
        known[name].lie_over(table)


def go_dense(variable: TableVariable, cause: NoRule) -> None:
    """From now on Keras makes the steps, over all rows; slots stay where they are."""
    variable.leave_to_keras()
    _warn(variable, cause)


def _warn(variable: TableVariable, cause: NoRule) -> None:
    warnings.warn(
        f"{variable.path}: {cause}; every training step visits all {variable.shape[0]} rows, "
        "with the numbers of dense training and at its speed",
        stacklevel=2,
    )


def steps_itself(variable: Any) -> bool:
    """Whether the table makes the step that is being made, of no caller's state."""
    return isinstance(variable, TableVariable) and variable.lazy and not in_stateless_scope()


def hand_out_sums(optimizer: Any) -> None:
    """What Keras adds to a table's gradient: nothing, where the rows' sums are in it already."""
    for index, variable in enumerate(optimizer._trainable_variables):
        if isinstance(variable, TableVariable) and optimizer in variable.accumulators:
            sums = variable.accumulators[optimizer]
            own = steps_itself(variable) and keeper_of(variable) is optimizer
            optimizer._accumulated_gradients[index] = sums.nothing if own else sums


def is_wrapper(optimizer: Any) -> bool:
    """Whether the optimizer only hands gradients on to others."""
    return hasattr(optimizer, "inner_optimizer") or hasattr(optimizer, "optimizers")


def steppers(optimizer: Any) -> list[Any]:
    """The optimizers that make an optimizer's steps: itself, unless it hands gradients on."""
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return steppers(inner)
    several = getattr(optimizer, "optimizers", None)
    return [optimizer] if several is None else [s for one in several for s in steppers(one)]


@around(BaseOptimizer, "build")
def _build(original: Any, self: Any, variables: Any) -> Any:
    if not is_wrapper(self):
        for variable in variables:
            if isinstance(variable, TableVariable):
                by_rows(self, variable)
    return original(self, variables)


@around(BaseOptimizer, "add_variable_from_reference")
def _add_slot(
    original: Any, self: Any, reference_variable: Any, name: Any = None, initializer: Any = "zeros"
) -> Any:
    variable = reference_variable
    by_table = (
        isinstance(variable, TableVariable) and not is_wrapper(self) and by_rows(self, variable)
    )
    if not by_table or name not in (*variable.table.slot_names, _ACCUMULATOR):
        return original(self, variable, name=name, initializer=initializer)
    full_name = f"{variable.path.replace('/', '_')}_{name}"
    with keras.name_scope(self.name, caller=self):
        if name == _ACCUMULATOR:
            own = variable.accumulators[self] = AccumulatorVariable(variable, full_name)
        else:
            own = variable.slots[self][name] = SlotVariable(variable.table, name, full_name)
    self._track_variable(own)
    return own
