"""Rows in a device's memory, as tensors; read and updated by the device's kernels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from rowwise import _native, rules
from rowwise._ids import check_range, outside
from rowwise._init import Init, fill, fill_rows, given_values
from rowwise.rules import Rule, StepParams
from rowwise.store import BagGradient, Bags, RowGradient, TableState
from rowwise.store._host import check_source_rows
from rowwise.store._locks import new_lock
from rowwise.store._memory import ROW_STATE, matrix
from rowwise.torch._device._engine import engine_of
from rowwise.torch._device._kernels import cached_kernels

_MARKED = -1  # in a row's state, as its last update: none, but its values came from elsewhere
_FIRST_CAPACITY = 1 << 10  # steps that a new clock has room for
_CAPTURED = (
    "a table on a GPU cannot be called while a CUDA graph is captured: a step's numbers come from "
    "the host, and a replay would repeat those; leave the embedding and its optimizer's step out "
    "of the graph"
)
_REMEMBERED = 1 << 12  # calls whose batches' shapes are known to an error


@dataclass(frozen=True)
class _Sorted:
    """A batch by ascending id: its ids as given and sorted, and the gradient of each."""

    batch: torch.Tensor
    ids: torch.Tensor
    sources: torch.Tensor
    weights: torch.Tensor | None = None


class DeviceStore:
    """Rows, slots and row states as tensors of one device; see `RowStore` for the methods.

    Arrays may be NumPy's or tensors of the device. With tensors no call waits for the device. An
    id outside the table then raises late: the call that met it, and all that came after, have
    changed nothing, and the next call after it shows raises the IndexError, or `synchronize` does.

    Calls happen in the order of torch's current streams. One thread at a time may call.

    Args:
        rows, dim: shape of the table.
        rule: the update rule, or None.
        init, seed: what the rows start with, see `rowwise.Table`.
        device: where the tensors lie.
        engine: what runs the kernels; the device's own unless given.

    Attributes:
        on_lost_steps: called, before a late error is raised, with how many steps it takes back.

    Raises:
        RuntimeError: no kernels for the device.
        torch.OutOfMemoryError: the tensors do not fit.
    """

    on_lost_steps: Callable[[int], None] | None

    def __init__(
        self,
        rows: int,
        dim: int,
        rule: Rule | None = None,
        *,
        init: Init = "zeros",
        seed: int | None = None,
        device: torch.device | str = "cuda",
        engine: _native.Engine | None = None,
    ) -> None:
        values = matrix(rows, dim)
        fill(values, init, seed)
        place = torch.device(device)
        states = torch.zeros(rows, 4, dtype=torch.int32, device=place)
        self._begin(torch.from_numpy(values).to(place), states, engine)
        self._bind(rule, self._new_slots(rule), slots_pristine=True)

    @classmethod
    def over(cls, weights: torch.Tensor, engine: _native.Engine | None = None) -> Self:
        """Make the store of a tensor's rows (rows, dim) float32, in the tensor's own memory."""
        store = cls.__new__(cls)
        states = torch.zeros(len(weights), 4, dtype=torch.int32, device=weights.device)
        store._begin(weights.detach().contiguous(), states, engine)
        store._bind(None, [], slots_pristine=True)
        return store

    @classmethod
    def from_state(
        cls,
        state: TableState,
        device: torch.device | str,
        engine: _native.Engine | None = None,
        weights: torch.Tensor | None = None,
    ) -> Self:
        """Make the store of a state, whose arrays are copied to the device.

        Args:
            state: of any store.
            device, engine: see the class.
            weights: a tensor of the device with the state's weights, to be the store's own.

        Raises:
            ValueError: parts that do not fit each other.
        """
        state.check()
        place = torch.device(device)

        def here(array: NDArray[Any]) -> torch.Tensor:
            return torch.tensor(np.ascontiguousarray(array), device=place)

        store = cls.__new__(cls)
        states = here(state.row_states.view(np.int32).reshape(-1, 4))
        store._begin(here(state.weights) if weights is None else weights, states, engine)
        slots = [here(slot) for slot in state.slots]
        store._bind(state.rule, slots, slots_pristine=state.slots_pristine)
        store._native.restore(state.step_history)
        store._place_clock(_FIRST_CAPACITY)
        store._native.steps = state.steps
        return store

    def _begin(
        self, weights: torch.Tensor, states: torch.Tensor, engine: _native.Engine | None
    ) -> None:
        self.tensor_device = weights.device
        self._engine = engine_of(weights.device) if engine is None else engine
        self._weights, self._states = weights, states
        self._trouble = torch.zeros(5, dtype=torch.int64, device=weights.device)
        self._alarm = _new_alarm(weights.device.type == "cuda")
        self._lock = new_lock()
        self._last_stream: Any = None
        self.on_lost_steps = None
        self._shapes: deque[tuple[int, tuple[int, ...]]] = deque(maxlen=_REMEMBERED)
        self._slots: list[torch.Tensor] = []
        self._clock = torch.empty(0, dtype=torch.uint8)
        self.rule: Rule | None = None
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
        """Updates so far."""
        return self._native.steps

    @property
    def lags(self) -> bool:
        """Whether rows in memory may have missed steps."""
        return self._native.now != 0

    @property
    def skipped_row(self) -> int | None:
        """A row that `apply` leaves out of gradients by row."""
        row = self._native.skipped_row
        return None if row < 0 else row

    @skipped_row.setter
    def skipped_row(self, row: int | None) -> None:
        self._native.skipped_row = -1 if row is None else row

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
        before = self.steps
        found = self._native.trouble(stream)
        if found is None:
            return
        if self.on_lost_steps is not None:
            self.on_lost_steps(before - self.steps)
        call, position, bad = found
        shape = dict(self._shapes).get(call, (position + 1,))
        raise outside(np.broadcast_to(np.int64(bad), shape), position, self.shape[0])

    def _stream(self) -> int:
        """Return torch's current stream, after all that earlier calls gave another."""
        if self.tensor_device.type != "cuda":
            return 0
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(_CAPTURED)
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
            if wait or self._native.alarmed:
                self._raise_trouble(stream)
            before = self._native.calls
            try:
                yield stream
            finally:
                if shape:
                    for call in range(before + 1, self._native.calls + 1):
                        self._shapes.append((call, shape))

    # ------------------------------------------------------------------ reading

    def gather(self, ids: Any, out: Any) -> None:
        """Read rows ids (...,) into out (..., dim).

        Raises:
            IndexError: an id outside the table; at once where ids are NumPy's.
        """
        batch = self._ids(ids)
        found = self._out(out)
        with self._call(tuple(ids.shape)) as stream:
            self._native.gather(_batch(batch=batch, out=found, n=batch.numel()), stream)
        self._give(found, out)

    def gather_bags(self, bags: Bags, out: Any) -> None:
        """Read the weighted sum of each bag's rows into out (bags, dim); 0 where it is empty."""
        found = self._out(out)
        weights = None if bags.weights is None else self._floats(bags.weights)
        batch, offsets = self._bags(bags)
        with self._call(tuple(bags.ids.shape)) as stream:
            given = _bag_batch(batch, offsets, weights=weights, out=found)
            self._native.gather_bags(given, stream)
        self._give(found, out)

    def gather_bags_max(self, bags: Bags, out: Any, argmax: Any) -> None:
        """Read the largest of each bag's values, and the first position that has it."""
        found, at = self._out(out), self._out(argmax)
        batch, offsets = self._bags(bags)
        with self._call(tuple(bags.ids.shape)) as stream:
            given = _bag_batch(batch, offsets, out=found, argmax=at)
            self._native.gather_bags_max(given, stream)
        self._give(found, out)
        self._give(at, argmax)

    def prefetch(self, ids: Any) -> None:
        """Do nothing: all rows are in the device's memory."""

    def read_slot(self, name: str) -> NDArray[np.float32]:
        """Return the present values of a slot, (rows, dim) or (rows, 1), a fresh array.

        Raises:
            KeyError: the rule has no such slot.
        """
        index = self._slot_index(name)
        values = torch.empty_like(self._slots[index])
        with self._call(wait=True) as stream:
            self._native.read_slot(index, values.data_ptr(), stream)
        return values.cpu().numpy()

    # ------------------------------------------------------------------ gradients

    def bag_gradient(self, bags: Bags, values: Any) -> BagGradient:
        """Return the gradient of bags; its batch is sorted, the values are the caller's."""
        batch, _ = self._bags(bags)
        ids, places = torch.sort(batch, stable=True)
        weights = None if bags.weights is None else self._floats(bags.weights)[places]
        sources = self._bag_of(bags)[places]
        return BagGradient(_Sorted(batch, ids, sources, weights), values)

    def bag_max_gradient(self, bags: Bags, argmax: Any, values: Any) -> RowGradient:
        """Return the gradient of `gather_bags_max`, for each position of the batch."""
        batch, _ = self._bags(bags)
        out = self._weights.new_empty(batch.numel(), self.shape[1])
        given = _batch(
            batch=batch,
            sources=self._bag_of(bags),
            argmax=self._tensor(argmax, torch.int64),
            gradients=self._floats(values),
            out=out,
            n=batch.numel(),
        )
        with self._call() as stream:
            self._native.spread_max(given, stream)
        return RowGradient(batch, out)

    def bag_weight_gradient(self, bags: Bags, values: Any) -> Any:
        """Return the gradient (n,) of the weights of bags whose gradients are values."""
        batch, _ = self._bags(bags)
        out = self._weights.new_empty(batch.numel())
        given = _batch(
            batch=batch,
            sources=self._bag_of(bags),
            gradients=self._floats(values),
            partials=self._weights.new_empty(batch.numel(), _native.DEVICE_PARTIALS),
            out=out,
            n=batch.numel(),
        )
        with self._call() as stream:
            self._native.bag_weight_gradient(given, stream)
        return out

    def coalesce(self, gradient: RowGradient | BagGradient) -> RowGradient:
        """Return distinct ids, ascending, with the sums of their gradients; waits."""
        batch, values = self._sorted(gradient)
        n, dim = batch.ids.numel(), self.shape[1]
        out = self._weights.new_empty(n, dim)
        blocks = self._blocks(n)
        with self._call() as stream:
            self._native.sum_runs(_sorted_batch(batch, values, blocks, out=out), stream)
        first = torch.ones(n, dtype=torch.bool, device=self.tensor_device)
        first[1:] = batch.ids[1:] != batch.ids[:-1]
        return RowGradient(batch.ids[first], out[first])  # type: ignore[arg-type]

    # ------------------------------------------------------------------ writing

    def apply(
        self,
        gradient: RowGradient | BagGradient,
        step: StepParams,
        frozen_row: int | None = None,
    ) -> None:
        """Make one step of the rule over all rows, at the cost of the batch's rows.

        Raises:
            IndexError: an id outside the table; at once where ids are NumPy's.
        """
        if frozen_row is not None:
            self._apply_excluding(gradient, step, frozen_row)
            return
        batch, values = self._sorted(gradient)
        n = batch.ids.numel()
        blocks, partials = self._blocks(n), None
        if self._has_row_slots:
            partials = self._weights.new_empty(n, _native.DEVICE_PARTIALS)
        shape = tuple(gradient.ids.shape) if isinstance(gradient, RowGradient) else (n,)
        params = _native.StepParams(self.steps + 1, *step)
        full, restarts = self._native.is_full, self._native.restarts(params)
        with self._call(shape, wait=full or restarts) as stream:
            if full and not restarts:
                self._place_clock(min(4 * self._native.capacity, _native.MOST_STEPS))
            given = _sorted_batch(batch, values, blocks, partials=partials)
            self._native.update(given, params, stream)
            if self.rule is None or not self.rule.supports_lazy:
                self._native.materialize_all(stream)
            self.version += 1

    def _apply_excluding(
        self, gradient: RowGradient | BagGradient, step: StepParams, row: int
    ) -> None:
        """Make a step that leaves one row as it was, and uncounted."""
        summed = self.coalesce(gradient)
        moving = summed.ids != row
        # With a gradient of zero the row is brought up to date, and never lags behind.
        only = torch.tensor([row], device=self.tensor_device)
        ids = torch.cat([summed.ids[moving], only])  # type: ignore[list-item]
        zeros = self._weights.new_zeros(1, self.shape[1])
        values = torch.cat([summed.values[moving], zeros])  # type: ignore[list-item]
        before = self._weights.new_empty(1, self.shape[1])
        with self._lock:
            self.gather(only, before)
            counts = self._states[row, 1:].clone()
            self.apply(RowGradient(ids, values), step)  # type: ignore[arg-type]
            self.overwrite(only, before)  # unless an error takes the step back
            self._states[row, 1:] = counts

    def renew(self, ids: Any, starts: Any) -> None:
        """Start rows ids (n,) anew with weights starts (n, dim), fresh slots and no updates.

        Raises:
            IndexError: an id outside the table; nothing has changed.
        """
        rows = self._checked(ids)
        with self._call(wait=True):
            self._weights[rows] = self._floats(starts).reshape(-1, self.shape[1])
            for slot, start in zip(self._slots, self._slot_starts, strict=True):
                slot[rows] = start
            fresh = [self._native.now, 0, 0, 0]
            self._states[rows] = torch.tensor(fresh, dtype=torch.int32, device=self.tensor_device)
            self.version += 1

    def materialize(self, ids: Any = None) -> None:
        """Bring rows up to date in place; no value changes beyond rounding.

        Raises:
            IndexError: an id outside the table; nothing has changed.
        """
        if ids is None:
            with self._call(wait=True) as stream:
                self._native.materialize_all(stream)
            return
        batch = self._ids(ids)
        ordered, _ = torch.sort(batch, stable=True)
        with self._call(tuple(ids.shape)) as stream:
            given = _batch(batch=batch, ids=ordered, n=batch.numel())
            self._native.materialize(given, stream)

    def overwrite(self, ids: torch.Tensor, values: torch.Tensor) -> None:
        """Set rows ids (n,) to values (n, dim), without waiting; an id's values are all the same.

        Raises:
            IndexError: an id outside the table; late.
        """
        batch, given = self._sorted(RowGradient(ids, values))  # type: ignore[arg-type]
        with self._call(tuple(ids.shape)) as stream:
            self._native.write_rows(_sorted_batch(batch, given, None), stream)
            self.version += 1

    def write(self, values: Any, ids: Any = None) -> None:
        """Set rows to values (n, dim): those of distinct ids (n,), or all."""
        self._set(self._weights, values, ids)

    def write_slot(self, name: str, values: Any, ids: Any = None) -> None:
        """Set a slot of rows to values (n, dim) or (n, 1): those of distinct ids (n,), or all.

        Raises:
            KeyError: the rule has no such slot.
        """
        slot = self._slots[self._slot_index(name)]
        with self._lock:
            self._set(slot, values, ids)
            self._native.slots_pristine = False

    def _set(self, tensor: torch.Tensor, values: Any, ids: Any) -> None:
        rows = slice(None) if ids is None else self._checked(ids)
        given = values if isinstance(values, torch.Tensor) else torch.tensor(values)
        given = given.to(self.tensor_device, torch.float32)
        with self._lock:
            self.synchronize()  # no write comes after a call that an error takes back
            self.materialize(ids)
            tensor[rows] = given
            self.version += 1

    def set_rule(self, rule: Rule | None, *, keep_state: bool = False) -> None:
        """Step by another rule from now on; see `HostStore.set_rule`.

        Raises:
            ValueError: keep_state, and the rule has other slots.
            RuntimeError: its kernels cannot be had. Nothing has changed.
        """
        names = rule.slot_names if rule else ()
        shapes = [(self.shape[0], rule.slot_dim(self.shape[1])) for _ in names] if rule else []
        mine = [tuple(slot.shape) for slot in self._slots]
        if keep_state and (names, shapes) != (self.slot_names, mine):
            raise ValueError(
                f"{rule!r} has slots {names} of shapes {shapes}, "
                f"the table {self.slot_names} of {mine}"
            )
        self._load_kernels(rule)
        slots = self._slots if keep_state else self._new_slots(rule)
        with self._call(wait=True) as stream:
            self._native.materialize_all(stream)
            pristine = not keep_state or self._native.slots_pristine
            self._bind(rule, slots, slots_pristine=pristine)
            self.version += 1

    def remap(self, source_rows: NDArray[np.int64], init: Init, seed: int | None) -> None:
        """Make row i what row source_rows[i] was, with slots and counts; -1 makes a new row.

        The tensors are new ones. See `rowwise.Table.remap` for arguments and errors.
        """
        kept, old = check_source_rows(source_rows, self.shape[0])
        rows, dim = len(source_rows), self.shape[1]
        new = np.flatnonzero(source_rows == -1)
        starts = matrix(len(new), dim) if len(new) else np.empty((0, dim), np.float32)
        if isinstance(init, str):
            if len(new):
                fill_rows(starts, init, seed, new)
        else:
            starts[:] = given_values(init, (rows, dim))[new]
        to, source = self._move(kept), self._move(old)
        with self._call(wait=True) as stream:
            self._native.materialize_all(stream)
            weights = self._weights.new_empty(rows, dim)
            weights[self._move(new)] = self._move(starts)
            states = self._states.new_zeros(rows, 4)
            slots = [
                slot.new_full((rows, slot.shape[1]), start)
                for slot, start in zip(self._slots, self._slot_starts, strict=True)
            ]
            pairs = zip(
                [weights, states, *slots], [self._weights, self._states, *self._slots], strict=True
            )
            for theirs, mine in pairs:
                theirs[to] = mine[source]
            self._go_on_with(weights, states, slots)

    def check_room(self, rows: int) -> None:
        """Do nothing: torch says whether the device has room."""

    # ------------------------------------------------------------------ frameworks' own writes

    def memory(self, slot: str | None = None) -> torch.Tensor:
        """Return the live tensor of the weights or of a slot; see `HostStore.memory`."""
        return self._weights if slot is None else self._slots[self._slot_index(slot)]

    def begin_external_write(self, slot: str | None = None) -> None:
        """Bring all rows up to date, and record that the caller may now write to the memory."""
        with self._call(wait=True) as stream:
            self._native.materialize_all(stream)
            self.version += 1
            if slot is not None:
                self._native.slots_pristine = False

    def use_memory(self, weights: torch.Tensor) -> None:
        """Take a tensor (rows, dim) of the device as the rows, with the values in it."""
        with self._call(wait=True) as stream:
            self._native.materialize_all(stream)
            self._go_on_with(weights, self._states, self._slots)

    def record_external_step(self, ids: Any) -> None:
        """Count a step that the caller made on the memory, with gradients for rows ids."""
        touched = self._checked(ids).unique()
        with self._call(wait=True):
            self._native.steps += 1
            counts = self._states[touched, 1]
            self._states[touched, 1] = counts + (counts != -1)  # as unsigned: the largest stays
            self._states.view(torch.int64)[touched, 1] = self.steps

    # ------------------------------------------------------------------ bookkeeping

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the rule's slots."""
        return self.rule.slot_names if self.rule else ()

    @property
    def update_counts(self) -> NDArray[np.uint32]:
        """(rows,) how many updates touched each row."""
        return self._row_states()["update_count"].copy()

    @property
    def last_update(self) -> NDArray[np.int64]:
        """(rows,) number of the last update that touched each row, counted from 1; 0: none."""
        return np.maximum(self._row_states()["last_update"], 0)

    def is_trained(self, ids: Any = None) -> NDArray[np.bool_]:
        """Return whether rows were updated or marked as trained.

        Raises:
            IndexError: an id outside the table.
        """
        if ids is None:
            states = self._row_states()
        else:
            rows = self._checked(ids)
            self.synchronize()
            found = self._states[rows].cpu().numpy()
            states = found.view(ROW_STATE).reshape(tuple(ids.shape))
        return (states["update_count"] > 0) | (states["last_update"] == _MARKED)

    def mark_trained(self, ids: Any = None) -> None:
        """Record that rows hold values worth reading that no update brought.

        Raises:
            IndexError: an id outside the table.
        """
        everything = torch.arange(self.shape[0], device=self.tensor_device)
        rows = everything if ids is None else self._checked(ids)
        with self._call(wait=True):
            states = self._states[rows]
            marked = torch.where(states[:, 1:2] == 0, _MARKED, states[:, 2:])
            self._states[rows] = torch.cat([states[:, :2], marked], dim=1)
            self.version += 1

    def counts(self) -> dict[str, NDArray[Any]]:
        """Return how often and when rows were updated; see `HostStore.counts`."""
        states = self._row_states()
        return {
            "steps": np.array(self.steps),
            "update_counts": states["update_count"].copy(),
            "last_update": states["last_update"].copy(),
        }

    def load_counts(
        self, steps: NDArray[Any], update_counts: NDArray[Any], last_update: NDArray[Any]
    ) -> None:
        """Restore what `counts` returned.

        Raises:
            ValueError: the counts are of another number of rows.
        """
        rows, _ = self.shape
        if update_counts.shape != (rows,) or last_update.shape != (rows,):
            raise ValueError(f"counts of {update_counts.shape} rows for a table of {rows}")
        with self._call(wait=True) as stream:
            self._native.materialize_all(stream)
            self._native.slots_pristine = False  # which the kernels read off the counts
            states = self._row_states().copy()
            states["update_count"], states["last_update"] = update_counts, last_update
            self._states.copy_(self._move(states.view(np.int32).reshape(-1, 4)))
            self._native.steps = int(steps)

    def state(self) -> TableState:
        """Return all that the store holds, copied to the host."""
        self.synchronize()
        return TableState(
            weights=self._weights.detach().cpu().numpy(),
            slots=[slot.detach().cpu().numpy() for slot in self._slots],
            row_states=self._row_states(),
            step_history=self._native.step_history(),
            steps=self.steps,
            rule=self.rule,
            slots_pristine=self._native.slots_pristine,
        )

    def frozen(self) -> AbstractContextManager[object]:
        """Return a context in which writers wait, so that a `state` is of one moment."""
        return self._lock

    # ------------------------------------------------------------------ inner parts

    def _go_on_with(
        self, weights: torch.Tensor, states: torch.Tensor, slots: list[torch.Tensor]
    ) -> None:
        """Lie over other tensors, all rows of which are up to date, with rule and counts as now."""
        steps, version, skipped = self.steps, self.version + 1, self.skipped_row
        pristine, rule, clock = self._native.slots_pristine, self.rule, self._clock
        self._begin(weights, states, self._engine)
        self._clock = clock  # large enough, so that nothing can fail now
        self._bind(rule, slots, slots_pristine=pristine)
        self._native.steps, self.version, self.skipped_row = steps, version, skipped

    @property
    def _slot_starts(self) -> tuple[float, ...]:
        return self.rule.slot_starts if self.rule else ()

    @property
    def _has_row_slots(self) -> bool:
        return self.rule is not None and self.rule.slot_dim(2) == 1

    def _row_states(self) -> NDArray[np.void]:
        self.synchronize()
        return self._states.cpu().numpy().view(ROW_STATE).reshape(-1)

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
        size = self._native.clock_bytes_of(_FIRST_CAPACITY, **kernel.clock())
        clock = self._clock if self._clock.numel() >= size else self._bytes(size)
        self._native.set_rule(
            kernel.native(),
            [slot.data_ptr() for slot in slots],
            slots_pristine=slots_pristine,
            **kernel.clock(),
        )
        self.rule, self._slots, self._clock = rule, slots, clock
        self._native.place_clock(clock.data_ptr(), _FIRST_CAPACITY, self._stream())

    def _place_clock(self, capacity: int) -> None:
        """Lay out the clock's arrays for so many steps, or for those that there are and more."""
        capacity = max(capacity, _FIRST_CAPACITY)
        while capacity <= self._native.now and capacity < _native.MOST_STEPS:
            capacity = min(4 * capacity, _native.MOST_STEPS)
        self._clock = self._bytes(self._native.clock_bytes(capacity))
        self._native.place_clock(self._clock.data_ptr(), capacity, self._stream())

    def _bytes(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self.tensor_device)

    def _sorted(self, gradient: RowGradient | BagGradient) -> tuple[_Sorted, torch.Tensor]:
        """Return the batch of a gradient by ascending id, and its values (n or bags, dim)."""
        values = self._floats(gradient.values)
        if isinstance(gradient, BagGradient):
            return gradient.plan, values
        batch = self._ids(gradient.ids)
        ids, places = torch.sort(batch, stable=True)
        return _Sorted(batch, ids, places), values

    def _blocks(self, n: int) -> torch.Tensor | None:
        if n <= _native.DEVICE_BLOCK:
            return None
        return self._weights.new_empty(2 * (n // _native.DEVICE_BLOCK + 1), self.shape[1])

    def _ids(self, ids: Any) -> torch.Tensor:
        """Return ids as a tensor (n,) of the device; those of NumPy are checked."""
        if isinstance(ids, np.ndarray):
            check_range(ids, self.shape[0])
        return self._tensor(ids, torch.int64).reshape(-1)

    def _checked(self, ids: Any) -> torch.Tensor:
        """Return ids as a tensor (n,) of the device, all of them rows; waits for the device."""
        host = ids.cpu().numpy() if isinstance(ids, torch.Tensor) else ids
        return self._ids(host)

    def _bags(self, bags: Bags) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids (n,) and offsets (bags + 1,) of the device, checked for the kernels."""
        batch, offsets = self._ids(bags.ids), self._tensor(bags.offsets, torch.int64)
        if isinstance(bags.offsets, np.ndarray):
            _native.check_offsets(bags.offsets, batch.numel())
            return batch, offsets
        return batch, offsets.clamp(0, batch.numel()).cummax(0).values

    def _bag_of(self, bags: Bags) -> torch.Tensor:
        """Return the bag (n,) of each position; -1 for one that is in none."""
        batch, offsets = self._bags(bags)
        positions = torch.arange(batch.numel(), device=self.tensor_device)
        found = torch.searchsorted(offsets, positions, right=True) - 1  # -1 before the first
        return found.masked_fill_(found == offsets.numel() - 1, -1)

    def _floats(self, values: Any) -> torch.Tensor:
        return self._tensor(values, torch.float32)

    def _tensor(self, values: Any, dtype: torch.dtype) -> torch.Tensor:
        """Return values as a contiguous tensor of the device.

        Raises:
            ValueError: a tensor of another device.
        """
        if not isinstance(values, torch.Tensor):
            return torch.from_numpy(values).to(self.tensor_device, dtype).contiguous()
        if values.device != self.tensor_device:
            raise ValueError(
                f"the table is on {self.tensor_device} and a tensor of the batch on "
                f"{values.device}; nothing has changed; move the batch: ids.to("
                f"'{self.tensor_device}')"
            )
        return values.detach().to(dtype).contiguous()

    def _move(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.tensor_device)

    def _out(self, out: Any) -> torch.Tensor:
        """Return where kernels write: out itself, or a tensor in its stead."""
        if isinstance(out, torch.Tensor):
            return out
        kind = torch.int64 if out.dtype == np.int64 else torch.float32
        return torch.empty(out.shape, dtype=kind, device=self.tensor_device)

    def _give(self, found: torch.Tensor, out: Any) -> None:
        if found is not out:
            out[...] = found.cpu().numpy()

    def _slot_index(self, name: str) -> int:
        if name not in self.slot_names:
            raise KeyError(f"no slot {name!r}; {self.rule!r} has {self.slot_names}")
        return self.slot_names.index(name)


_alarms: dict[bool, list[torch.Tensor]] = {False: [], True: []}


def _new_alarm(pinned: bool) -> torch.Tensor:
    """Return a zero (1,) int32 that a device may write at any time, so that it is never freed."""
    free = _alarms[pinned]
    if not free:
        free.extend(torch.zeros(1024, dtype=torch.int32, device="cpu", pin_memory=pinned).split(1))
    return free.pop()


def _batch(*, n: int, bags: int = 0, **tensors: torch.Tensor | None) -> _native.DeviceBatch:
    """Return a batch as the kernels read it; it keeps the tensors alive."""
    batch: Any = _native.DeviceBatch()
    batch.arrays = tensors
    batch.n, batch.bags = n, bags
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(batch, name, tensor.data_ptr())
    return batch


def _bag_batch(
    batch: torch.Tensor, offsets: torch.Tensor, **tensors: torch.Tensor | None
) -> _native.DeviceBatch:
    n, bags = batch.numel(), offsets.numel() - 1
    return _batch(n=n, bags=bags, batch=batch, offsets=offsets, **tensors)


def _sorted_batch(
    batch: _Sorted,
    values: torch.Tensor,
    blocks: torch.Tensor | None,
    *,
    partials: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> _native.DeviceBatch:
    return _batch(
        n=batch.ids.numel(),
        batch=batch.batch,
        ids=batch.ids,
        sources=batch.sources,
        weights=batch.weights,
        gradients=values,
        blocks=blocks,
        partials=partials,
        out=out,
    )
