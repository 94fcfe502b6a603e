"""Read an array in NumPy's format from a stream, its rows in order."""

from __future__ import annotations

import ast
import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rowwise.errors import VectorsFileError
from rowwise.vectors._reader import Reader

MAGIC = b"\x93NUMPY"
_MOST_HEADER = 1 << 16
_MOST_AXES = 32
_HEADER_SIZE_BYTES = {1: 2, 2: 4, 3: 4}  # of the length, by version


class ArrayStream:
    """Hold an array's shape and dtype, and give its rows as they are asked for, in order.

    Args:
        reader: at the array's start.
        name: of the array, for messages.

    Raises:
        VectorsFileError: no array, one of Python objects, or more of it than the file can hold.
    """

    def __init__(self, reader: Reader, name: str) -> None:
        self._reader, self.path, self.name = reader, reader.path, name
        self.is_plain = reader.is_plain
        self.shape, self.dtype, self._by_columns = self._header()
        self._read = 0
        self._whole: NDArray[Any] | None = None
        if self.dtype.hasobject:
            raise VectorsFileError(
                self.path,
                found=f"{name} of Python objects, which are a pickle",
                expected="strings or numbers",
                fix="np.array(words) of strings is no pickle, np.array(words, dtype=object) is",
            )
        if self._bytes_of(self.shape) > reader.bound - reader.at:
            raise VectorsFileError(
                self.path,
                found=f"{name} with at most {reader.bound - reader.at:,} bytes",
                expected=f"{self._bytes_of(self.shape):,} for {self.dtype} of shape {self.shape}",
                fix="the file is cut short or damaged: download it again",
            )

    def __getitem__(self, part: slice) -> NDArray[Any]:
        """Return rows part.start..part.stop; a slice begins where the last one ended."""
        if self._by_columns and len(self.shape) > 1:
            if self._whole is None:
                data = self._reader.read_array(self._bytes_of(self.shape), self.name)
                self._whole = data.view(self.dtype).reshape(self.shape, order="F")
            return np.ascontiguousarray(self._whole[part])
        assert part.start == self._read
        shape = (part.stop - part.start, *self.shape[1:])
        data = self._reader.read_array(self._bytes_of(shape), self.name)
        self._read = part.stop
        return data.view(self.dtype).reshape(shape)

    def _bytes_of(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * self.dtype.itemsize

    def _header(self) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
        """Parse the header: a Python dictionary of literals, which is bounded before it is read."""
        start = self._reader.read(8, "an array's first bytes")
        size_bytes = _HEADER_SIZE_BYTES.get(start[6])
        if start[:6] != MAGIC or size_bytes is None:
            raise self._no_array(f"it starts with {start!r}")
        size = int.from_bytes(self._reader.read(size_bytes, "the header's length"), "little")
        if size > _MOST_HEADER:
            raise self._no_array(f"its header has {size:,} bytes")
        text = self._reader.read(size, "an array's header")
        try:
            header = ast.literal_eval(text.decode("utf-8" if start[6] == 3 else "latin1").strip())
            shape, by_columns = header["shape"], header["fortran_order"]
            dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(header["descr"])
        except (
            ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError, IndexError,
            AttributeError,
        ) as error:  # fmt: skip
            raise self._no_array(f"{type(error).__name__}: {error}") from error
        if (
            not isinstance(shape, tuple)
            or len(shape) > _MOST_AXES
            or not all(type(n) is int and 0 <= n < 1 << 62 for n in shape)
        ):
            raise self._no_array(f"its shape is {str(shape)[:60]}")
        if dtype.itemsize == 0:
            raise self._no_array(f"its dtype is {dtype}")
        return cast(tuple[int, ...], shape), dtype, bool(by_columns)

    def _no_array(self, what: str) -> VectorsFileError:
        return VectorsFileError(
            self.path,
            found=f"no whole array ({what})",
            fix="the file is cut short or damaged: download it again",
        )


def check_numeric(path: str, dtype: np.dtype[Any]) -> None:
    """Refuse an array whose elements are not numbers."""
    if dtype.kind not in "fiu":
        raise VectorsFileError(path, found=f"an array of {dtype}", expected="numbers")
