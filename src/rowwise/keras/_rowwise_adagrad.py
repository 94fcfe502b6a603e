"""`rowwise.keras.RowwiseAdagrad`: an optimizer that Keras does not have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="rowwise")
class RowwiseAdagrad(keras.optimizers.Optimizer):
    """Adagrad with one accumulator a row: FBGEMM's `EXACT_ROWWISE_ADAGRAD`, by its defaults.

    A table takes a third of the memory that Adam's takes. Of other variables each vector along the
    last axis has one accumulator. The formula is in `rowwise.rules.RowwiseAdagrad`.

    Args:
        learning_rate: a float, or a schedule of Keras's.
        initial_accumulator_value: what accumulators start with, at least 0.
        epsilon: added to the root of the accumulator.
        weight_decay, clipnorm, clipvalue, ...: as for every optimizer of Keras's.

    Raises:
        ValueError: initial_accumulator_value or epsilon below 0.

    Example:
        >>> import numpy as np
        >>> from rowwise.keras import Embedding
        >>> model = keras.Sequential([keras.Input((3,)), Embedding(1000, 64)])
        >>> model.compile(RowwiseAdagrad(0.05), "mse")
        >>> history = model.fit(np.array([[1, 2, 1]]), np.zeros((1, 3, 64)), verbose=0)
        >>> model.optimizer.variables[2].shape
        (1000, 1)
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        initial_accumulator_value: float = 0.0,
        epsilon: float = 1e-8,
        name: str = "rowwise_adagrad",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **options)
        for number, value in (
            ("initial_accumulator_value", initial_accumulator_value),
            ("epsilon", epsilon),
        ):
            if not value >= 0:
                raise ValueError(f"{number} must be at least 0, not {value}")
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon

    def build(self, variables: Iterable[Any]) -> None:
        """Make the accumulators of variables."""
        if self.built:
            return
        variables = list(variables)
        super().build(variables)
        start = keras.initializers.Constant(self.initial_accumulator_value)
        self._accumulators = [
            self.add_variable_from_reference(variable, name="accumulator", initializer=start)
            for variable in variables
        ]

    def add_variable_from_reference(
        self, reference_variable: Any, name: str | None = None, initializer: Any = "zeros"
    ) -> Any:
        """Add a variable of an optimizer's; accumulators have one number a row."""
        if name != "accumulator":
            return super().add_variable_from_reference(reference_variable, name, initializer)
        shape = tuple(reference_variable.shape)
        return self.add_variable(
            (*shape[:-1], 1) if shape else (),
            initializer=initializer,
            dtype=reference_variable.dtype,
            name=f"{reference_variable.path.replace('/', '_')}_{name}",
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Make a step of one variable, given its gradient."""
        accumulator = self._accumulators[self._get_variable_index(variable)]
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(ops.convert_to_tensor(gradient), variable.dtype)
        squares = ops.square(gradient)
        if len(squares.shape):
            squares = ops.mean(squares, axis=-1, keepdims=True)
        self.assign_add(accumulator, squares)
        root = ops.sqrt(accumulator) + self.epsilon
        self.assign_sub(variable, rate * gradient / root)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for files."""
        return {
            **super().get_config(),
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
        }
