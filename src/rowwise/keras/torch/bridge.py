"""Where Keras's optimizers meet tables on torch: what is taken over of an optimizer's step.

Beside what keeping.py takes over, for a `TableVariable`, within `apply`:
`_overwrite_variables_directly_with_gradients` (the first thing done: let the rows' gradients stand
for the whole one, so that Keras unscales and clips them as any other), `_apply_weight_decay` (the
rule decays), `_backend_update_step` (the table makes the step) and
`_backend_reset_gradient_accumulators`; in `LossScaleOptimizer`, `check_finite`. For every other
variable they do what they did.

The rest of what is private to Keras: keeping.py, frozen.py, inputs.py, loading.py, scopes.py. A
Keras that changes any of it fails in tests/keras/test_bridge.py first.
"""

from __future__ import annotations

from typing import Any

import keras
import torch
from keras.src.backend import in_stateless_scope
from keras.src.backend.torch.optimizers.torch_optimizer import TorchOptimizer
from keras.src.backend.torch.optimizers.torch_parallel_optimizer import TorchParallelOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

import rowwise.keras.torch.plain_optimizers  # noqa: F401  (torch's own step tables, too)
from rowwise.keras.around import around
from rowwise.keras.bags import coalesce
from rowwise.keras.in_care import step_but_for
from rowwise.keras.keeping import by_rows, go_dense, hand_out_sums, steps_itself
from rowwise.keras.optimizers import NoRule, check_step, iteration
from rowwise.keras.torch.variable import TableVariable
from rowwise.torch._lookup import rows_and_gradients


def _rows_of(optimizer: Any, variable: TableVariable, gradient: Any) -> Any:
    """What stands for the whole gradient in `apply`: those of the batch's rows, (n, D).

    None where the batch is only one of several whose gradients are summed up first.
    """
    ids, gradients = rows_and_gradients(gradient)
    several = optimizer.gradient_accumulation_steps
    if several or optimizer.clipnorm or optimizer.clipvalue or optimizer.global_clipnorm:
        ids, gradients = coalesce(variable.table, ids, gradients)
    if several:
        sums = variable.accumulators[optimizer].by_row
        sums.add(ids, gradients)
        if (int(optimizer._iterations.numpy()) + 1) % several:
            return None
        ids, gradients = sums.take()
    variable.batches.append(ids)
    return torch.from_numpy(gradients)


def _step(
    optimizer: Any, variable: TableVariable, ids: Any, gradients: Any, learning_rate: Any
) -> None:
    """Makes the optimizer's step by rows. Where that cannot be done, NoRule says why."""
    rate, number = float(keras.ops.convert_to_numpy(learning_rate)), iteration(optimizer)
    check_step(optimizer, variable, rate, number)
    step_but_for(variable.frozen_row, variable.table, ids, gradients.numpy(), rate, number)


def _whole(variable: TableVariable, ids: Any, gradients: Any) -> Any:
    """The gradient of all rows, from those of the rows ids (n,)."""
    return torch.zeros(tuple(variable.shape)).index_add_(0, torch.from_numpy(ids), gradients)


@around(BaseOptimizer, "_overwrite_variables_directly_with_gradients")
def _take_rows(original: Any, self: Any, grads: Any, variables: Any) -> Any:
    rest = []
    for variable in variables:
        if isinstance(variable, TableVariable):
            variable.batches.clear()
    for gradient, variable in zip(grads, variables, strict=True):
        if isinstance(variable, TableVariable):
            if not in_stateless_scope():
                if by_rows(self, variable):
                    gradient = _rows_of(self, variable, gradient)
                else:
                    variable.table.store.record_external_step(rows_and_gradients(gradient)[0])
            if gradient is None:
                continue
            gradient = gradient.to_dense() if gradient.is_sparse else gradient
        rest.append((gradient, variable))
    if self.gradient_accumulation_steps:
        hand_out_sums(self)
    return original(self, [g for g, _ in rest], [v for _, v in rest])


@around(TorchOptimizer, "_apply_weight_decay")
def _decay_the_others(original: Any, self: Any, variables: Any) -> Any:
    rest = [v for v in variables if not steps_itself(v)]
    return original(self, rest) if rest else None


def _step_tables(
    original: Any, self: Any, grads: Any, trainable_variables: Any, learning_rate: Any
) -> Any:
    rest = []
    for gradient, variable in zip(grads, trainable_variables, strict=True):
        if steps_itself(variable):
            ids = variable.batches.pop(0)
            try:
                _step(self, variable, ids, gradient, learning_rate)
                continue
            except NoRule as cause:
                go_dense(variable, cause)
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


@around(keras.optimizers.LossScaleOptimizer, "check_finite")
def _check_finite(original: Any, self: Any, grads: Any) -> Any:
    return original(self, [g._values() if g is not None and g.is_sparse else g for g in grads])
