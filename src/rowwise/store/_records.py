"""A nameless file of records, one a row: weights, slots and state side by side."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.store._memory import Folder

_DEPTH = 64  # requests under way at once: a disk needs them to reach its speed


class RecordFile:
    """Records of rows on a disk, moved from and to the arrays of a cache.

    All their room is there from the start, so that a disk that fills up later does not matter. The
    file goes with this object, or with the process.

    Args:
        folder: on whose disk the file lies.
        rows: number of records.
        arrays: of the cache, (frames, ...) each; a record is a frame of each of them.

    Raises:
        OSError: the folder has not so much room.
    """

    def __init__(self, folder: Folder, rows: int, arrays: list[NDArray[Any]]) -> None:
        self._parts = [array.reshape(len(array), -1).view(np.uint8) for array in arrays]
        self.record = sum(part.shape[1] for part in self._parts)
        self.nbytes = self.record * rows
        with tempfile.TemporaryFile(dir=folder, prefix=".rowwise.") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, self.nbytes)
            except OSError as error:
                free = shutil.disk_usage(folder).free
                raise OSError(
                    error.errno,
                    f"{self.nbytes:,} bytes of rows do not fit; {free:,} are free "
                    f"({error.strerror})",
                    os.fspath(folder),
                ) from error
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)

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
        memory = mmap.mmap(self._file, self.nbytes, prot=mmap.PROT_READ)
        whole = np.frombuffer(memory, np.uint8).reshape(-1, self.record)
        ends = np.cumsum([part.shape[1] for part in self._parts])
        return [
            whole[:, end - part.shape[1] : end]
            for end, part in zip(ends.tolist(), self._parts, strict=True)
        ]

    def drop_page_cache(self) -> None:
        """Ask the system to forget what it keeps of the file in memory."""
        os.fsync(self._file)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

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
            np.ascontiguousarray(rows[order]),
            np.ascontiguousarray(frames[order]),
            depth=_DEPTH,
            write=write,
        )
        if error:
            what = "writing" if write else "reading"
            raise OSError(error, f"{what} rows of a table on disk: {os.strerror(error)}")
