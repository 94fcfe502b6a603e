"""Rows in a device's memory, as tensors; read and updated by the device's kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from rowwise import _native
from rowwise._init import Init, fill, fill_rows, given_values
from rowwise.rules import Rule, StepParams
from rowwise.store import BagGradient, Bags, RowGradient, TableState
from rowwise.store._host import check_source_rows, warn_of_full_steps
from rowwise.store._memory import matrix
from rowwise.torch._device._batch import (
    Sorted,
    as_bag_batch,
    as_batch,
    as_sorted_batch,
    give,
)
from rowwise.torch._device._counts import DeviceCounts
from rowwise.torch._device._memory import FIRST_CAPACITY, explaining_room


class DeviceStore(DeviceCounts):
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

    Raises:
        RuntimeError: no kernels for the device.
        torch.OutOfMemoryError: the tensors do not fit.
    """

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
        rows, dim = state.weights.shape
        with explaining_room(rows, dim, state.rule, place):
            states = here(state.row_states.view(np.int32).reshape(-1, 4))
            store._begin(here(state.weights) if weights is None else weights, states, engine)
            slots = [here(slot) for slot in state.slots]
            store._bind(state.rule, slots, slots_pristine=state.slots_pristine)
            store._native.restore(state.step_history)
            store._place_clock(FIRST_CAPACITY)
        store._native.steps = state.steps
        return store

    # ------------------------------------------------------------------ reading

    def gather(self, ids: Any, out: Any) -> None:
        """Read rows ids (...,) into out (..., dim).

        Raises:
            IndexError: an id outside the table; at once where ids are NumPy's.
        """
        batch = self._tensors.ids(ids)
        found = self._tensors.out(out)
        with self._call(tuple(ids.shape)) as stream:
            self._native.gather(as_batch(batch=batch, out=found, n=batch.numel()), stream)
        give(found, out)

    def gather_bags(self, bags: Bags, out: Any) -> None:
        """Read the weighted sum of each bag's rows into out (bags, dim); 0 where it is empty."""
        found = self._tensors.out(out)
        weights = None if bags.weights is None else self._tensors.floats(bags.weights)
        batch, offsets = self._tensors.bags(bags)
        with self._call(tuple(bags.ids.shape)) as stream:
            given = as_bag_batch(batch, offsets, weights=weights, out=found)
            self._native.gather_bags(given, stream)
        give(found, out)

    def gather_bags_max(self, bags: Bags, out: Any, argmax: Any) -> None:
        """Read the largest of each bag's values, and the first position that has it."""
        found, at = self._tensors.out(out), self._tensors.out(argmax)
        batch, offsets = self._tensors.bags(bags)
        with self._call(tuple(bags.ids.shape)) as stream:
            given = as_bag_batch(batch, offsets, out=found, argmax=at)
            self._native.gather_bags_max(given, stream)
        give(found, out)
        give(at, argmax)

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
        batch, _ = self._tensors.bags(bags)
        ids, places = torch.sort(batch, stable=True)
        weights = None if bags.weights is None else self._tensors.floats(bags.weights)[places]
        sources = self._tensors.bag_of(bags)[places]
        return BagGradient(Sorted(batch, ids, sources, weights), values)

    def bag_max_gradient(self, bags: Bags, argmax: Any, values: Any) -> RowGradient:
        """Return the gradient of `gather_bags_max`, for each position of the batch."""
        batch, _ = self._tensors.bags(bags)
        out = self._weights.new_empty(batch.numel(), self.shape[1])
        given = as_batch(
            batch=batch,
            sources=self._tensors.bag_of(bags),
            argmax=self._tensors.tensor(argmax, torch.int64),
            gradients=self._tensors.floats(values),
            out=out,
            n=batch.numel(),
        )
        with self._call() as stream:
            self._native.spread_max(given, stream)
        return RowGradient(batch, out)

    def bag_weight_gradient(self, bags: Bags, values: Any) -> Any:
        """Return the gradient (n,) of the weights of bags whose gradients are values."""
        batch, _ = self._tensors.bags(bags)
        out = self._weights.new_empty(batch.numel())
        given = as_batch(
            batch=batch,
            sources=self._tensors.bag_of(bags),
            gradients=self._tensors.floats(values),
            partials=self._weights.new_empty(batch.numel(), _native.DEVICE_PARTIALS),
            out=out,
            n=batch.numel(),
        )
        with self._call() as stream:
            self._native.bag_weight_gradient(given, stream)
        return out

    def coalesce(self, gradient: RowGradient | BagGradient) -> RowGradient:
        """Return distinct ids, ascending, with the sums of their gradients; waits."""
        ids, first, sums = self._sum_runs(gradient)
        return RowGradient(ids[first], sums[first])  # type: ignore[arg-type]

    def sum_repeated(self, gradient: RowGradient | BagGradient) -> RowGradient:
        """Return ids (n,), ascending, with each id's sum where it first stands, without waiting.

        Where it stands again there is -0, which changes no number that it is added to.
        """
        ids, first, sums = self._sum_runs(gradient)
        repeats = ~first[:, None]
        return RowGradient(ids, sums.masked_fill_(repeats, -0.0))  # type: ignore[arg-type]

    def _sum_runs(
        self, gradient: RowGradient | BagGradient
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ids (n,), ascending, where each stands first, and there (n, dim) its sum."""
        batch, values = self._sorted(gradient)
        n, dim = batch.ids.numel(), self.shape[1]
        sums = self._weights.new_empty(n, dim)
        blocks = self._blocks(n)
        with self._call() as stream:
            self._native.sum_runs(as_sorted_batch(batch, values, blocks, out=sums), stream)
        first = torch.ones(n, dtype=torch.bool, device=self.tensor_device)
        first[1:] = batch.ids[1:] != batch.ids[:-1]
        return batch.ids, first, sums

    def _sorted(self, gradient: RowGradient | BagGradient) -> tuple[Sorted, torch.Tensor]:
        """Return the batch of a gradient by ascending id, and its values (n or bags, dim)."""
        values = self._tensors.floats(gradient.values)
        if isinstance(gradient, BagGradient):
            return gradient.plan, values
        batch = self._tensors.ids(gradient.ids)
        ids, places = torch.sort(batch, stable=True)
        return Sorted(batch, ids, places), values

    def dense_gradient(self, values: torch.Tensor) -> BagGradient:
        """Return the gradient of those rows of values (rows, dim) that are not zero; no wait."""
        given = self._tensors.floats(values)
        rows = self.shape[0]
        touched = (given != 0).any(dim=1)
        # The touched ids come first, and `rows` fills the rest; what comes last is left out.
        places = (touched.cumsum(0) - 1).masked_fill_(~touched, rows)
        ids = torch.full((rows + 1,), rows, device=self.tensor_device)
        ids = ids.scatter_(0, places, torch.arange(rows, device=self.tensor_device))[:rows]
        sources = ids.masked_fill(ids == rows, -1)
        return BagGradient(Sorted(ids, ids, sources, is_distinct=True), given)

    def _blocks(self, n: int) -> torch.Tensor | None:
        if n <= _native.DEVICE_BLOCK:
            return None
        return self._weights.new_empty(2 * (n // _native.DEVICE_BLOCK + 1), self.shape[1])

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
        else:
            self.apply_unread(gradient, lambda skipped: step)

    def apply_unread(
        self,
        gradient: RowGradient | BagGradient,
        step: Callable[[int], StepParams],
        *,
        others: torch.Tensor | None = None,
        found_inf: torch.Tensor | None = None,
    ) -> None:
        """Make a step of which the device knows what the host does not.

        Args:
            gradient: see `apply`.
            step: called for its numbers if 0, 1, ... of the present `open_steps` are skipped.
            others: () NaN, if that is the gradient of all rows but the batch's, else a number.
            found_inf: () not 0 if the step is to be skipped, of which the host hears later.

        Raises:
            IndexError: an id outside the table; at once where ids are NumPy's.
        """
        batch, values = self._sorted(gradient)
        n = batch.ids.numel()
        blocks, partials = None if batch.is_distinct else self._blocks(n), None
        if self._has_row_slots:
            partials = self._weights.new_empty(n, _native.DEVICE_PARTIALS)
        shape = tuple(gradient.ids.shape) if isinstance(gradient, RowGradient) else (n,)
        with self._lock:
            stays_lazy = self.rule is not None and self.rule.supports_lazy
            restarts = self._native.restarts(_native.StepParams(1, *step(0)))
            if found_inf is not None and (restarts or not stays_lazy):
                if found_inf:
                    self._skipped_here += 1
                    return
                found_inf = None
            if self._native.open_steps == _native.DEVICE_OPEN_STEPS:
                self._wait_for_an_open_step()
            full = self._native.is_full
            with self._call(shape, wait=full or restarts) as stream:
                if full and not restarts:
                    self._place_clock(min(4 * self._native.capacity, _native.MOST_STEPS))
                given = as_sorted_batch(
                    batch,
                    values,
                    blocks,
                    partials=partials,
                    skipped_row=self.shape[0] if batch.is_distinct else self.skipped_row,
                    others=None if others is None else self._tensors.floats(others),
                    found_inf=None if found_inf is None else self._tensors.floats(found_inf),
                )
                number = self._native.steps + 1
                choices = [
                    _native.StepParams(number - skipped, *step(skipped))
                    for skipped in range(self._native.open_steps + 1)
                ]
                self._native.update(given, choices, stream)
                if not stays_lazy:
                    self._native.materialize_all(stream)
                self.version += 1

    def _apply_excluding(
        self, gradient: RowGradient | BagGradient, step: StepParams, row: int
    ) -> None:
        """Make a step that leaves one row as it was, and uncounted."""
        if isinstance(gradient, BagGradient):
            gradient = self.sum_repeated(gradient)
        batch, given = self._tensors.ids(gradient.ids), self._tensors.floats(gradient.values)
        # With a gradient of zero the row is brought up to date, and never lags behind.
        only = torch.full((1,), row, device=self.tensor_device)
        ids: Any = torch.cat([batch, only])
        zeros = self._weights.new_zeros(1, self.shape[1])
        values: Any = torch.cat([given, zeros]).masked_fill_((ids == row)[:, None], 0.0)
        before = self._weights.new_empty(1, self.shape[1])
        with self._lock:
            self.gather(only, before)
            counts = self._states[row, 1:].clone()
            self.apply(RowGradient(ids, values), step)
            self.overwrite(only, before)  # unless an error takes the step back
            self._states[row, 1:] = counts

    def renew(self, ids: Any, starts: Any) -> None:
        """Start rows ids (n,) anew with weights starts (n, dim), fresh slots and no updates.

        Raises:
            IndexError: an id outside the table; nothing has changed.
        """
        rows = self._tensors.checked(ids)
        with self._call(wait=True):
            self._weights[rows] = self._tensors.floats(starts).reshape(-1, self.shape[1])
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
        batch = self._tensors.ids(ids)
        ordered, _ = torch.sort(batch, stable=True)
        with self._call(tuple(ids.shape)) as stream:
            given = as_batch(batch=batch, ids=ordered, n=batch.numel())
            self._native.materialize(given, stream)

    def overwrite(self, ids: torch.Tensor, values: torch.Tensor) -> None:
        """Set rows ids (n,) to values (n, dim), without waiting; an id's values are all the same.

        Raises:
            IndexError: an id outside the table; late.
        """
        batch, given = self._sorted(RowGradient(ids, values))  # type: ignore[arg-type]
        with self._call(tuple(ids.shape)) as stream:
            self._native.write_rows(as_sorted_batch(batch, given, None), stream)
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
        rows = slice(None) if ids is None else self._tensors.checked(ids)
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
        torch.OutOfMemoryError: nor room for its slots.
        """
        names = rule.slot_names if rule else ()
        shapes = [(self.shape[0], rule.slot_dim(self.shape[1])) for _ in names] if rule else []
        mine = [tuple(slot.shape) for slot in self._slots]
        if keep_state and (names, shapes) != (self.slot_names, mine):
            raise ValueError(
                f"{rule!r} has slots {names} of shapes {shapes}, "
                f"the table {self.slot_names} of {mine}"
            )
        warn_of_full_steps(rule if rule != self.rule else None, stacklevel=4)
        self._load_kernels(rule)
        with (
            explaining_room(*self.shape, rule, self.tensor_device),
            self._call(wait=True) as stream,
        ):
            slots = self._slots if keep_state else self._new_slots(rule)
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
        to, source = self._tensors.copied(kept), self._tensors.copied(old)
        with self._call(wait=True) as stream:
            self._native.materialize_all(stream)
            weights = self._weights.new_empty(rows, dim)
            weights[self._tensors.copied(new)] = self._tensors.copied(starts)
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

    # ------------------------------------------------------------------ all of it

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
