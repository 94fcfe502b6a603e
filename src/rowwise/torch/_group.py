"""A `torch.distributed` process group as what a sharded table exchanges arrays with."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from rowwise import _native
from rowwise.errors import ExchangeError
from rowwise.sharded import Exchange, Pending

Array = NDArray[Any]

_NOT_INITIALIZED = """a sharded embedding needs a process group; make one first, in every process:

    torch.distributed.init_process_group("gloo")

and start the processes with torchrun --nproc-per-node N program.py"""


class GroupExchange:
    """The ranks of a process group; see `rowwise.sharded.Exchange`.

    Attributes:
        bytes_sent: what went to other ranks so far.
    """

    def __init__(self, group: Any) -> None:
        self._group = weakref.ref(group)  # so that destroy_process_group() ends it
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        self.bytes_sent = 0
        self._tables = 0

    @property
    def group(self) -> Any:
        """The process group.

        Raises:
            ExchangeError: it was destroyed.
        """
        group = self._group()
        if group is None:
            raise ExchangeError("the process group was destroyed")
        return group

    def start(
        self,
        array: Array,
        counts: Sequence[int],
        received: Sequence[int],
        out: Array | None = None,
    ) -> Pending:
        """Begin an exchange of parts of arrays; see `rowwise.sharded.Exchange.start`."""
        shape = array.shape[1:]
        size = array.dtype.itemsize * int(np.prod(shape))
        if out is None:
            out = _pooled_bytes(sum(received) * size).view(array.dtype)
            out = out.reshape(sum(received), *shape)
        self.bytes_sent += (sum(counts) - counts[self.rank]) * size
        try:
            work = dist.all_to_all_single(
                _as_bytes(out),
                _as_bytes(np.ascontiguousarray(array)),
                [count * size for count in received],
                [count * size for count in counts],
                group=self.group,
                async_op=True,
            )
        except RuntimeError as error:
            raise ExchangeError(_first_line(error)) from error
        return _Work(work, out, array)

    def next_table(self) -> int:
        """Return the number of a new table; see `rowwise.sharded.Exchange.next_table`."""
        self._tables += 1
        return self._tables - 1


class _Work:
    def __init__(self, work: Any, received: Array, sent: Array) -> None:
        self._work, self._received, self._sent = work, received, sent

    def wait(self) -> Array:
        try:
            self._work.wait()
        except RuntimeError as error:
            raise ExchangeError(_first_line(error)) from error
        return self._received


_exchanges: weakref.WeakKeyDictionary[Any, GroupExchange] = weakref.WeakKeyDictionary()


def exchange_of(process_group: Any) -> Exchange:
    """Return the exchange of a process group, the same for all tables of the group.

    Args:
        process_group: a group; None for the default one; or an `Exchange`, which is returned.

    Raises:
        RuntimeError: there is no process group.
        ValueError: the group cannot exchange CPU tensors.
    """
    if process_group is not None and hasattr(process_group, "next_table"):
        return process_group
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(_NOT_INITIALIZED)
    group = dist.group.WORLD if process_group is None else process_group
    if torch.device("cpu") not in group._device_types:
        raise ValueError(
            f"the process group's backend is {dist.get_backend(group)!r}, and the rows lie on the "
            "CPU; init_process_group('cpu:gloo,cuda:nccl') has both"
        )
    if group not in _exchanges:
        _exchanges[group] = GroupExchange(group)
    return _exchanges[group]


def _pooled_bytes(size: int) -> NDArray[np.uint8]:
    """Return bytes, not yet written, in memory that batch after batch uses."""
    return _native.empty(-(-size // 4), 1).reshape(-1).view(np.uint8)[:size]


def _as_bytes(array: Array) -> torch.Tensor:
    return torch.from_numpy(array.reshape(-1).view(np.uint8))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
