"""Rows of variables in a TensorFlow program, and the gradient's way back to the table."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rowwise._ids import as_ids
from rowwise._untrained import Untrained, untrained_mask_and_default_of_all
from rowwise._untrained import fill_untrained as fill
from rowwise.keras import _gradients
from rowwise.keras._dynamic_variable import NO_INDEX
from rowwise.keras._encoded_ids import as_texts
from rowwise.keras._gradients import exclude_row
from rowwise.keras._ids import validate_ids, validate_ids_in_range
from rowwise.keras._scopes import cast_like_variable, is_symbolic_call, uncast_value
from rowwise.keras._tensorflow.host_callback import WeakCallback, call, deferred_errors
from rowwise.keras._tensorflow.internals import custom_gradient, is_exporting
from rowwise.keras._tensorflow.variable import DynamicVariable, TableVariable

supports_jit = False  # XLA cannot call the host


def to_ids(inputs: Any) -> Any:
    """Return what a layer was called with as ids (...,); rows are checked where they are read.

    Raises:
        TypeError, ValueError: as `rowwise._ids.as_ids`, for ids that are there already.
    """
    if isinstance(inputs, keras.KerasTensor | tf.Tensor | tf.RaggedTensor):
        return inputs
    if isinstance(inputs, tf.SparseTensor):
        return tf.sparse.to_dense(inputs)
    if isinstance(inputs, keras.Variable | tf.Variable) or is_symbolic_call():
        return keras.ops.convert_to_tensor(inputs)
    return tf.constant(validate_ids(inputs))


def lookup(variable: Any, ids: Any) -> Any:
    """Return rows ids (...,) of a variable (V, ...), in the dtype in which Keras would read it.

    Differentiable; the gradient of a table's rows is `tf.IndexedSlices`.

    Raises:
        IndexError: an id outside 0..V-1; in a graph, as the message of TensorFlow's error.
    """
    return cast_like_variable(variable, _rows(variable, ids))


def _rows(variable: Any, ids: Any) -> Any:
    """Return rows ids (...,) of a variable (V, ...), in the dtype of the variable."""
    if isinstance(ids, tf.RaggedTensor):
        return ids.with_flat_values(_rows(variable, ids.flat_values))
    if isinstance(variable, TableVariable) and variable.on_table and not is_symbolic_call():
        return variable.read_rows(ids)
    if is_exporting():  # there is no Python where the model is served, and nothing trains
        return tf.gather(uncast_value(variable), tf.cast(ids, "int64"))
    if not is_symbolic_call():
        ids = _in_range(variable, ids)
    ids = ids if ids.dtype.is_integer else tf.cast(ids, "int64")
    rows = tf.gather(_with_dense_gradient(uncast_value(variable)), ids)
    frozen = getattr(variable, "frozen_row", None)
    if frozen is not None:
        rows = tf.where((ids == frozen)[..., None], tf.stop_gradient(rows), rows)
    return rows


@custom_gradient
def _with_dense_gradient(array: Any) -> Any:
    """Return the array; its gradient is summed by row before an optimizer sees it.

    Keras's optimizers on TensorFlow square `tf.IndexedSlices` part by part: where an id is several
    times in a batch, its second moment would be another than in dense training.
    """
    return tf.identity(array), tf.convert_to_tensor


def _in_range(variable: Any, ids: Any) -> Any:
    """Return ids (...,) int64, all of them rows of a variable that is TensorFlow's own."""
    rows = int(variable._shape[0])
    errors = variable.__dict__.setdefault("errors", deferred_errors())
    shape = ids.shape
    validated = WeakCallback(lambda _, ids: validate_ids_in_range(ids, rows), variable)
    ids = call(validated, tf.int64, ids, errors=errors)
    ids.set_shape(shape)
    return ids


