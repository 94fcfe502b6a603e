"""Words as arrays of numbers, for formats that hold nothing else."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.vectors.errors import VectorsFileError
from rowwise.vectors.gather import Gathering
from rowwise.vectors.options import Options
from rowwise.vectors.vectors import Vectors

_AT_ONCE = 1 << 22


def to_arrays(words: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """words' UTF-8 bytes one after the other, and where each ends; lone surrogates pass."""
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    ends = np.cumsum([len(word) for word in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def from_arrays(path: str, text: NDArray[Any], ends: NDArray[Any]) -> list[str]:
    """What `to_arrays` made arrays of.

    Raises:
        VectorsFileError: the ends do not ascend within the text, or it is no UTF-8.
    """
    if text.dtype != np.uint8 or text.ndim != 1 or ends.dtype != np.int64 or ends.ndim != 1:
        raise VectorsFileError(
            path,
            found=f"words as {text.dtype} {text.shape} with ends {ends.dtype} {ends.shape}",
            expected="uint8 (n,) and int64 (V,)",
        )
    bounds = [0, *ends.tolist()]
    if any(a > b for a, b in pairwise(bounds)) or bounds[-1] != len(text):
        raise VectorsFileError(
            path, found="words whose ends do not ascend to the end of their text"
        )
    whole = text.tobytes()
    try:
        return [whole[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(bounds)]
    except UnicodeDecodeError as error:
        raise VectorsFileError(path, found=f"words that are not UTF-8 ({error})") from error


def chosen(
    path: str, words: list[str], matrix: Any, shape: tuple[int, ...], options: Options
) -> Vectors:
    """The part of words and matrix (V, D), anything that can be sliced, that was asked for.

    Raises:
        VectorsFileError: they do not belong together.
    """
    if len(shape) != 2 or shape[0] != len(words) or shape[1] < 1:
        raise VectorsFileError(
            path,
            found=f"{len(words):,} words for a matrix of shape {tuple(shape)}",
            expected="a word for each row",
            fix="look whether the two are of one model",
        )
    gathering = Gathering(path, shape[1], options, expected=len(words))
    step = max(1, _AT_ONCE // (shape[1] * 4))
    for start in range(0, len(words), step):
        if gathering.done:
            break
        stop = min(start + step, len(words))
        if gathering.left is not None:
            stop = min(stop, start + gathering.left)
        gathering.add(words[start:stop], np.asarray(matrix[start:stop]))
    return Vectors(*gathering.result())
