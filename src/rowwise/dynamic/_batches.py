"""Ids of a batch as the native index takes them: integers, or strings packed in one array."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rowwise._ids import as_ids

IdKind = Literal["integers", "strings"]
Integers = NDArray[np.int64]
# The UTF-8 bytes of strings one after the other, and the offsets (n + 1,) at which each begins.
PackedStrings = tuple[NDArray[np.uint8], NDArray[np.int64]]
Packed = Integers | PackedStrings


def pack(ids: Any, kind: IdKind) -> tuple[Packed, tuple[int, ...]]:
    """Return ids (...,) in one dimension, and their shape.

    Raises:
        TypeError: ids of the other kind, or of neither.
        ValueError: floats that are not whole, see `rowwise._ids.as_ids`.
    """
    if kind == "integers":
        array = np.asarray(ids)
        # The same 64 bits: hashes are often given as unsigned numbers.
        whole = array.view(np.int64) if array.dtype == np.uint64 else as_ids(ids)
        return np.ascontiguousarray(whole).reshape(-1), whole.shape
    array = np.asarray(ids, dtype=object) if not isinstance(ids, np.ndarray) else ids
    strings = array.reshape(-1).tolist()
    try:
        return pack_strings(strings), array.shape
    except (AttributeError, TypeError):
        wrong = next(text for text in strings if not isinstance(text, str))
        raise TypeError(f"ids are strings here, not {wrong!r} ({type(wrong).__name__})") from None


def pack_strings(strings: list[str]) -> PackedStrings:
    """Return strings as bytes and offsets; lone surrogates pass."""
    encoded = [str.encode(text, "utf-8", "surrogatepass") for text in strings]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def unpack(packed: Packed) -> NDArray[Any]:
    """Return ids (n,): int64, or strings in an array of objects.

    Raises:
        ValueError: offsets that do not ascend from 0 to the number of bytes, or bytes that are no
            UTF-8.
    """
    if not isinstance(packed, tuple):
        return packed
    bounds, whole = packed[1].tolist(), packed[0].tobytes()
    if not bounds or bounds[0] != 0 or bounds[-1] != len(whole):
        raise ValueError("the offsets of strings do not span their bytes")
    if any(a > b for a, b in pairwise(bounds)):
        raise ValueError("the offsets of strings descend")
    strings = np.empty(len(bounds) - 1, object)
    strings[:] = [whole[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(bounds)]
    return strings
