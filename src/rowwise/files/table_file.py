"""The table file: weights, slots, bookkeeping and rule in one safetensors file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rowwise import rules
from rowwise.files.atomic import replacing

if TYPE_CHECKING:
    from rowwise.table import Table

_FORMAT = "rowwise table 1"


def save_table(table: Table, path: str | os.PathLike[str]) -> None:
    """Writes `table` to `path`, whole or not at all; see `Table.save`."""
    from safetensors.numpy import save_file

    table.sync()
    tensors = {
        "weights": table.buffer(),
        "updates": table.updates,
        "last_update": table._states["last_update"].copy(),
        **{f"slot.{name}": table.buffer(name) for name in table.slot_names},
    }
    about = {
        "rule": table.rule.config() if table.rule else None,
        "learning_rate": table.learning_rate,
        "steps": table.steps,
        "fresh": table._native.fresh,
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": _FORMAT, "table": json.dumps(about)})


def load_table(path: str | os.PathLike[str]) -> Table:
    """Reads a table from `path`; see `Table.load`."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)!r}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {_FORMAT!r}")
            about = json.loads(metadata["table"])
            names = file.keys()
            return _table_from(about, {name: file.get_tensor(name) for name in names})
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"{os.fspath(path)!r} is not a table's file: {error}") from error


def _table_from(about: dict[str, Any], tensors: dict[str, np.ndarray]) -> Table:
    from rowwise.table import Table

    rule = rules.get(about["rule"])
    weights = tensors["weights"]
    if weights.ndim != 2 or weights.dtype != np.float32:
        raise ValueError(f"weights are {weights.dtype} of shape {weights.shape}")
    rows, dim = weights.shape
    table = Table(rows, dim, rule, init=weights)
    table.learning_rate = float(about["learning_rate"])
    table._steps = int(about["steps"])
    for name in ("updates", "last_update"):
        if tensors[name].shape != (table.rows,):
            raise ValueError(f"{name} has shape {tensors[name].shape}, not {(table.rows,)}")
        table._states[name] = tensors[name]
    for name in table.slot_names:
        slot = tensors[f"slot.{name}"]
        if slot.shape != table.shape:
            raise ValueError(f"slot {name} has shape {slot.shape}, not {table.shape}")
        table.buffer(name)[:] = slot
    if not about["fresh"]:
        table.slots_written()
    return table
