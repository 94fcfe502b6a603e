"""A nameless file of records, one a row: weights, slots and state side by side."""

from __future__ import annotations

import math
import mmap
import os
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.store._memory import Folder, reserve, scratch_file

_DEPTH = 128  # requests at once: a disk needs 64 to reach its speed, and more beside merges
_BLOCKS = (512, 4096)  # a disk's unit, where the system's cache is bypassed
_UNIT = 8  # bytes: records, and so their offsets in a log, are multiples of it
_LOG_SHARE = 4  # a region's log has room for one in so many of its records
_LARGEST_REGION = 1 << 25  # bytes

Integers = NDArray[np.int64]


class RecordFile:
    """Records of rows on a disk, moved from and to the arrays of a cache.

    The file is made of regions, the records of neighbouring rows. A region has a home, in which its
    records lie in order, and a log. Records that are written are appended to the logs of their
    regions, many with one request. Once a log is full, its region is read, and written in order.
    So there are no small writes, of which disks make few a second, and those that are made read a
    page first.

    What is written is copied, and goes to the disk while others compute. Reads wait for it.

    Where it can be had, the file bypasses the system's cache, which would hold a row twice. All its
    room is there from the start, so that a disk that fills up later does not matter. The file goes
    with this object, or with the process.

    Args:
        folder: on whose disk the file lies.
        rows: number of records.
        arrays: of the cache, (frames, ...) each; a record is a frame of each of them.
        region: bytes of a region, which is in memory while it is written in order.

    Raises:
        OSError: the folder has not so much room.
    """

    def __init__(self, folder: Folder, rows: int, arrays: list[NDArray[Any]], region: int) -> None:
        self._parts = [array.reshape(len(array), -1).view(np.uint8) for array in arrays]
        self._rows = rows
        self.stride = stride_of(arrays)
        self._region_rows = rows_of_region(self.stride, region, rows)
        regions = -(-rows // self._region_rows)
        self._home_bytes = self._region_rows * self.stride
        self._log_bytes = _rounded_up(self._home_bytes // _LOG_SHARE, _BLOCKS[-1])
        self._logs = _rounded_up(rows * self.stride, _BLOCKS[-1])  # where they begin
        self.nbytes = self._logs + regions * self._log_bytes
        with scratch_file(folder) as file:
            self._file, self._block = _direct(file.fileno())
            weakref.finalize(self, os.close, self._file)
            reserve(file, self.nbytes, folder)
        # Of each row where its record is in the log, in units, counted from 1; 0: it is at home.
        self._logged_at = np.zeros(rows, np.uint32)
        self._log_used = np.zeros(regions, np.int64)
        self._writing: _Writing | None = None
        self._packed = np.empty(0, np.uint8)

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory, of what is written last too."""
        return self._logged_at.nbytes + self._log_used.nbytes + self._packed.nbytes

    def offsets(self, rows: Integers) -> Integers:
        """Return the bytes of the file where records of rows (n,) begin, with all writes done.

        They are there until `write` was called twice.

        Raises:
            OSError: the disk fails.
        """
        self.finish()
        logged = self._logged_at[rows].astype(np.int64)
        log = self._log_of(rows // self._region_rows)
        return np.where(logged > 0, log + (logged - 1) * _UNIT, rows * self.stride)

    def read(self, offsets: Integers, frames: Integers) -> None:
        """Read the records at offsets (n,) into frames (n,).

        Raises:
            OSError: the disk fails.
        """
        self._read(offsets, frames, self._parts)

    def read_into(self, rows: Integers, arrays: list[NDArray[Any]]) -> None:
        """Read the records of rows (n,) into other arrays of the same parts, (n, ...) each.

        Raises:
            OSError: the disk fails.
        """
        if rows.size:
            parts = [array.reshape(len(array), -1).view(np.uint8) for array in arrays]
            self._read(self.offsets(rows), np.arange(len(rows)), parts)

    def _read(self, offsets: Integers, frames: Integers, parts: list[NDArray[np.uint8]]) -> None:
        if not offsets.size:
            return
        order = np.argsort(offsets)  # neighbours are read with one request
        error = _native.read_records(
            self._file, self.stride, self._block, parts, offsets[order], frames[order], _DEPTH
        )
        _check(error, "reading")

    # ------------------------------------------------------------------ writing

    def write(self, rows: Integers, frames: Integers) -> None:
        """Begin to write frames (n,), which are copied, as the records of distinct rows (n,).

        Raises:
            OSError: the disk failed to take what was written before.
        """
        self.finish()
        if not rows.size:
            return
        order = np.argsort(rows)
        rows, frames = rows[order], frames[order]
        regions, first, counts = np.unique(
            rows // self._region_rows, return_index=True, return_counts=True
        )
        sizes = _rounded_up(counts * self.stride, self._block)
        starts = np.cumsum(sizes) - sizes
        inside = (np.arange(len(rows)) - np.repeat(first, counts)) * self.stride
        begins = np.repeat(starts, counts) + inside
        packed = self._room(int(sizes.sum()))
        _native.pack_records(self._parts, self.stride, frames, begins, packed)
        used = self._log_used[regions]
        fits = self._fit(used, sizes)
        appended = np.repeat(fits, counts)
        self._writing = _Writing(
            self,
            packed,
            appends=_Appends(
                rows[appended],
                (np.repeat(used, counts) + inside)[appended] // _UNIT + 1,
                regions[fits],
                (used + sizes)[fits],
                (starts[fits], sizes[fits], self._log_of(regions[fits]) + used[fits]),
            ),
            merges=[
                self._merge(int(region), rows[at : at + count], begins[at : at + count])
                for region, at, count in zip(
                    regions[~fits], first[~fits].tolist(), counts[~fits].tolist(), strict=True
                )
            ],
        )
        self._writing.start()

    def finish(self) -> None:
        """Wait until all that was written is on the disk.

        Raises:
            OSError: the disk fails. The next call tries again.
        """
        if self._writing is not None:
            self._writing.finish()
            self._writing = None

    def mapped(self) -> list[NDArray[np.uint8]]:
        """Return the parts of all records, (rows, bytes) each, where they lie; not to write to.

        Raises:
            OSError: the disk fails.
        """
        self.finish()
        nothing = np.empty(0, np.int64)
        for region in np.flatnonzero(self._log_used).tolist():
            merge = self._merge(region, nothing, nothing)
            merge.run(self, np.empty(0, np.uint8))
            merge.note(self)
        memory = mmap.mmap(self._file, self._rows * self.stride, access=mmap.ACCESS_READ)
        whole = np.frombuffer(memory, np.uint8).reshape(-1, self.stride)
        ends = np.cumsum([part.shape[1] for part in self._parts])
        return [
            whole[:, end - part.shape[1] : end]
            for end, part in zip(ends.tolist(), self._parts, strict=True)
        ]

    def _merge(self, region: int, rows: Integers, begins: Integers) -> _Merge:
        """Return what brings a region in order, with rows (n,) that were packed at begins (n,)."""
        start = region * self._region_rows
        logged_at = self._logged_at[start : start + self._region_rows]
        logged = np.flatnonzero(logged_at)
        logged = logged[~np.isin(logged, rows - start)]
        end = min(start * self.stride + self._home_bytes, self._logs)
        return _Merge(
            region,
            (start * self.stride, end - start * self.stride),
            (self._log_of(region), int(self._log_used[region])),
            logged,
            (logged_at[logged].astype(np.int64) - 1) * _UNIT,
            rows - start,
            begins,
        )

    def _fit(self, used: Integers, sizes: Integers) -> NDArray[np.bool_]:
        """Return which logs (n,) may take so many bytes more; regions of the others are merged.

        All logs together are at most half full. So some regions are merged at each write, those
        with the fullest logs, and not all of them at once.
        """
        filled = used + sizes
        fits = filled <= self._log_bytes
        above = self._log_used.sum() + sizes.sum() - len(self._log_used) * self._log_bytes // 2
        if above > 0:
            fullest = np.argsort(-filled, kind="stable")
            emptied = np.cumsum(filled[fullest])
            fits[fullest[: int(np.searchsorted(emptied, above)) + 1]] = False
        return fits

    def _log_of(self, region: Any) -> Any:
        """Return where the log of a region, or of regions (n,), begins."""
        return self._logs + region * self._log_bytes

    def _room(self, nbytes: int) -> NDArray[np.uint8]:
        """Return (nbytes,) for records to be written; it begins at a page."""
        if nbytes > len(self._packed):
            self._packed = np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
        return self._packed[:nbytes]


@dataclass(frozen=True)
class _Appends:
    """Records that go to the logs of their regions."""

    rows: Integers
    logged_at: Integers
    regions: Integers
    log_used: Integers
    pieces: tuple[Integers, Integers, Integers]  # begins of what was packed, bytes, offsets

    def run(self, file: RecordFile, packed: NDArray[np.uint8]) -> None:
        """Write them; once more, if that failed."""
        _check(_native.write_pieces(file._file, packed, *self.pieces, _DEPTH), "writing")

    def note(self, file: RecordFile) -> None:
        """Note where they are."""
        file._logged_at[self.rows] = self.logged_at
        file._log_used[self.regions] = self.log_used


@dataclass(frozen=True)
class _Merge:
    """A region that is written in order, with what its log has, and newer records."""

    region: int
    home: tuple[int, int]  # begin, bytes
    log: tuple[int, int]
    logged: Integers  # numbers of records in the region
    logged_from: Integers
    newest: Integers
    newest_from: Integers

    def run(self, file: RecordFile, packed: NDArray[np.uint8]) -> None:
        """Write it; once more, if that failed."""
        logged, newest = (self.logged, self.logged_from), (self.newest, self.newest_from)
        error = _native.merge_records(
            file._file, file.stride, self.home, self.log, *logged, packed, *newest
        )
        _check(error, "writing")

    def note(self, file: RecordFile) -> None:
        """Note that all its records are at home."""
        start = self.region * file._region_rows
        file._logged_at[start : start + file._region_rows] = 0
        file._log_used[self.region] = 0


class _Writing:
    """Records on their way to the disk, in memory of their own."""

    def __init__(
        self,
        file: RecordFile,
        packed: NDArray[np.uint8],
        *,
        appends: _Appends,
        merges: list[_Merge],
    ) -> None:
        self._file, self._packed = file, packed
        self._parts: list[_Appends | _Merge] = [appends, *merges]
        self._noted = self._done = False
        self._thread = threading.Thread(target=self._try, daemon=True)

    def start(self) -> None:
        """Note where the records will be, and begin to write them."""
        self._note()
        self._thread.start()

    def finish(self) -> None:
        """Wait for the end; what failed, or Ctrl-C kept from beginning, is done here.

        Raises:
            OSError: it failed, and fails again.
        """
        if self._thread.ident is not None:
            self._thread.join()
        if not self._noted:
            self._note()
        if not self._done:
            self._write()

    def _note(self) -> None:
        for part in self._parts:
            part.note(self._file)
        self._noted = True

    def _try(self) -> None:
        with suppress(OSError):
            self._write()

    def _write(self) -> None:
        for part in self._parts:
            part.run(self._file, self._packed)
        self._done = True


def stride_of(arrays: list[NDArray[Any]]) -> int:
    """Return the bytes that a record of a frame of each array takes."""
    record = sum(array[:1].nbytes for array in arrays)
    return _rounded_up(record, _UNIT)


def rows_of_region(stride: int, nbytes: int, rows: int) -> int:
    """Return how many records make a region of about nbytes, which ends with a page."""
    least = _BLOCKS[-1] // math.gcd(stride, _BLOCKS[-1])
    wanted = max(least, min(nbytes, _LARGEST_REGION) // stride // least * least)
    return min(wanted, _rounded_up(rows, least))


def _rounded_up(number: Any, unit: int) -> Any:
    return -(-number // unit) * unit


def _check(error: int, what: str) -> None:
    if error:
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
