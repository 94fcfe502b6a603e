"""Ids of a batch as the native index takes them: integers, or strings packed in one array."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rowwise._ids import as_ids
from rowwise._mix import mix

IdKind = Literal["integers", "strings"]
Integers = NDArray[np.int64]
# The UTF-8 bytes of strings one after the other, and the offsets (n + 1,) at which each begins.
PackedStrings = tuple[NDArray[np.uint8], NDArray[np.int64]]
Packed = Integers | PackedStrings

_PRIME = np.uint64(0x9E3779B97F4A7C15)


def pack(ids: Any, kind: IdKind) -> tuple[Packed, tuple[int, ...]]:
    """Return ids (...,) in one dimension, and their shape.

    Raises:
        TypeError: ids of the other kind, or of neither.
        IndexError: an integer of more than 64 bits.
        ValueError: floats that are not whole, see `rowwise._ids.as_ids`.
    """
    if kind == "integers":
        array = np.asarray(ids)
        if array.dtype.kind in "SU" and array.size:
            raise TypeError(
                f"ids must be integers here, not strings such as {array.flat[0].item()!r}; "
                "ids='strings' takes those"
            )
        made_floats = array.dtype.kind == "f" and not hasattr(ids, "dtype")
        if made_floats or array.dtype.kind == "O":
            array = _of_pythons_integers(ids, array)
        # The same 64 bits: hashes are often given as unsigned numbers.
        whole = array.view(np.int64) if array.dtype == np.uint64 else as_ids(array)
        return np.ascontiguousarray(whole).reshape(-1), whole.shape
    array = np.asarray(ids, dtype=object) if not isinstance(ids, np.ndarray) else ids
    strings = array.reshape(-1).tolist()
    try:
        return pack_strings(strings), array.shape
    except (AttributeError, TypeError):
        wrong = next(text for text in strings if not isinstance(text, str))
        raise TypeError(f"ids are strings here, not {wrong!r} ({type(wrong).__name__})") from None


def _of_pythons_integers(ids: Any, array: NDArray[Any]) -> NDArray[Any]:
    """Return Python's integers by their 64 bits, where NumPy made floats or objects of them.

    It makes floats of a list with integers on both sides of 2^63. What holds anything else than
    integers is returned as NumPy made it.
    """
    numbers = np.asarray(ids, dtype=object).reshape(-1).tolist()
    if not numbers or any(type(number) is not int for number in numbers):
        return array
    for number in numbers:
        if not -(2**63) <= number < 2**64:
            raise IndexError(f"id {number} has more than 64 bits; give a hash of it")
    return np.array([number % 2**64 for number in numbers], np.uint64).reshape(array.shape)


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


def count(packed: Packed) -> int:
    """Return how many ids there are."""
    return len(packed[1]) - 1 if isinstance(packed, tuple) else len(packed)


def lengths(packed: PackedStrings) -> NDArray[np.int64]:
    """Return the bytes of each string (n,)."""
    return np.diff(packed[1])


def take(packed: Packed, positions: NDArray[np.int64]) -> Packed:
    """Return the ids at some positions (m,)."""
    if not isinstance(packed, tuple):
        return packed[positions]
    text, offsets = packed
    sizes = lengths(packed)[positions]
    ends = np.zeros(len(positions) + 1, np.int64)
    np.cumsum(sizes, out=ends[1:])
    moved = np.repeat(offsets[positions] - ends[:-1], sizes)
    return text[np.arange(ends[-1]) + moved], ends


def hashes(packed: Packed) -> NDArray[np.uint64]:
    """Return a hash (n,) of each id, the same in every process and version."""
    if not isinstance(packed, tuple):
        return mix(packed.view(np.uint64) + _PRIME)
    text, offsets = packed
    sizes = lengths(packed)
    place = np.arange(len(text)) - np.repeat(offsets[:-1], sizes)
    powers = np.cumprod(np.full(int(sizes.max(initial=0)), _PRIME), dtype=np.uint64)
    sums = np.zeros(len(text) + 1, np.uint64)
    np.cumsum((text.astype(np.uint64) + np.uint64(1)) * powers[place], out=sums[1:])
    return mix(sums[offsets[1:]] - sums[offsets[:-1]] + sizes.astype(np.uint64) + _PRIME)
