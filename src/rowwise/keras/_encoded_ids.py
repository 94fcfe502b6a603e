"""Ids as arrays that every backend holds: 64-bit integers on JAX, strings on torch and JAX."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.dynamic._batches import IdKind, pack
from rowwise.keras._ids import validate_ids


def encode_ids(ids: Any, width: int | None = None) -> NDArray[Any]:
    """Return ids as an array for a layer with `encoded=True`, on any backend; nothing is lost.

    JAX has integers of 32 bits unless `JAX_ENABLE_X64=1` is set. Neither JAX nor PyTorch has
    tensors of strings. In a pipeline of `tf.data`, `tf.bitcast(ids, tf.int32)` makes the same of
    integers.

    Args:
        ids: (...,) integers or strings.
        width: bytes of the longest string, in UTF-8; so many as it takes unless given. A model's
            input has one width: give it.

    Returns:
        of integers (..., 2) int32, their low and their high halves; of strings (..., width) uint8,
        padded with 0.

    Raises:
        TypeError: neither integers nor strings.
        ValueError: a string longer than width, or that ends in the character 0.

    Example:
        >>> encode_ids([7, -1, 2**32]).tolist()
        [[7, 0], [-1, -1], [0, 1]]
        >>> encode_ids([2**64 - 1, 5]).tolist()
        [[-1, -1], [5, 0]]
        >>> encode_ids(["tea", "cup"], width=4).tolist()
        [[116, 101, 97, 0], [99, 117, 112, 0]]
    """
    array = np.asarray(ids)
    kind = array.dtype.kind
    if kind in "SU" and not isinstance(ids, np.ndarray):
        # NumPy's strings lose zeros at the end, and take in numbers.
        array = np.asarray(ids, object)
    if kind == "S":
        array = as_texts(array)
    if array.dtype.kind not in "OU":
        whole, shape = pack(ids, "integers")
        assert isinstance(whole, np.ndarray)
        return whole.astype("<i8", copy=False).view("<i4").reshape(*shape, 2).astype(np.int32)
    packed, shape = pack(array, "strings")
    text, offsets = packed
    longest = int(np.diff(offsets).max(initial=0))
    if width is None:
        width = max(longest, 1)
    joined: bytes = text.tobytes()
    encoded = [joined[a:b] for a, b in pairwise(offsets.tolist())]
    for one in encoded if longest > width or b"\0" in joined else ():
        if len(one) > width:
            raise ValueError(f"{one.decode(errors='replace')!r} has {len(one)} bytes; {width=}")
        if one.endswith(b"\0"):
            raise ValueError(f"{one!r} ends in the character 0, with which strings are padded")
    return np.array(encoded, f"S{width}").reshape(-1, 1).view(np.uint8).reshape(*shape, width)


def decode_ids(encoded: NDArray[Any], kind: IdKind) -> NDArray[Any]:
    """Return the ids (...,) that `encode_ids` made (..., 2) or (..., width) of.

    Raises:
        ValueError: numbers or a shape that `encode_ids` does not give.
    """
    shape = encoded.shape
    if encoded.dtype.kind not in "iu":  # cast by Keras on their way
        encoded = validate_ids(encoded)
    if kind == "strings":
        if len(shape) < 1 or not shape[-1]:
            raise ValueError(f"encoded strings are (..., width), not {shape}")
        wrong = encoded[(encoded < 0) | (encoded > 255)]
        if wrong.size:
            raise ValueError(
                f"{wrong[0]} is no byte (0..255); give what encode_ids makes of strings"
            )
        text = np.ascontiguousarray(encoded.astype(np.uint8, copy=False))
        return as_texts(text.view(f"S{shape[-1]}").reshape(shape[:-1]))
    if shape[-1:] != (2,):
        raise ValueError(f"encoded integers are (..., 2), as encode_ids makes them, not {shape}")
    if encoded.dtype.itemsize > 4 and ((encoded < -(2**31)) | (encoded >= 2**32)).any():
        wrong = encoded[(encoded < -(2**31)) | (encoded >= 2**32)][0]
        raise ValueError(f"{wrong} is no half of an id; give what encode_ids makes of it")
    halves = np.ascontiguousarray(encoded.astype("<i4", copy=False))
    return halves.view("<i8").reshape(shape[:-1]).astype(np.int64, copy=False)


def as_texts(encoded: NDArray[Any]) -> NDArray[Any]:
    """Return strings (...,), as objects, of bytes in UTF-8; what is no bytes stays as it is.

    Raises:
        ValueError: bytes that are no UTF-8.
    """
    texts = np.empty(encoded.size, object)
    for i, one in enumerate(encoded.reshape(-1).tolist()):
        try:
            texts[i] = one.decode("utf-8", "surrogatepass") if isinstance(one, bytes) else one
        except UnicodeDecodeError as error:
            raise ValueError(f"id {one!r} is not UTF-8: {error.reason}") from None
    return texts.reshape(encoded.shape)
