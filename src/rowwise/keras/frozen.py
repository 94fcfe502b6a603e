"""A row that Keras's optimizers leave alone.

Its gradients are dropped where they arise (`rows_of`), and a table's own steps keep it
(`TableVariable.update`). A step that Keras makes, over all rows, may still move it, by decay, by a
regularizer, by averaging: then it is put back.
"""

from __future__ import annotations

from typing import Any

import torch
from keras.src.backend import in_stateless_scope
from keras.src.optimizers.base_optimizer import BaseOptimizer

from rowwise.keras.around import around
from rowwise.keras.bridge import takes_sparse_gradient
from rowwise.keras.scopes import uncast_value
from rowwise.keras.variable import TableVariable


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


def _frozen_rows(variables: Any) -> list[tuple[Any, torch.Tensor]]:
    """The variables with a frozen row, each with that row (D,) as it is."""
    return [(v, _row(v)) for v in variables if getattr(v, "frozen_row", None) is not None]


def _row(variable: Any) -> torch.Tensor:
    if isinstance(variable, TableVariable) and not in_stateless_scope():
        return torch.from_numpy(variable.table.lookup(variable.frozen_row))  # reads one row only
    return uncast_value(variable)[variable.frozen_row].detach().clone()


def _put_back(rows: list[tuple[Any, torch.Tensor]]) -> None:
    for variable, row in rows:
        if in_stateless_scope():
            value = uncast_value(variable).detach().clone()
            value[variable.frozen_row] = row
            variable.assign(value)
        elif not (isinstance(variable, TableVariable) and takes_sparse_gradient(variable)):
            with torch.no_grad():
                variable._value[variable.frozen_row] = row
