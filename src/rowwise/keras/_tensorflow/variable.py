"""Keras variables on a table, on TensorFlow: its weights, the slots of its optimizer, sums.

Its value is a `tf.Variable` of the whole array (rows, dim) whose numbers lie with the table: they
are the present ones, in a graph too. Once Keras makes the steps, it is a `tf.Variable` like any
other.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import in_stateless_scope
from keras.src.backend.common.stateless_scope import get_stateless_scope
from numpy.typing import NDArray

from rowwise import _native
from rowwise._binding import DenseFallback
from rowwise.keras._dynamic_variable import DynamicVariableBase
from rowwise.keras._gradients import RowAccumulator
from rowwise.keras._ids import validate_ids
from rowwise.keras._initial_values import Draw, Sampler
from rowwise.keras._tensorflow.host_callback import WeakCallback, call, deferred_errors
from rowwise.keras._tensorflow.initial_values import sampler
from rowwise.keras._tensorflow.internals import (
    BaseResourceVariable,
    ResourceVariable,
    custom_gradient,
    graphs,
    is_exporting,
    keep_with,
)
from rowwise.keras._variable import TableVariableBase, slot_shape
from rowwise.table import Table

Floats = NDArray[np.float32]


class TableResource(BaseResourceVariable):
    """The `tf.Variable` of a `TableBacked`: TensorFlow reads and writes the numbers through it.

    Tapes and graphs know it by the handle of a token, a number that no step changes.
    """

    def __init__(self, owner: TableBacked, name: str, trainable: bool, dtype: Any) -> None:
        with tf.init_scope():
            self._token = ResourceVariable(tf.zeros((), dtype), name=name, trainable=trainable)
        super().__init__(
            trainable=trainable,
            shape=(),
            dtype=self._token.dtype,
            handle=self._token.handle,
            handle_name=name,
            unique_id=self._token._unique_id,
            in_graph_mode=False,
        )
        self.owner = owner
        self.handle._rowwise_variable = weakref.ref(owner)
        # The copy of the values that each exported graph gathers from.
        self._exported: weakref.WeakKeyDictionary[Any, tf.Variable] = weakref.WeakKeyDictionary()

    @property
    def shape(self) -> tf.TensorShape:
        """The shape of the whole array."""
        return tf.TensorShape(self.owner._shape)

    # ------------------------------------------------------------------ reading

    def read_token(self) -> Any:
        """Return the token, a scalar, through which the gradient of the numbers flows."""
        return super()._read_variable_op()

    def _read_variable_op(self, no_copy: bool = False) -> Any:
        """Return the whole array, differentiable."""
        owner = self.owner
        owner.check_in_memory("a read of the whole array")
        array_now, shape = WeakCallback(type(owner).read_array, owner), owner._shape

        @custom_gradient
        def read(token: Any) -> Any:
            array = tf.cast(call(array_now, tf.float32), self.dtype)
            array.set_shape(shape)
            return array, lambda gradient: gradient

        return read(self.read_token())

    def sparse_read(self, indices: Any, name: str | None = None) -> Any:
        """Return rows, for `tf.gather` and `tf.nn.embedding_lookup`."""
        return self.owner.read_rows(tf.convert_to_tensor(indices))

    def gather_nd(self, indices: Any, name: str | None = None) -> Any:
        """Return elements, or rows, for `tf.gather_nd`."""
        return tf.gather_nd(self.read_value(), indices, name=name)

    # ------------------------------------------------------------------ writing

    def assign(
        self, value: Any, use_locking: Any = None, name: Any = None, read_value: bool = True
    ) -> Any:
        """Set the whole array.

        Raises:
            ValueError: a value of another shape.
        """
        value = tf.convert_to_tensor(value, self.dtype)
        if not self.shape.is_compatible_with(value.shape):
            raise ValueError(f"{self.name}: {value.shape} cannot be assigned to {self.shape}")
        call(WeakCallback(type(self.owner)._written, self.owner), tf.float32, value)
        return self if read_value else None

    def assign_add(self, delta: Any, *args: Any, **kwargs: Any) -> Any:
        """Add to the whole array."""
        return self.assign(self.read_value() + delta, *args, **kwargs)

    def assign_sub(self, delta: Any, *args: Any, **kwargs: Any) -> Any:
        """Subtract from the whole array."""
        return self.assign(self.read_value() - delta, *args, **kwargs)

    # ------------------------------------------------------------------ copies

    def export(self) -> tf.Variable:
        """Return a `tf.Variable` of the present values, which lives as long as this graph."""
        *inner, outermost = graphs()
        array = self._exported.get(outermost)
        if array is None:
            with tf.init_scope():
                array = ResourceVariable(self.owner.numpy(), name=self.owner.name)
            array._rowwise_variable = weakref.ref(self.owner)
            self._exported[outermost] = array
        for graph in (*inner, outermost):
            keep_with(graph, array)
        return array

    def _export_to_saved_model_graph(
        self, object_map: Any = None, tensor_map: Any = None, options: Any = None, **kwargs: Any
    ) -> list[Any]:
        """Map the variable, and what exported graphs gather from, to one in a SavedModel."""
        super()._export_to_saved_model_graph(object_map, tensor_map, options, **kwargs)
        del tensor_map[self.handle]  # what captures it calls the table
        handles = [array.handle for array in self._exported.values()]
        for handle in handles:
            tensor_map[handle] = object_map[self].handle
        return handles

    def _restore_from_tensors(self, restored_tensors: dict[str, Any]) -> Any:
        """Set the whole array, as `tf.train.Checkpoint` asks for."""
        return self.assign(restored_tensors["VARIABLE_VALUE"])

    def __deepcopy__(self, memo: dict[int, Any]) -> TableResource:
        owner = copy.deepcopy(self.owner, memo)
        return TableResource(owner, self._token._shared_name, self._trainable, self.dtype)

    def __reduce__(self) -> Any:
        raise TypeError(f"{self.name}: pickle the model, or the array that numpy() returns")


def _refuse(name: str) -> Any:
    def refuse(self: TableResource, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f"{self.name}: the rows lie in a table, which has no {name}; assign() sets all of "
            "them, and layer.table.store.write(values, ids) some"
        )

    return refuse


# What TensorFlow does to a variable's memory by its handle.
for _name in vars(BaseResourceVariable):
    if "scatter" in _name or _name in ("_strided_slice_assign", "count_up_to"):
        setattr(TableResource, _name, _refuse(_name))


class TableBacked(keras.Variable):
    """A variable (rows, dim) whose numbers lie with a table, or once did."""

    _array: Any = None  # the tf.Variable, once Keras makes the steps

    def read_array(self) -> Floats:
        """Return the present values (rows, dim) that lie with the table."""
        raise NotImplementedError

    def write_array(self, values: Floats) -> None:
        """Set the values (rows, dim) that lie with the table."""
        raise NotImplementedError

    def check_in_memory(self, what: str) -> None:
        """Refuse what needs the whole array where memory may not hold it."""

    def _make_token(self) -> None:
        self._value = TableResource(self, self.name, self.trainable, self._dtype)
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
        if self._array is None and self._value is not None and is_exporting():
            return self._value.export()
        return self._array

    @property
    def value(self) -> Any:
        """The `tf.Variable` of the whole array."""
        given = self._given if self._given is not None else self._replacement
        return super().value if given is None else self._maybe_autocast(given)

    @property
    def handle(self) -> Any:
        """The handle under which a `tf.GradientTape` records the variable."""
        replacement = self._replacement
        return (self._value if replacement is None else replacement).handle

    def read_rows(self, ids: Any) -> Any:
        """Return rows ids (...,), differentiable."""
        return tf.gather(self._value.read_value(), ids)

    def numpy(self) -> NDArray[Any]:
        """Return the whole array, as it is now."""
        if self._array is None:
            return self.read_array().astype(self._value.dtype.as_numpy_dtype, copy=False)
        with tf.init_scope():
            return self._array.numpy()

    def _direct_assign(self, value: Any) -> None:
        (self._value if self._array is None else self._array).assign(value)

    def _written(self, values: Floats) -> np.float32:
        self.write_array(values)
        return np.float32(0)

    def _export_to_saved_model_graph(
        self, object_map: Any, tensor_map: Any, options: Any, **kwargs: Any
    ) -> Any:
        """Map the variable to one in a SavedModel, the one that its functions read.

        Keras's method maps it to a copy of that one, and programs without Python, TensorFlow
        Serving among them, restore the copy alone.
        """
        value = self._value if self._array is None else self._array
        handles = value._export_to_saved_model_graph(object_map, tensor_map, options, **kwargs)
        object_map[self] = object_map[value]
        return handles

    def detach(self) -> None:
        """Move the numbers to a `tf.Variable`, for Keras's own steps."""
        if self._array is None:
            with tf.init_scope():
                array = tf.Variable(self.numpy(), name=self.name)
                if not tf.distribute.has_strategy():  # there no step was sparse before
                    array._unique_id = self._value._unique_id  # an optimizer knows it by this
                self._array = array


