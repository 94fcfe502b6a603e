"""Strings as two arrays: their bytes one after the other, and where each ends."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.errors import VectorsFileError


def encode_word(word: str) -> bytes:
    """Return a word's bytes; those that came in by "surrogateescape" as they were.

    Raises:
        ValueError: a lone surrogate, which UTF-8 cannot hold.
    """
    try:
        return word.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"word {word!r} holds a lone surrogate, which UTF-8 cannot") from error


def pack(words: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the bytes (n,) of words as `encode_word` gives them, and where each ends (V,)."""
    return _pack([encode_word(word) for word in words])


def pack_any(words: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the same for words of any kind: lone surrogates are encoded too."""
    return _pack([word.encode("utf-8", "surrogatepass") for word in words])


def _pack(encoded: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    ends = np.fromiter(accumulate(map(len, encoded)), np.int64, len(encoded))
    return np.frombuffer(b"".join(encoded), np.uint8), ends


class PackedStrings:
    """Read what `pack_any` packed, in order, some words at a time.

    Args:
        path: for messages.
        text: (n,) uint8, an array or anything whose slices, taken in order, are arrays.
        ends: (V,) int64, likewise.

    Raises:
        VectorsFileError: other shapes or dtypes.
    """

    def __init__(self, path: str, text: Any, ends: Any) -> None:
        if (text.dtype, len(text.shape)) != (np.uint8, 1) or (
            (ends.dtype, len(ends.shape)) != (np.int64, 1)
        ):
            raise VectorsFileError(
                path,
                found=f"words as {text.dtype} {text.shape} with ends {ends.dtype} {ends.shape}",
                expected="uint8 (n,) and int64 (V,)",
            )
        self.path, self.count = path, ends.shape[0]
        self._text, self._ends = text, ends
        self._read, self._end = 0, 0

    def take(self, count: int) -> list[str]:
        """Return the next words, `count` or as many as there are.

        Raises:
            VectorsFileError: the ends do not ascend within the text, or it is not UTF-8.
        """
        count = min(count, self.count - self._read)
        bounds = [self._end, *self._ends[self._read : self._read + count].tolist()]
        self._read += count
        size = self._text.shape[0]
        last = bounds[-1] == size if self._read == self.count else bounds[-1] <= size
        if not last or any(a > b for a, b in pairwise(bounds)):
            raise VectorsFileError(
                self.path, found="words whose ends do not ascend to the end of their text"
            )
        start, self._end = self._end, bounds[-1]
        text = np.asarray(self._text[start : self._end]).tobytes()
        try:
            return [
                text[a - start : b - start].decode("utf-8", "surrogatepass")
                for a, b in pairwise(bounds)
            ]
        except UnicodeDecodeError as error:
            raise VectorsFileError(
                self.path, found=f"words that are not UTF-8 ({error})"
            ) from error