def find_rows(variable: DynamicVariable, ids: Any, observe: bool) -> Any:
    """Return the rows (...,) of ids as a layer is given them; count them, if asked to.

    Raises:
        NotImplementedError: the graph is for a place where there is no Python.
    """
    if isinstance(ids, tf.RaggedTensor):
        return ids.with_flat_values(find_rows(variable, ids.flat_values, observe))
    if is_exporting():
        raise NotImplementedError(NO_INDEX)
    one = ids[..., 0] if variable.encoded else ids
    if is_symbolic_call():
        return tf.zeros(tf.shape(one), tf.int64)
    found = WeakCallback(_found, variable, observe)
    rows = call(found, tf.int64, ids, errors=variable.errors)
    rows.set_shape(one.shape)
    return rows


def _found(variable: DynamicVariable, observe: bool, ids: Any) -> Any:
    return variable.rows_of(as_texts(ids) if ids.dtype == object else ids, observe)


def fill_untrained(variable: TableVariable, ids: Any, vectors: Any, untrained: Untrained) -> Any:
    """Return vectors (..., D) of rows ids (...,), those of untrained rows replaced."""
    if is_exporting():
        mask, default = untrained_mask_and_default_of_all(variable.table.store, untrained)
        given = vectors if default is None else tf.cast(default, vectors.dtype)
        return tf.where(tf.gather(mask, tf.cast(ids, "int64"))[..., None], given, vectors)
    shape = vectors.shape
    filled = WeakCallback(_filled, variable, untrained)
    vectors = call(filled, vectors.dtype, ids, vectors, errors=variable.errors)
    vectors.set_shape(shape)
    return vectors


def _filled(variable: TableVariable, untrained: Untrained, ids: Any, vectors: Any) -> Any:
    vectors = np.array(vectors)
    fill(variable.table.store, as_ids(ids), vectors, untrained)
    return vectors


def pool(variable: TableVariable, ids: Any, weights: Any, learned: bool) -> Any:
    """Return weighted sums (..., D) of the rows ids (..., length); None: not a table's.

    Differentiable, in the weights, None or of the shape of ids, where they are `learned`. The
    gradient of a table's rows is `tf.IndexedSlices`, of distinct ids.
    """
    if isinstance(ids, tf.RaggedTensor) or not variable.on_table or is_symbolic_call():
        return None
    rows, dim = variable._shape
    given = () if weights is None else (weights,)
    errors, pooled, back, back_to_weights = variable.errors, *_bags_of(variable)

    @custom_gradient
    def look(token: Any, *learned: Any) -> Any:
        vectors = call(pooled, tf.float32, ids, *given, errors=errors)
        vectors.set_shape([*ids.shape[:-1], dim] if ids.shape.rank is not None else None)

        def backward(gradients: Any) -> Any:
            places, sums = call(back, [tf.int64, tf.float32], ids, gradients, *given)
            places.set_shape((None,))
            sums.set_shape((None, dim))
            of_rows = tf.IndexedSlices(sums, places, tf.constant((rows, dim), tf.int64))
            if not learned:  # TensorFlow leaves out no stateful operation that nobody needs
                return of_rows
            of_weights = call(back_to_weights, tf.float32, ids, gradients)
            of_weights.set_shape(ids.shape)
            return of_rows, of_weights

        return vectors, backward

    return look(variable._value.read_token(), *(given if learned else ()))


def _bags_of(variable: TableVariable) -> tuple[WeakCallback, WeakCallback, WeakCallback]:
    """Return callbacks for sums, and for the gradients of rows and of weights from theirs."""

    def of_rows(variable: TableVariable, *batch: Any) -> Any:
        return exclude_row(
            variable.frozen_row, *_gradients.gradient_of_rows(variable.table, *batch)
        )

    return (
        WeakCallback(
            lambda variable, *batch: _gradients.pool_bags(variable.table, *batch), variable
        ),
        WeakCallback(of_rows, variable),
        WeakCallback(
            lambda variable, *batch: _gradients.gradient_of_weights(variable.table, *batch),
            variable,
        ),
    )


def random_state() -> dict[str, Any]:
    """Return nothing: TensorFlow's cannot be kept."""
    return {}


def set_random_state(arrays: dict[str, Any]) -> None:
    """Restore what `random_state` returned: nothing."""
