"""Keras variables on a table, on TensorFlow: its weights, the slots of its optimizer, sums.

To whoever reads one it is the whole array (rows, dim), as it is now, in a graph too. Once Keras
makes the steps, it is a `tf.Variable` like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import in_stateless_scope
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer
from numpy.typing import NDArray

from rowwise.keras.around import around
from rowwise.keras.exporting import exporting
from rowwise.keras.in_care import InCare
from rowwise.keras.optimizers import NoRule
from rowwise.keras.row_sums import RowSums
from rowwise.keras.tensorflow.host import Weakly, call, noted_errors
from rowwise.table import Table


class OnTable(keras.Variable):
    """A variable (rows, dim) whose numbers a table keeps, or once did."""

    _array: Any = None  # the tf.Variable, once Keras makes the steps
    exported: Any = None  # a tf.Variable of the values, while a model is being written

    def whole(self) -> NDArray[np.float32]:
        """The present values (rows, dim) in the table's care."""
        raise NotImplementedError

    def take(self, values: NDArray[np.float32]) -> None:
        """Takes values (rows, dim) into the table's care."""
        raise NotImplementedError

    def _token(self) -> None:
        with tf.init_scope():
            self._value = tf.Variable(0.0, name=self.name)
        self.errors = noted_errors()

    @property
    def by_table(self) -> bool:
        """Whether a table keeps the numbers, and no state of a caller's holds others."""
        return self._given is None and self._stand_in is None and self._value is not None

    @property
    def _given(self) -> Any:
        return get_stateless_scope().get_current_value(self) if in_stateless_scope() else None

    @property
    def _stand_in(self) -> Any:
        return self.exported if exporting.get() and self.exported is not None else self._array

    @property
    def value(self) -> Any:
        """The whole array, or the `tf.Variable` that Keras steps."""
        if not self.by_table:
            given = self._given if self._given is not None else self._stand_in
            return super().value if given is None else self._maybe_autocast(given)
        return self._maybe_autocast(self._read())

    @property
    def handle(self) -> Any:
        """By which a `tf.GradientTape` knows the variable."""
        return (self._value if self._array is None else self._array).handle

    def _read(self) -> Any:
        """The whole array, differentiable."""

        shape = self._shape
        whole = Weakly(type(self).whole, self)

        @tf.custom_gradient
        def read(token: Any) -> Any:
            array = call(whole, tf.float32)
            array.set_shape(shape)
            return array, lambda gradient: gradient

        return read(self._value.read_value())

    def numpy(self) -> NDArray[np.float32]:
        """The whole array, as it is now."""
        if self._array is None:
            return self.whole()
        with tf.init_scope():
            return self._array.numpy()

    def _direct_assign(self, value: Any) -> None:
        if self._array is not None:
            self._array.assign(value)
        else:
            call(Weakly(type(self)._taking, self), tf.float32, value)

    def _taking(self, values: NDArray[np.float32]) -> np.float32:
        self.take(values)
        return np.float32(0)

    def leave(self) -> None:
        """From now on the numbers are Keras's, which makes the steps."""
        if self._array is None:
            with tf.init_scope():
                array = tf.Variable(self.whole(), name=self.name)
                if not tf.distribute.has_strategy():  # there nothing was stepped by rows before
                    array._unique_id = self._value._unique_id  # an optimizer knows it by this
                self._array = array

    def export(self) -> None:
        """Makes the variable that a model written for serving holds."""
        with tf.init_scope():
            self.exported = tf.Variable(self.numpy(), name=self.name)

    def _serialize_to_tensors(self) -> dict[str, Any]:
        return {"VARIABLE_VALUE": tf.convert_to_tensor(self.value)}

    def _restore_from_tensors(self, restored_tensors: dict[str, Any]) -> Any:
        return self.assign(restored_tensors["VARIABLE_VALUE"])