class TableVariable(TableVariableBase, TableBacked):
    """The embeddings: a trainable (rows, dim) variable on a `rowwise.Table`."""

    def _initialize(self, value: Any) -> None:
        if isinstance(value, Table):
            self._table = value
        else:
            with tf.init_scope():
                values = np.asarray(value() if callable(value) else value)
            self._table = self._table_of(values)
        self._make_token()
        self._shape = self._table.shape
        self.forget_optimizers()

    @property
    def table(self) -> Table:  # type: ignore[override]
        """The table; where Keras makes the steps, with the values that these have come to."""
        if self._array is not None:
            self._table.store.write(self.numpy())
        return self._table

    def sampler(self, draw: Draw) -> Sampler | None:
        """Return what draws Keras's numbers block by block; None where there is a GPU."""
        return sampler(draw, self._dtype)

    def slot_in_memory(self, slot: str, name: str) -> SlotVariable:
        """Return a variable `name` over a slot of the table."""
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
        self.check_may_be_dense(reason)
        self._table.materialize()
        mine: list[Any] = [self, *self.accumulators.values()]
        mine += [slot for slots in self.slots.values() for slot in slots.values()]
        for variable in mine:
            variable.detach()
        super().fall_back_to_dense(reason)

    def read_array(self) -> Floats:
        """Return the present rows (rows, dim)."""
        self.check_in_memory("a read of the whole array")
        return self.table.to_numpy()

    def write_array(self, values: Floats) -> None:
        """Set rows (rows, dim)."""
        self._table.store.write(values)

    def read_rows(self, ids: Any) -> Any:
        """Return rows ids (...,), differentiable; their gradient is `tf.IndexedSlices`."""
        rows, dim = self._shape
        errors, frozen_row, gather = self.errors, self.frozen_row, WeakCallback(_gather, self)

        @custom_gradient
        def look(token: Any) -> Any:
            vectors = tf.cast(call(gather, tf.float32, ids, errors=errors), token.dtype)
            vectors.set_shape([*ids.shape, dim] if ids.shape.rank is not None else None)

            def backward(gradients: Any) -> Any:
                places = tf.cast(tf.reshape(ids, [-1]), "int64")
                gradients = tf.reshape(gradients, [-1, dim])
                if frozen_row is not None:
                    moving = places != frozen_row
                    gradients = tf.where(moving[:, None], gradients, tf.zeros_like(gradients))
                return tf.IndexedSlices(gradients, places, tf.constant((rows, dim), tf.int64))

            return vectors, backward

        return look(self._value.read_token())

    def rebind_table(self) -> None:
        """Follow the table to its new number of rows, and so do slots and sums."""
        self._shape = self._table.shape
        if self._array is not None:
            array, self._array = self._array, None
            if tuple(array.shape) == self._table.shape:
                array.assign(tf.cast(self._table.to_numpy(), array.dtype))  # graphs have it in hand
                self._array = array
            else:
                self.detach()
        for slots in self.slots.values():
            for slot in slots.values():
                slot.rebind(self._table)
        for accumulator in self.accumulators.values():
            accumulator.reset(*self._table.shape)


