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
from numpy.typing import NDArray

from rowwise._binding import DenseFallback
from rowwise.keras._gradients import RowAccumulator
from rowwise.keras._scopes import exporting
from rowwise.keras._tensorflow.host_callback import WeakCallback, call, deferred_errors
from rowwise.keras._variable import TableVariableBase, slot_shape
from rowwise.table import Table

Floats = NDArray[np.float32]


class TableBacked(keras.Variable):
    """A variable (rows, dim) whose numbers lie with a table, or once did."""

    _array: Any = None  # the tf.Variable, once Keras makes the steps
    exported: Any = None  # a tf.Variable of the values, while a model is being written

    def read_array(self) -> Floats:
        """Return the present values (rows, dim) that lie with the table."""
        raise NotImplementedError

    def write_array(self, values: Floats) -> None:
        """Set the values (rows, dim) that lie with the table."""
        raise NotImplementedError

    def _make_token(self) -> None:
        with tf.init_scope():
            self._value = tf.Variable(0.0, name=self.name)
        self.errors = deferred_errors()

    @property
    def on_table(self) -> bool:
        """Whether the numbers lie with a table, and no state of a caller's holds others."""
        return self._given is None and self._replacement is None and self._value is not None

    @property
    def _given(self) -> Any:
        return get_stateless_scope().get_current_value(self) if in_stateless_scope() else None

    @property
    def _replacement(self) -> Any:
        return self.exported if exporting.get() and self.exported is not None else self._array

    @property
    def value(self) -> Any:
        """The whole array, or the `tf.Variable` that Keras steps."""
        if not self.on_table:
            given = self._given if self._given is not None else self._replacement
            return super().value if given is None else self._maybe_autocast(given)
        return self._maybe_autocast(self._read())

    @property
    def handle(self) -> Any:
        """By which a `tf.GradientTape` knows the variable."""
        return (self._value if self._array is None else self._array).handle

    def _read(self) -> Any:
        """Return the whole array, differentiable."""
        shape = self._shape
        array_now = WeakCallback(type(self).read_array, self)

        @tf.custom_gradient
        def read(token: Any) -> Any:
            array = call(array_now, tf.float32)
            array.set_shape(shape)
            return array, lambda gradient: gradient

        return read(self._value.read_value())

    def numpy(self) -> Floats:
        """Return the whole array, as it is now."""
        if self._array is None:
            return self.read_array()
        with tf.init_scope():
            return self._array.numpy()

    def _direct_assign(self, value: Any) -> None:
        if self._array is not None:
            self._array.assign(value)
        else:
            call(WeakCallback(type(self)._written, self), tf.float32, value)

    def _written(self, values: Floats) -> np.float32:
        self.write_array(values)
        return np.float32(0)

    def detach(self) -> None:
        """Move the numbers to a `tf.Variable`, for Keras's own steps."""
        if self._array is None:
            with tf.init_scope():
                array = tf.Variable(self.read_array(), name=self.name)
                if not tf.distribute.has_strategy():  # there no step was sparse before
                    array._unique_id = self._value._unique_id  # an optimizer knows it by this
                self._array = array

    def export(self) -> None:
        """Make the variable that a model written for serving holds."""
        with tf.init_scope():
            self.exported = tf.Variable(self.numpy(), name=self.name)

    def _serialize_to_tensors(self) -> dict[str, Any]:
        return {"VARIABLE_VALUE": tf.convert_to_tensor(self.value)}

    def _restore_from_tensors(self, restored_tensors: dict[str, Any]) -> Any:
        return self.assign(restored_tensors["VARIABLE_VALUE"])


