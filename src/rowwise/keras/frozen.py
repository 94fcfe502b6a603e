"""A row that Keras's optimizers leave alone.

Its gradients are dropped where they arise (`rows_of`), and a table's own steps keep it
(`in_care.step_but_for`). A step that Keras makes, over all rows, may still move it, by decay, by a
regularizer, by averaging: then it is put back.
"""

from __future__ import annotations

from typing import Any

from keras import ops
from keras.src.backend import in_stateless_scope
from keras.src.optimizers.base_optimizer import BaseOptimizer

from rowwise.keras.around import around
from rowwise.keras.backend import rows_of
from rowwise.keras.keeping import steps_by_rows
from rowwise.keras.scopes import uncast_value
from rowwise.keras.variables import TableVariable


def freeze_row(variable: Any, row: int) -> None:
    """From now on training leaves row `row` of a variable (V, D) what it is."""
    variable.frozen_row = row


@around(BaseOptimizer, "apply")
def _apply(original: Any, self: Any, grads: Any, trainable_variables: Any = None) -> Any:
    given = getattr(self, "_trainable_variables", ())
    if trainable_variables is not None:
        given = trainable_variables = list(trainable_variables)
    before = _frozen_rows(given)
    result = original(self, grads, trainable_variables)
    _put_back(before)
    return result


@around(BaseOptimizer, "finalize_variable_values")
def _finalize(original: Any, self: Any, var_list: Any) -> Any:
    before = _frozen_rows(var_list)
    result = original(self, var_list)
    _put_back(before)
    return result


def _frozen_rows(variables: Any) -> list[tuple[Any, Any]]:
    """The variables with a frozen row, each with that row (D,) as it is."""
    frozen = [v for v in variables if getattr(v, "frozen_row", None) is not None]
    # A table that a token stands for makes its step by itself.
    return [(v, _row(v)) for v in frozen if not getattr(v, "holds_token", False)]


def _row(variable: Any) -> Any:
    return ops.stop_gradient(rows_of(variable, ops.convert_to_tensor(variable.frozen_row)))


def _put_back(rows: list[tuple[Any, Any]]) -> None:
    for variable, row in rows:
        table = isinstance(variable, TableVariable) and not in_stateless_scope()
        if not (table and steps_by_rows(variable)):
            value = ops.stop_gradient(uncast_value(variable))
            variable.assign(ops.scatter_update(value, [[variable.frozen_row]], row[None]))
