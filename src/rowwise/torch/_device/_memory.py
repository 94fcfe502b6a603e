"""A table's tensors on a device: its rule, its clock and the errors that it notes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rowwise import _native, rules
from rowwise._ids import outside
from rowwise.rules import Rule
from rowwise.store._locks import new_lock
from rowwise.store._memory import ROW_STATE
from rowwise.torch._device._batch import Tensors
from rowwise.torch._device._engine import engine_of
from rowwise.torch._device._kernels import cached_kernels

FIRST_CAPACITY = 1 << 10  # steps that a new clock has room for
_CAPTURED = (
    "a table on a GPU cannot be called while a CUDA graph is captured: a step's numbers come from "
    "the host, and a replay would repeat those; leave the embedding and its optimizer's step out "
    "of the graph"
)
_ALARM = 1 + _native.DEVICE_OPEN_STEPS  # numbers by which a device tells the host
_PATIENCE = 10_000  # times that the host looks for what the device tells
_REMEMBERED = 1 << 12  # calls whose batches' shapes are known to an error


def is_captured(device: torch.device) -> bool:
    """Return whether a CUDA graph is being captured of what torch gives a device."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def refuse_capture(device: torch.device) -> None:
    """Raise where a CUDA graph is being captured.

    Raises:
        RuntimeError: one is.
    """
    if is_captured(device):
        raise RuntimeError(_CAPTURED)


