"""How often and when the rows of a device were updated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rowwise.store._memory import ROW_STATE
from rowwise.torch._device._memory import DeviceMemory

_MARKED = -1  # in a row's state, as its last update: none, but its values came from elsewhere


class DeviceCounts(DeviceMemory):
    """Counts of updates on a device; see `RowStore` for the methods."""

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
            rows = self._tensors.checked(ids)
            self.synchronize()
            found = self._states[rows].cpu().numpy()
            states = found.view(ROW_STATE).reshape(tuple(ids.shape))
        return (states["update_count"] > 0) | (states["last_update"] == _MARKED)

    def is_untrained(self, ids: torch.Tensor) -> torch.Tensor:
        """Return whether rows ids (...,) were never trained, without waiting; see `is_trained`.

        An id outside the table, which the lookup has noted, is taken for the nearest.
        """
        with self._call():
            rows = ids.clamp(0, self.shape[0] - 1)
            counts = self._states[:, 1][rows]
            last_updates = self._states.view(torch.int64)[:, 1][rows]
        return (counts == 0) & (last_updates != _MARKED)

    def mark_trained(self, ids: Any = None) -> None:
        """Record that rows hold values worth reading that no update brought.

        Raises:
            IndexError: an id outside the table.
        """
        everything = torch.arange(self.shape[0], device=self.tensor_device)
        rows = everything if ids is None else self._tensors.checked(ids)
        with self._call(wait=True):
            states = self._states[rows]
            marked = torch.where(states[:, 1:2] == 0, _MARKED, states[:, 2:])
            self._states[rows] = torch.cat([states[:, :2], marked], dim=1)
            self.version += 1

    def record_external_step(self, ids: Any) -> None:
        """Count a step that the caller made on the memory, with gradients for rows ids."""
        touched = self._tensors.checked(ids).unique()
        with self._call(wait=True):
            self._native.steps += 1
            counts = self._states[touched, 1]
            self._states[touched, 1] = counts + (counts != -1)  # as unsigned: the largest stays
            self._states.view(torch.int64)[touched, 1] = self.steps

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
            self._states.copy_(self._tensors.copied(states.view(np.int32).reshape(-1, 4)))
            self._native.steps = int(steps)
