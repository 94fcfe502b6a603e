"""Ids stay the integers they are given as, on their way through a model's input to an embedding.

Keras casts what a model is given to the dtype of its input: float32 where no `keras.Input` says
otherwise, half precision under a policy of mixed precision. Floats tell neighbouring ids apart
below 2^24 only, bfloat16 below 2^8. So integers on their way to layers that take ids, and to
nothing else, are left as they are.
"""

from __future__ import annotations

from typing import Any

import keras
from keras.src.models import Functional

from rowwise.keras.around import around

_id_layers: list[type] = []


def takes_ids(layer: type) -> type:
    """Class decorator: the layer's only input is ids, and integers of any dtype will do."""
    _id_layers.append(layer)
    return layer


def layers_of_ids(layer: Any) -> list[Any]:
    """Those of a layer, and of the layers in it, that take ids."""
    return [one for one in layer._flatten_layers() if isinstance(one, tuple(_id_layers))]


@around(Functional, "_convert_inputs_to_tensors")
def _convert_inputs(original: Any, self: Any, flat_inputs: Any) -> Any:
    converted = original(self, flat_inputs)
    for i, (given, declared) in enumerate(zip(flat_inputs, self._inputs, strict=False)):
        dtype = _dtype_name(given)
        if "int" in dtype and dtype != declared.dtype and _goes_to_id_layers(self, declared):
            converted[i] = keras.ops.convert_to_tensor(given)
    return converted


def _dtype_name(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    return "" if dtype is None else keras.backend.standardize_dtype(dtype)


def _goes_to_id_layers(model: Any, tensor: Any) -> bool:
    """Whether whatever takes the input `tensor` in a model takes ids, in models within it too."""
    nodes = (node for level in model._nodes_by_depth.values() for node in level)
    takers = [
        node.operation for node in nodes if any(taken is tensor for taken in node.input_tensors)
    ]
    is_output = any(output is tensor for output in model._outputs)
    return bool(takers) and not is_output and all(map(_only_takes_ids, takers))


def _only_takes_ids(operation: Any) -> bool:
    if isinstance(operation, keras.Sequential):
        operation = operation._functional
    if isinstance(operation, Functional):
        return all(_goes_to_id_layers(operation, tensor) for tensor in operation._inputs)
    return isinstance(operation, tuple(_id_layers))
