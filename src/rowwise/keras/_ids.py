"""Ids on their way to a table: kept integers through a model's input, and validated.

Keras casts what a model is given to the dtype of its input: float32 where no `keras.Input` says
otherwise, half precision under a policy of mixed precision. Floats tell neighbouring ids apart
below 2^24 only, bfloat16 below 2^8. So integers on their way to layers that take ids, and to
nothing else, are left as they are. So are floats on their way to an input of integers, of which a
cast would make whole numbers: the layer refuses those that are no ids.
"""

from __future__ import annotations

import weakref
from typing import Any

import keras
import numpy as np
from keras.src.models import Functional
from numpy.typing import NDArray

from rowwise._ids import as_ids, checked

# ---------------------------------------------------------------------- validation


def explain_float_ids(error: ValueError) -> ValueError:
    """Return the error of an id that is not whole, with how a model keeps ids integers."""
    return ValueError(
        f"{error}. On their way through other layers Keras casts ids to the dtype of the "
        "model's input; declare it: keras.Input(shape, dtype='int64'). And give integers: pandas "
        "makes floats of a column with a gap, df[column].fillna(0).astype('int64') is integers"
    )


def validate_ids(ids: Any) -> NDArray[np.int64]:
    """Return ids (...,) as int64, as `rowwise._ids.as_ids` does.

    Raises:
        IndexError, TypeError, ValueError: see `as_ids`.
    """
    try:
        return as_ids(ids)
    except ValueError as error:
        raise explain_float_ids(error) from None


def validate_ids_in_range(ids: Any, rows: int) -> NDArray[np.int64]:
    """Return ids (...,) as int64, all of them in 0..rows-1.

    Raises:
        IndexError: an id that is no row.
        TypeError, ValueError: see `rowwise._ids.as_ids`.
    """
    try:
        return checked(ids, rows)
    except ValueError as error:
        raise explain_float_ids(error) from None


# ---------------------------------------------------------------------- layers that take ids

_id_layers: list[type] = []
# Of models called so far: which of their inputs are ids and nothing else.
_id_inputs: weakref.WeakKeyDictionary[Any, list[int]] = weakref.WeakKeyDictionary()


def takes_ids(layer: type) -> type:
    """Register a layer class whose only input is ids; integers of any dtype will do."""
    _id_layers.append(layer)
    return layer


def id_layers_in(layer: Any) -> list[Any]:
    """Return the layers that take ids, among a layer and the layers within it."""
    return [one for one in layer._flatten_layers() if isinstance(one, tuple(_id_layers))]


def convert_inputs(original: Any, model: Any, flat_inputs: Any) -> Any:
    """Convert a model's inputs as Keras does, but keep the dtype of ids. Wraps Keras's method."""
    converted = original(model, flat_inputs)
    for i in _id_inputs_of(model):
        given = flat_inputs[i]
        dtype = getattr(given, "dtype", None)
        name = "" if dtype is None else keras.backend.standardize_dtype(dtype)
        declared = model._inputs[i].dtype
        if name != declared and ("int" in name or ("float" in name and "int" in declared)):
            converted[i] = keras.ops.convert_to_tensor(given)
    return converted


def build_sequential(original: Any, model: Any, input_shape: Any = None) -> Any:
    """Build a Sequential model, which is not to cast floats before `convert_inputs` sees them.

    Wraps Keras's method.
    """
    result = original(model, input_shape)
    whole = model._functional
    if whole is not None and "int" in whole._inputs[0].dtype and _id_inputs_of(whole):
        model.autocast = False
    return result


def _id_inputs_of(model: Any) -> list[int]:
    if model not in _id_inputs:
        _id_inputs[model] = [
            i for i, declared in enumerate(model._inputs) if _goes_to_id_layers(model, declared)
        ]
    return _id_inputs[model]


def _goes_to_id_layers(model: Any, tensor: Any) -> bool:
    """Return whether every consumer of a model's input takes ids, in models within it too."""
    nodes = (node for level in model._nodes_by_depth.values() for node in level)
    consumers = [
        node.operation for node in nodes if any(taken is tensor for taken in node.input_tensors)
    ]
    is_output = any(output is tensor for output in model._outputs)
    return bool(consumers) and not is_output and all(map(_only_takes_ids, consumers))


def _only_takes_ids(operation: Any) -> bool:
    if isinstance(operation, keras.Sequential):
        operation = operation._functional
    if isinstance(operation, Functional):
        return all(_goes_to_id_layers(operation, tensor) for tensor in operation._inputs)
    return isinstance(operation, tuple(_id_layers))