@contextmanager
def explaining_room(rows: int, dim: int, rule: Rule | None, device: torch.device) -> Iterator[None]:
    """Add to an error of a device without room what the table takes, and what to do.

    Args:
        rows, dim, rule: of the table that is being made.
        device: where.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        slots = [rule.slot_dim(dim) for _ in rule.slot_names] if rule else []
        size = rows * (4 * (dim + sum(slots)) + ROW_STATE.itemsize)
        error.add_note(
            f"rowwise: {rows} rows of {dim} with {len(slots)} slots take {size} bytes of {device}; "
            "nothing has changed; take fewer rows or an optimizer with fewer slots, or leave the "
            'rows in the host\'s memory with table="host"'
        )
        raise


class DeviceMemory:
    """Rows, slots and row states as tensors of one device, and the kernels' view of them.

    Attributes:
        tensor_device: where the tensors lie.
        rule: the update rule, or None.
        version: rises at every write.
        skipped_row: a row that `apply` leaves out of gradients by row.
        on_lost_steps: called, before a late error is raised, with how many steps it takes back.
    """

    tensor_device: torch.device
    rule: Rule | None
    version: int
    skipped_row: int | None
    on_lost_steps: Callable[[int], None] | None

    def _begin(
        self, weights: torch.Tensor, states: torch.Tensor, engine: _native.Engine | None
    ) -> None:
        self.tensor_device = weights.device
        self._engine = engine_of(weights.device) if engine is None else engine
        self._weights, self._states = weights, states
        self._tensors = Tensors(weights.device, len(weights))
        self._trouble = torch.zeros(5, dtype=torch.int64, device=weights.device)
        self._alarm = _new_alarm(weights.device.type == "cuda")
        self._lock = new_lock()
        self._last_stream: Any = None
        self.on_lost_steps = None
        self.skipped_row = None
        self._skipped_here = 0  # skipped steps that are not among the kernels'
        self._shapes: deque[tuple[int, tuple[int, ...]]] = deque(maxlen=_REMEMBERED)
        self._slots: list[torch.Tensor] = []
        self._clock = torch.empty(0, dtype=torch.uint8)
        self.rule = None
        self.version = 0
        rows, dim = weights.shape
        self._native = _native.DeviceTable(
            self._engine,
            rows,
            dim,
            weights=weights.data_ptr(),
            states=states.data_ptr(),
            trouble=self._trouble.data_ptr(),
            alarm=self._alarm.data_ptr(),
            stream=self._stream(),
        )

    @property
    def device(self) -> str:
        """The device of the rows, as torch names it."""
        return str(self.tensor_device)

    @property
    def dtype(self) -> str:
        """The dtype of the weights in memory."""
        return "float32"

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, dim)."""
        rows, dim = self._weights.shape
        return rows, dim

    @property
    def steps(self) -> int:
        """Updates so far; waits where it is not known yet whether the last ones were skipped."""
        if self._native.open_steps:
            self.synchronize()
        return self._native.steps

    @property
    def open_steps(self) -> int:
        """Steps of which it is not known yet whether they were skipped."""
        return self._native.open_steps

    @property
    def skipped_steps(self) -> int:
        """Steps that are known to have been skipped."""
        return self._native.skipped + self._skipped_here

    @property
    def lags(self) -> bool:
        """Whether rows in memory may have missed steps."""
        return self._native.now != 0

    @property
    def is_left_to_capture(self) -> bool:
        """Whether a CUDA graph is being captured, and the memory holds all that is known here."""
        settled = not self.lags and not self._native.alarmed
        return settled and is_captured(self.tensor_device)

    @property
    def nbytes(self) -> int:
        """Bytes of rows, slots and bookkeeping."""
        tensors = (self._weights, *self._slots, self._states, self._clock)
        return sum(tensor.nbytes for tensor in tensors)

    # ------------------------------------------------------------------ ids outside the table

    def synchronize(self) -> None:
        """Wait for the device, and raise what it has found.

        Raises:
            IndexError: an id outside the table; since that call nothing has changed.
        """
        with self._lock:
            self._raise_trouble(self._stream())

    def _raise_trouble(self, stream: int) -> None:
        before = self._native.steps + self._native.skipped
        found = self._native.trouble(stream)
        if found is None:
            return
        if self.on_lost_steps is not None:
            self.on_lost_steps(before - self._native.steps - self._native.skipped)
        call, position, bad = found
        shape = dict(self._shapes).get(call, (position + 1,))
        raise outside(np.broadcast_to(np.int64(bad), shape), position, self.shape[0])

    def _wait_for_an_open_step(self) -> None:
        """Wait until it is known whether the first of the open steps was skipped."""
        waiting = self._native.open_steps
        for _ in range(_PATIENCE):
            self._native.settle()
            if self._native.open_steps < waiting:
                return
            time.sleep(1e-4)
        self.synchronize()  # or there is an error of the device's

    def _stream(self) -> int:
        """Return torch's current stream, after all that earlier calls gave another."""
        refuse_capture(self.tensor_device)
        if self.tensor_device.type != "cuda":
            return 0
        stream = torch.cuda.current_stream(self.tensor_device)
        if self._last_stream is not None and stream != self._last_stream:
            stream.wait_stream(self._last_stream)
        self._last_stream = stream
        return stream.cuda_stream

    @contextmanager
    def _call(self, shape: tuple[int, ...] = (), *, wait: bool = False) -> Iterator[int]:
        """Give the stream for a call; raise what the device has found, first.

        Args:
            shape: of the batch's ids.
            wait: whether all calls before must have been good.
        """
        with self._lock:
            stream = self._stream()
            self._native.settle()
            if wait or self._native.alarmed:
                self._raise_trouble(stream)
            before = self._native.calls
            try:
                yield stream
            finally:
                if shape:
                    for call in range(before + 1, self._native.calls + 1):
                        self._shapes.append((call, shape))

    def frozen(self) -> AbstractContextManager[object]:
        """Return a context in which writers wait, so that a `state` is of one moment."""
        return self._lock

    # ------------------------------------------------------------------ rule and clock

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the rule's slots."""
        return self.rule.slot_names if self.rule else ()

    @property
    def _slot_starts(self) -> tuple[float, ...]:
        return self.rule.slot_starts if self.rule else ()

    @property
    def _has_row_slots(self) -> bool:
        return self.rule is not None and self.rule.slot_dim(2) == 1

    def _slot_index(self, name: str) -> int:
        if name not in self.slot_names:
            raise KeyError(f"no slot {name!r}; {self.rule!r} has {self.slot_names}")
        return self.slot_names.index(name)

    def _new_slots(self, rule: Rule | None) -> list[torch.Tensor]:
        if rule is None:
            return []
        rows, dim = self.shape
        return [
            self._weights.new_full((rows, rule.slot_dim(dim)), start) for start in rule.slot_starts
        ]

    def _load_kernels(self, rule: Rule | None) -> None:
        """Have the kernels of a rule ready, before anything changes.

        Raises:
            RuntimeError: they cannot be had.
        """
        kernel = (rule or rules.SGD()).native()
        if not self._engine.has_kernels(kernel):
            capability = torch.cuda.get_device_capability(self.tensor_device)
            self._engine.load_kernels(kernel, cached_kernels(kernel, capability))

    def _bind(self, rule: Rule | None, slots: list[torch.Tensor], *, slots_pristine: bool) -> None:
        """Hand rule and slots to the kernels; every row is up to date.

        Raises:
            RuntimeError: no kernels, or no memory. Nothing has changed.
        """
        self._load_kernels(rule)
        kernel = rule or rules.SGD()
        size = self._native.clock_bytes_of(FIRST_CAPACITY, **kernel.clock())
        clock = self._clock if self._clock.numel() >= size else self._bytes(size)
        self._native.set_rule(
            kernel.native(),
            [slot.data_ptr() for slot in slots],
            slots_pristine=slots_pristine,
            **kernel.clock(),
        )
        self.rule, self._slots, self._clock = rule, slots, clock
        self._native.place_clock(clock.data_ptr(), FIRST_CAPACITY, self._stream())

    def _place_clock(self, capacity: int) -> None:
        """Lay out the clock's arrays for so many steps, or for those that there are and more."""
        capacity = max(capacity, FIRST_CAPACITY)
        while capacity <= self._native.now and capacity < _native.MOST_STEPS:
            capacity = min(4 * capacity, _native.MOST_STEPS)
        self._clock = self._bytes(self._native.clock_bytes(capacity))
        self._native.place_clock(self._clock.data_ptr(), capacity, self._stream())

    def _bytes(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self.tensor_device)

    def _go_on_with(
        self, weights: torch.Tensor, states: torch.Tensor, slots: list[torch.Tensor]
    ) -> None:
        """Lie over other tensors, all rows of which are up to date, with rule and counts as now."""
        steps, version, skipped = self._native.steps, self.version + 1, self.skipped_row
        pristine, rule, clock = self._native.slots_pristine, self.rule, self._clock
        skipped_steps = self.skipped_steps
        self._begin(weights, states, self._engine)
        self._clock = clock  # large enough, so that nothing can fail now
        self._bind(rule, slots, slots_pristine=pristine)
        self._native.steps, self.version, self.skipped_row = steps, version, skipped
        self._skipped_here = skipped_steps

    def _row_states(self) -> NDArray[np.void]:
        self.synchronize()
        return self._states.cpu().numpy().view(ROW_STATE).reshape(-1)


_alarms: dict[bool, list[torch.Tensor]] = {False: [], True: []}


def _new_alarm(pinned: bool) -> torch.Tensor:
    """Return zeros int32 that a device may write at any time, so that they are never freed."""
    free = _alarms[pinned]
    if not free:
        pieces = torch.zeros(64, _ALARM, dtype=torch.int32, device="cpu", pin_memory=pinned)
        free.extend(pieces.unbind())
    return free.pop()