class TableVariable(InCare, OnTable):
    """The embeddings: a trainable (rows, dim) float32 variable on a `rowwise.Table`."""

    def _initialize(self, value: Any) -> None:
        with tf.init_scope():
            array = np.asarray(value() if callable(value) else value)
        self._table = Table(*array.shape, init=lambda _: array)
        self._token()
        self._shape = self._table.shape
        self.forget_optimizers()

    @property
    def table(self) -> Table:  # type: ignore[override]
        """The table; where Keras makes the steps, with the values that these have come to."""
        if self._array is not None:
            self._table.store.write(self.numpy())
        return self._table

    def forget_optimizers(self) -> None:
        """No optimizer has this table in its care."""
        super().forget_optimizers()
        self.batches: list[Any] = []  # ids of the gradients being applied

    def check_followed_by_rows(self, optimizer: Any) -> None:
        """Raises NoRule where the backend cannot follow what a rule could."""
        if tf.distribute.has_strategy():
            raise NoRule("a tf.distribute strategy is set, and a table lies on one host")
        if self._array is not None:  # which graphs may have in hand
            raise NoRule("another optimizer, without a rule by rows, has stepped this layer before")

    def number(self, read: Callable[[], Any]) -> float | None:
        """What a number of an optimizer's is now, also while a graph is being made."""
        with tf.init_scope():
            return super().number(read)

    def leave_to_keras(self) -> None:
        """From now on Keras makes the steps."""
        self._table.materialize()
        mine: list[Any] = [self, *self.accumulators.values()]
        mine += [slot for slots in self.slots.values() for slot in slots.values()]
        for variable in mine:
            variable.leave()
        super().leave_to_keras()

    def whole(self) -> NDArray[np.float32]:
        """The present rows (rows, dim)."""
        return self.table.to_numpy()

    def take(self, values: NDArray[np.float32]) -> None:
        """Takes rows (rows, dim)."""
        self._table.store.write(values)

    def lie_over_new_memory(self) -> None:
        """Takes up the shape of the table, which has been reordered; gradients are dropped."""
        self._shape = self._table.shape
        if self._array is not None:
            array, self._array = self._array, None
            if tuple(array.shape) == self._table.shape:
                array.assign(self._table.to_numpy())  # graphs have it in hand
                self._array = array
            else:
                self.leave()
        for slots in self.slots.values():
            for slot in slots.values():
                slot.lie_over(self._table)
        for accumulator in self.accumulators.values():
            accumulator.start_anew(*self._table.shape)
        self.batches = []

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "batches"}


class SlotVariable(OnTable):
    """One slot of a table, as the optimizer's variable: (rows, dim) float32, not trainable."""

    def __init__(self, table: Table, slot: str, name: str) -> None:
        self._slot = slot
        self.table = table
        super().__init__(np.zeros(()), dtype="float32", trainable=False, name=name)
        self.lie_over(table)

    def _initialize(self, value: Any) -> None:
        self._token()

    def lie_over(self, table: Table) -> None:
        """Takes the slot of `table` for its own."""
        self.table, self._shape, self._ndim, self._array = table, table.shape, 2, None

    def whole(self) -> NDArray[np.float32]:
        """The present values (rows, dim)."""
        return self.table.slot(self._slot)

    def take(self, values: NDArray[np.float32]) -> None:
        """Takes values (rows, dim)."""
        self.table.materialize()
        self.table.store.write_slot(self._slot, values)


class AccumulatorVariable(OnTable):
    """Sums of gradients over several batches, of a table's rows: (rows, dim) float32."""

    def __init__(self, variable: TableVariable, name: str) -> None:
        self.by_row = RowSums(*variable._table.shape)
        # What Keras adds to gradients in which the sums are already.
        self.nothing = keras.Variable(0.0, trainable=False, name="nothing")
        super().__init__(np.zeros(()), dtype="float32", trainable=False, name=name)
        self._shape, self._ndim = variable._table.shape, 2

    def _initialize(self, value: Any) -> None:
        self._token()

    def start_anew(self, rows: int, dim: int) -> None:
        """Sums of zero for another number of rows."""
        self.by_row.start_anew(rows, dim)
        self._shape, self._array = (rows, dim), None

    def whole(self) -> NDArray[np.float32]:
        """The sums (rows, dim)."""
        return self.by_row.sums.copy()

    def take(self, values: NDArray[np.float32]) -> None:
        """Takes sums (rows, dim)."""
        self.by_row.sums[:] = values
        self.by_row.written()


@around(TFOptimizer, "add_variable_from_reference")
def _add_slot(original: Any, self: Any, reference_variable: Any, *args: Any, **kwargs: Any) -> Any:
    """Where its slots lie is not asked of a table, which would give all it has."""
    add = BaseOptimizer.add_variable_from_reference
    if not isinstance(reference_variable, TableVariable):
        add = original
    return add(self, reference_variable, *args, **kwargs)


@around(TFOptimizer, "_var_key")
def _key(original: Any, self: Any, variable: Any) -> Any:
    if not isinstance(variable, OnTable):
        return original(self, variable)
    return (variable._value if variable._array is None else variable._array)._unique_id
