"""Vectors of a quantized layer, from the batch's rows alone."""

from __future__ import annotations

from typing import Any

from keras import ops

from rowwise.keras._backend import backend
from rowwise.keras._scopes import uncast_value


def dequantize_int8(layer: Any, ids: Any) -> Any:
    """Return vectors (..., D) of rows ids (...,): integers (..., D) over the row's scale."""
    return _over_scale(layer, backend.lookup(layer._embeddings, ids), ids)


def dequantize_int4(layer: Any, ids: Any) -> Any:
    """Return vectors (..., D) of rows ids (...,), two numbers in each byte of (..., ceil(D / 2)).

    With a block size each block of a row has a scale and a zero point of its own.
    """
    packed = backend.lookup(layer._embeddings, ids)
    # The lower half first, then the upper; shifts of int8 keep the sign.
    halves = [ops.right_shift(ops.left_shift(packed, 4), 4), ops.right_shift(packed, 4)]
    integers = ops.reshape(ops.stack(halves, axis=-1), (*ops.shape(ids), 2 * packed.shape[-1]))
    integers = integers[..., : layer._orig_output_dim]
    if layer._int4_block_size is None or layer._int4_block_size == -1:
        return _over_scale(layer, integers, ids)
    block = ops.cast(uncast_value(layer.g_idx), "int32")  # (D,), the block of each column
    variables = (layer.embeddings_scale, layer.embeddings_zero)
    scale, zero = (backend.lookup(variable, ids) for variable in variables)
    zero = ops.cast(zero, scale.dtype)
    integers = ops.cast(integers, layer.compute_dtype)
    zero, scale = (ops.take(of_block, block, axis=-1) for of_block in (zero, scale))
    return (integers - zero) * scale


def _over_scale(layer: Any, integers: Any, ids: Any) -> Any:
    scale = backend.lookup(layer.embeddings_scale, ids)
    return ops.divide(ops.cast(integers, layer.compute_dtype), ops.expand_dims(scale, axis=-1))
