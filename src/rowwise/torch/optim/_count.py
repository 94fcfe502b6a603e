"""How many steps an optimizer's state counts, without waiting for a device to tell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from rowwise.store import RowStore
from rowwise.torch._device import DeviceStore
from rowwise.torch._rules import next_iteration
from rowwise.torch._weight import Weight


@dataclass(frozen=True)
class Count:
    """Know how many steps an optimizer's state counts, where to read that waits for a device.

    Attributes:
        made: steps, the open ones counted as made.
        tensor, version: of the count in the state, when it had this number; None: there is none.
        store: of the weight's table.
        skipped: the steps that the store knew to be skipped, then.
    """

    made: int
    tensor: torch.Tensor | None
    version: int
    store: RowStore
    skipped: int

    @classmethod
    def of(cls, weight: Weight, state: dict[str, Any]) -> Count:
        """Return the count in a state; waits where somebody else has changed one on a device."""
        store, tensor, known = weight.table.store, state.get("step"), weight.counted
        if tensor is None or not isinstance(store, DeviceStore):
            return cls(next_iteration(state) - 1, tensor, -1, store, 0)
        on_device = tensor.device == store.tensor_device
        if on_device and known is not None and known.is_of(store, tensor):
            return known  # type: ignore[no-any-return]
        if store.open_steps:
            store.synchronize()
        return cls(next_iteration(state) - 1, tensor, -1, store, store.skipped_steps)

    def is_of(self, store: RowStore, tensor: torch.Tensor) -> bool:
        """Return whether this is the count of a tensor that nobody else has changed since."""
        same = self.tensor is tensor and self.store is store
        return same and tensor._version == self.version

    def current(self) -> Count:
        """Return the count without the steps that turned out to be skipped."""
        if self.tensor is None or not isinstance(self.store, DeviceStore):
            return self
        skipped = self.store.skipped_steps
        return replace(self, made=self.made - (skipped - self.skipped), skipped=skipped)

    def next_iteration(self, skipped: int = 0) -> int:
        """Return the number of the next step, counted from 1, if so many open ones are skipped."""
        return self.made + 1 if self.tensor is None else self.current().made + 1 - skipped

    def after_a_step(self, state: dict[str, Any]) -> Count | None:
        """Return the count after one step more, which the state has; None where it is read anew."""
        tensor, store = state.get("step"), self.store
        if tensor is None or not isinstance(store, DeviceStore) or tensor.is_inference():
            return None
        skipped = store.skipped_steps if self.tensor is None else self.skipped  # None: the first
        return replace(
            self, made=self.made + 1, tensor=tensor, version=tensor._version, skipped=skipped
        )