class DynamicVariable(DynamicVariableBase, TableVariable):
    """Embeddings with an index in front."""


def _gather(variable: TableVariable, ids: Any) -> Any:
    ids = validate_ids(ids)
    dim = variable._shape[1]
    vectors = _native.empty(ids.size, dim).reshape(*ids.shape, dim)
    variable.table.store.gather(ids, vectors)
    return vectors


class SlotVariable(TableBacked):
    """One slot of a table, as the optimizer's variable: (rows, dim) float32, not trainable."""

    def __init__(self, table: Table, slot: str, name: str) -> None:
        self._slot = slot
        self.table = table
        super().__init__(np.zeros(()), dtype="float32", trainable=False, name=name)

    def _initialize(self, value: Any) -> None:
        self._shape = slot_shape(self.table)
        self._make_token()

    def rebind(self, table: Table) -> None:
        """Take the slot of `table`."""
        self.table, self._shape, self._array = table, slot_shape(table), None

    def read_array(self) -> Floats:
        """Return the present values (rows, dim)."""
        return self.table.slot(self._slot)

    def write_array(self, values: Floats) -> None:
        """Set the values (rows, dim)."""
        self.table.store.write_slot(self._slot, values)


class AccumulatorVariable(TableBacked):
    """Sums of gradients over several batches, of a table's rows: (rows, dim) float32."""

    def __init__(self, variable: TableVariable, name: str) -> None:
        self.sums = RowAccumulator(*variable._table.shape, variable.scratch)
        # What Keras adds to gradients in which the sums are already.
        self.zero = keras.Variable(0.0, trainable=False, name="zero")
        super().__init__(np.zeros(()), dtype="float32", trainable=False, name=name)

    def _initialize(self, value: Any) -> None:
        self._shape = self.sums.sums.shape
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