class TableVariable(TableVariableBase, TableBacked):
    """The embeddings: a trainable (rows, dim) float32 variable on a `rowwise.Table`."""

    def _initialize(self, value: Any) -> None:
        with tf.init_scope():
            array = np.asarray(value() if callable(value) else value)
        self._table = Table(*array.shape, init=lambda _: array)
        self._make_token()
        self._shape = self._table.shape
        self.forget_optimizers()

    @property
    def table(self) -> Table:  # type: ignore[override]
        """The table; where Keras makes the steps, with the values that these have come to."""
        if self._array is not None:
            self._table.store.write(self.numpy())
        return self._table

    def make_slot(self, slot: str, name: str) -> SlotVariable:
        """Return a variable `name` of a slot of the table."""
        return SlotVariable(self.table, slot, name)

    def make_accumulator(self, name: str) -> AccumulatorVariable:
        """Return a variable `name` of sums of the table's gradients."""
        return AccumulatorVariable(self, name)

    def check_supported(self, optimizer: Any) -> None:
        """Refuse an optimizer that TensorFlow cannot follow by sparse steps.

        Raises:
            DenseFallback: with the cause.
        """
        if tf.distribute.has_strategy():
            raise DenseFallback("a tf.distribute strategy is set, and a table lies on one host")
        if self._array is not None:  # which graphs may have in hand
            raise DenseFallback("another optimizer has made dense steps of this layer before")

    def read_scalar(self, read: Callable[[], Any]) -> float | None:
        """Return a number that an optimizer keeps, also while a graph is being made."""
        with tf.init_scope():
            return super().read_scalar(read)

    def fall_back_to_dense(self, reason: DenseFallback) -> None:
        """Leave the steps to Keras from now on, over all rows."""
        self._table.materialize()
        mine: list[Any] = [self, *self.accumulators.values()]
        mine += [slot for slots in self.slots.values() for slot in slots.values()]
        for variable in mine:
            variable.detach()
        super().fall_back_to_dense(reason)

    def read_array(self) -> Floats:
        """Return the present rows (rows, dim)."""
        return self.table.to_numpy()

    def write_array(self, values: Floats) -> None:
        """Set rows (rows, dim)."""
        self._table.store.write(values)

    def rebind_table(self) -> None:
        """Follow the table to its new number of rows, and so do slots and sums."""
        self._shape = self._table.shape
        if self._array is not None:
            array, self._array = self._array, None
            if tuple(array.shape) == self._table.shape:
                array.assign(self._table.to_numpy())  # graphs have it in hand
                self._array = array
            else:
                self.detach()
        for slots in self.slots.values():
            for slot in slots.values():
                slot.rebind(self._table)
        for accumulator in self.accumulators.values():
            accumulator.reset(*self._table.shape)


class SlotVariable(TableBacked):
    """One slot of a table, as the optimizer's variable: (rows, dim) float32, not trainable."""

    def __init__(self, table: Table, slot: str, name: str) -> None:
        self._slot = slot
        self.table = table
        super().__init__(np.zeros(()), dtype="float32", trainable=False, name=name)
        self.rebind(table)

    def _initialize(self, value: Any) -> None:
        self._make_token()

    def rebind(self, table: Table) -> None:
        """Take the slot of `table`."""
        self.table, self._shape, self._ndim, self._array = table, slot_shape(table), 2, None

    def read_array(self) -> Floats:
        """Return the present values (rows, dim)."""
        return self.table.slot(self._slot)

    def write_array(self, values: Floats) -> None:
        """Set the values (rows, dim)."""
        self.table.store.write_slot(self._slot, values)


class AccumulatorVariable(TableBacked):
    """Sums of gradients over several batches, of a table's rows: (rows, dim) float32."""

    def __init__(self, variable: TableVariable, name: str) -> None:
        self.sums = RowAccumulator(*variable._table.shape)
        # What Keras adds to gradients in which the sums are already.
        self.zero = keras.Variable(0.0, trainable=False, name="zero")
        super().__init__(np.zeros(()), dtype="float32", trainable=False, name=name)
        self._shape, self._ndim = variable._table.shape, 2

    def _initialize(self, value: Any) -> None:
        self._make_token()

    def reset(self, rows: int, dim: int) -> None:
        """Start sums of zero for another number of rows."""
        self.sums.reset(rows, dim)
        self._shape, self._array = (rows, dim), None

    def read_array(self) -> Floats:
        """Return the sums (rows, dim)."""
        return self.sums.sums.copy()

    def write_array(self, values: Floats) -> None:
        """Set the sums (rows, dim)."""
        self.sums.sums[:] = values
        self.sums.rescan()

    def clear(self) -> None:
        """Make all sums zero again, when the program comes to it."""
        call(WeakCallback(type(self)._cleared, self), tf.float32)

    def _cleared(self) -> np.float32:
        self.sums.pop()
        return np.float32(0)
