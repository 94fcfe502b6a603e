"""Buffers of a table, and the check that they fit before any is asked for."""

from __future__ import annotations

import errno
import mmap
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.rules import Rule

# What the kernels keep per row, in the layout of native/plain.hpp.
ROW_STATE = np.dtype(
    [("last_step", np.uint32), ("update_count", np.uint32), ("last_update", np.int64)]
)

# How weights can be stored, by name: the type of their array. NumPy has no bfloat16, of which the
# array has the bits.
STORED: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "bfloat16": np.uint16,
    "float16": np.float16,
}

Folder = str | os.PathLike[str]


def stored_as(dtype: Any) -> str:
    """Return the name of a type that weights can be stored as.

    Raises:
        ValueError: they cannot.
    """
    try:
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:
        name = f"{dtype}".removeprefix("torch.")
    if name not in STORED:
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(map(repr, STORED))}")
    return name


def matrix(
    rows: int, dim: int, scratch: Folder | None = None, dtype: Any = np.float32
) -> NDArray[Any]:
    """Return a zeroed (rows, dim) array, float32 unless said otherwise; see `zeros`."""
    return zeros(rows * dim * np.dtype(dtype).itemsize, scratch).view(dtype).reshape(rows, dim)


def row_states(rows: int, scratch: Folder | None = None) -> NDArray[np.void]:
    """(rows,) bookkeeping of rows that no batch has touched."""
    return zeros(rows * ROW_STATE.itemsize, scratch).view(ROW_STATE)


def zeros(nbytes: int, scratch: Folder | None = None) -> NDArray[np.uint8]:
    """(nbytes,) zeros: in memory, on huge pages where there are any, or in a file of a folder.

    The file has no name, so that it goes with the array or the process, and all its room is there
    from the start: a disk that fills up later does not matter to it.

    Raises:
        OSError: the folder has not so much room.
    """
    if scratch is None:
        return _native.zeros(nbytes)
    with scratch_file(scratch) as file:
        reserve(file, nbytes, scratch)
        return np.frombuffer(mmap.mmap(file.fileno(), nbytes), np.uint8)


def scratch_file(folder: Folder) -> IO[bytes]:
    """Return a new file of a folder, without a name; it goes when it is closed.

    Raises:
        OSError: there is no such folder, or nothing can be written there.
    """
    try:
        return tempfile.TemporaryFile(dir=folder, prefix=".rowwise.")
    except OSError as error:
        raise _unusable(folder, error) from error


def check_disk(folder: Folder, nbytes: int) -> None:
    """Refuse bytes for which a folder's disk has no room now, before memory is asked for.

    Raises:
        OSError: with the bytes needed and free; there is no such folder.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise _unusable(folder, error) from error
    if nbytes > free:
        raise _full(folder, nbytes, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def reserve(file: IO[bytes], nbytes: int, folder: Folder) -> None:
    """Fill an empty file of a folder with zeros that have their room on the disk.

    Raises:
        OSError: with the bytes needed and free.
    """
    try:
        _allocate(file, nbytes, folder)
    except OSError as error:
        raise _full(folder, nbytes, error) from error


def _unusable(folder: Folder, error: OSError) -> OSError:
    what = f"scratch must be a folder that can be written to ({error.strerror})"
    return OSError(error.errno, what, os.fspath(folder))


def _full(folder: Folder, nbytes: int, error: OSError) -> OSError:
    free = shutil.disk_usage(folder).free
    what = f"{nbytes:,} bytes of scratch do not fit; {free:,} are free ({error.strerror})"
    return OSError(error.errno, what, os.fspath(folder))


def _allocate(file: IO[bytes], nbytes: int, folder: Folder) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, nbytes)
        return
    if nbytes > shutil.disk_usage(folder).free:  # macOS and Windows have no such call
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    block = bytes(min(nbytes, 1 << 24))
    for begin in range(0, nbytes, len(block)):
        file.write(block[: nbytes - begin])
    file.flush()


def check_fits(
    rows: int, dim: int, rule: Rule | None = None, *, table: bool = True, dtype: str = "float32"
) -> None:
    """Refuse a table with a rule's slots (or, for one that is there, the slots alone) that this
    machine's free memory cannot hold.

    Raises:
        MemoryError: with the bytes needed and available.
    """
    slots, slot_dim = (len(rule.slot_names), rule.slot_dim(dim)) if rule else (0, 0)
    row = dim * np.dtype(STORED[dtype]).itemsize + ROW_STATE.itemsize
    needed = rows * slot_dim * 4 * slots + table * rows * row
    available = available_bytes()
    if available is not None and needed > available:
        raise MemoryError(
            f"a table of {rows} rows of {dim} {dtype} with {slots} slots needs "
            f"{needed:,} bytes ({needed / 2**30:.1f} GiB) and {available:,} "
            f"({available / 2**30:.1f} GiB) are available; "
            "take fewer rows, a smaller dim, or a rule with fewer slots"
        )


def available_bytes() -> int | None:
    """Memory a process can still get without swapping, or None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        limit = Path("/sys/fs/cgroup/memory.max")
        cap = limit.read_text().strip() if limit.exists() else "max"
        used = Path("/sys/fs/cgroup/memory.current")
        if cap != "max" and used.exists():
            return min(free * 1024, max(0, int(cap) - int(used.read_text())))
        return free * 1024
    except (OSError, StopIteration, ValueError):
        return None


def bytes_of(memory: int | str) -> int:
    """Return a number of bytes given as such, or as "8GiB", "500MB".

    Raises:
        TypeError, ValueError: neither, or none above 0.
    """
    units = {"B": 1, **{f"{u}B": 1000 ** (i + 1) for i, u in enumerate("KMGT")}}
    units |= {f"{u}IB": 1024 ** (i + 1) for i, u in enumerate("KMGT")}
    if isinstance(memory, str):
        found = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]+)\s*", memory)
        if found is None or found[2].upper() not in units:
            raise ValueError(f"memory={memory!r} is not a size such as '8GiB' or '500MB'")
        memory = int(float(found[1]) * units[found[2].upper()])
    if isinstance(memory, bool) or not isinstance(memory, int | np.integer):
        raise TypeError(
            f"memory must be a number of bytes or a size such as '8GiB', not {memory!r}"
        )
    if memory < 1:
        raise ValueError(f"memory={memory} must be at least 1 byte")
    return int(memory)
