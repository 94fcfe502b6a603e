"""Buffers of a table, and the check that they fit before any is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rowwise import _native

# What the kernels keep per row, in the layout of native/kernels.hpp.
ROW_STATE = np.dtype([("stamp", np.uint32), ("updates", np.uint32), ("last_update", np.int64)])


def matrix(rows: int, dim: int) -> NDArray[np.float32]:
    """A zeroed (rows, dim) float32 array on huge pages where there are any."""
    return _native.zeros(rows * dim * 4).view(np.float32).reshape(rows, dim)


def row_states(rows: int) -> NDArray[np.void]:
    """(rows,) bookkeeping of rows that no batch has touched."""
    return _native.zeros(rows * ROW_STATE.itemsize).view(ROW_STATE)


def check_fits(rows: int, dim: int, slots: int, *, table: bool = True) -> None:
    """Refuses a table with `slots` slots (or, for one that is there, the slots alone) that this
    machine's free memory cannot hold.

    Raises:
        MemoryError: with the bytes needed and available.
    """
    needed = rows * dim * 4 * slots + table * rows * (dim * 4 + ROW_STATE.itemsize)
    available = available_bytes()
    if available is not None and needed > available:
        raise MemoryError(
            f"a table of {rows} rows of {dim} float32 with {slots} slots needs "
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
