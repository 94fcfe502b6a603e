"""A nameless file of records, one a row: weights, slots and state side by side."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.store._memory import Folder, reserve

_DEPTH = 64  # requests under way at once: a disk needs them to reach its speed
_BLOCKS = (512, 4096)  # a disk's unit, where the system's cache is bypassed


class RecordFile:
    """Records of rows on a disk, moved from and to the arrays of a cache.

    Where it can be had they bypass the system's cache, which would hold a row twice, and would read
    a page before a part of it is written. All their room is there from the start, so that a disk
    that fills up later does not matter. The file goes with this object, or with the process.

    Args:
        folder: on whose disk the file lies.
        rows: number of records.
        arrays: of the cache, (frames, ...) each; a record is a frame of each of them.

    Raises:
        OSError: the folder has not so much room.
    """

    def __init__(self, folder: Folder, rows: int, arrays: list[NDArray[Any]]) -> None:
        self._parts = [array.reshape(len(array), -1).view(np.uint8) for array in arrays]
        record = sum(part.shape[1] for part in self._parts)
        with tempfile.TemporaryFile(dir=folder, prefix=".rowwise.") as file:
            self._file, block = _direct(file.fileno())
            weakref.finalize(self, os.close, self._file)
            self.stride = -(-record // block) * block
            self.nbytes = self.stride * rows
            reserve(file, self.nbytes, folder)

    def read(self, rows: NDArray[np.int64], frames: NDArray[np.int64]) -> None:
        """Read the records of rows (n,) into frames (n,).

        Raises:
            OSError: the disk fails.
        """
        self._move(rows, frames, write=False)

    def write(self, rows: NDArray[np.int64], frames: NDArray[np.int64]) -> None:
        """Write frames (n,) as the records of rows (n,).

        Raises:
            OSError: the disk fails.
        """
        self._move(rows, frames, write=True)

    def read_into(self, rows: NDArray[np.int64], arrays: list[NDArray[Any]]) -> None:
        """Read the records of rows (n,) into other arrays of the same parts, (n, ...) each.

        Raises:
            OSError: the disk fails.
        """
        if not rows.size:
            return
        parts = [array.reshape(len(array), -1).view(np.uint8) for array in arrays]
        self._move(rows, np.arange(len(rows)), write=False, parts=parts)

    def mapped(self) -> list[NDArray[np.uint8]]:
        """Return the parts of all records, (rows, bytes) each, where they lie; not to write to."""
        memory = mmap.mmap(self._file, self.nbytes, access=mmap.ACCESS_READ)
        whole = np.frombuffer(memory, np.uint8).reshape(-1, self.stride)
        ends = np.cumsum([part.shape[1] for part in self._parts])
        return [
            whole[:, end - part.shape[1] : end]
            for end, part in zip(ends.tolist(), self._parts, strict=True)
        ]

    def _move(
        self,
        rows: NDArray[np.int64],
        frames: NDArray[np.int64],
        write: bool,
        parts: list[NDArray[np.uint8]] | None = None,
    ) -> None:
        if not rows.size:
            return
        order = np.argsort(rows)  # neighbours share pages
        error = _native.move_records(
            self._file,
            self._parts if parts is None else parts,
            self.stride,
            np.ascontiguousarray(rows[order]),
            np.ascontiguousarray(frames[order]),
            depth=_DEPTH,
            write=write,
        )
        if error:
            what = "writing" if write else "reading"
            raise OSError(error, f"{what} rows of a table on disk: {os.strerror(error)}")


def _direct(file: int) -> tuple[int, int]:
    """Open an open file once more, past the system's cache where that can be had.

    Returns:
        the file, and what offsets and sizes must be multiples of.
    """
    if not hasattr(os, "O_DIRECT"):
        return os.dup(file), 1
    os.pwrite(file, bytes(2 * _BLOCKS[-1]), 0)
    page = mmap.mmap(-1, _BLOCKS[-1])
    for block in _BLOCKS:
        try:
            direct = os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_DIRECT)
        except OSError:  # a file system without it
            break
        try:
            os.preadv(direct, [memoryview(page)[:block]], block)
            return direct, block
        except OSError:
            os.close(direct)
    return os.dup(file), 1
