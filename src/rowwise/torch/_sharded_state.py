"""The `state_dict` of a sharded table: DTensors over its memory, and a few bytes for the rest."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import torch

from rowwise import rules
from rowwise.sharded import ShardedTable
from rowwise.store import HostStore, TableState
from rowwise.store._memory import ROW_STATE


def put_state(table: ShardedTable, destination: Any, prefix: str) -> None:
    """Put the table as it is into a state_dict."""
    state = table.state()
    for name, array in _arrays_of(state).items():
        destination[prefix + name] = _as_dtensor(array, table)
    destination[prefix + "weight.clock"] = _packed_clock(state)


def take_state(table: ShardedTable, state_dict: Any, prefix: str) -> None:
    """Take what `put_state` put into a state_dict of a table of this shape.

    Raises:
        KeyError: a part is missing.
        ValueError: the state has slots, and the table has none of them.
    """
    saved = _unpacked_clock(state_dict[prefix + "weight.clock"])
    own = table.state()
    rule = own.rule if saved.rule is None else saved.rule
    slots = saved.rule.slot_names if saved.rule else ()
    if slots and (own.rule is None or own.rule.slot_names != slots):
        raise ValueError(
            f"the checkpoint has slots {slots}, and the table none of them; make the optimizer "
            "before you load"
        )
    for name, array in _arrays_of(own).items():
        loaded = state_dict[prefix + name].to_local().numpy()
        if loaded.ctypes.data != array.ctypes.data:
            array[...] = loaded
    local = HostStore.from_state(
        TableState(
            weights=own.weights,
            slots=own.slots,
            row_states=own.row_states,
            step_history=saved.step_history,
            steps=saved.steps,
            rule=rule,
            slots_pristine=saved.slots_pristine,
            scratch=own.scratch,
        )
    )
    local.version = table.store.version + 1  # what was computed before is out of date
    table.store.local = local


def _arrays_of(state: TableState) -> dict[str, Any]:
    """Return a rank's arrays of rows, by their names in a state_dict."""
    slots = state.rule.slot_names if state.rule else ()
    return {
        "weight": state.weights,
        **{f"weight.{name}": slot for name, slot in zip(slots, state.slots, strict=True)},
        "weight.states": state.row_states.view(np.int32).reshape(-1, 4),
    }


def _as_dtensor(array: Any, table: ShardedTable) -> Any:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    group = getattr(table.store.exchange, "group", None)
    if group is None:
        raise RuntimeError("state_dict() needs a process group; save the table to a file instead")
    return DTensor.from_local(
        torch.from_numpy(array),
        DeviceMesh.from_group(group, "cpu"),
        [Shard(0)],
        run_check=False,
        shape=torch.Size([table.rows, array.shape[1]]),
        stride=(array.shape[1], 1),
    )


def _packed_clock(state: TableState) -> bytes:
    """Return the part of a table's state that does not grow with its rows."""
    about = {
        "rule": state.rule.config() if state.rule else None,
        "steps": state.steps,
        "slots_pristine": state.slots_pristine,
    }
    file = io.BytesIO()
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(file, about=text, steps=state.step_history[0], closed=state.step_history[1])
    return file.getvalue()


def _unpacked_clock(data: bytes) -> TableState:
    """Return the state, without rows, that `_packed_clock` was given."""
    with np.load(io.BytesIO(data)) as file:
        about = json.loads(file["about"].tobytes())
        history = file["steps"], file["closed"]
    return TableState(
        weights=np.empty((0, 0), np.float32),
        slots=[],
        row_states=np.empty(0, ROW_STATE),
        step_history=history,
        steps=about["steps"],
        rule=rules.get(about["rule"]),
        slots_pristine=about["slots_pristine"],
    )
