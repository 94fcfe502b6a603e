"""The table file: rows, slots, stamps, clock, rule and vocabulary; see docs/file-format.md."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from rowwise import rules
from rowwise.files.container import Container, DamagedFileError, write
from rowwise.files.vocabulary_file import from_json, to_json
from rowwise.memory import ROW_STATE, Folder, check_fits, matrix, row_states

if TYPE_CHECKING:
    from rowwise.table import Table

_FORMAT = "rowwise table 1"


def save_table(table: Table, path: str | os.PathLike[str]) -> None:
    """Writes `table` to `path`, whole or not at all; see `Table.save`."""
    parts = table.parts()
    steps, closed = parts["past"]
    arrays = {
        "weights": parts["weights"],
        **{f"slot.{n}": slot for n, slot in zip(table.slot_names, parts["slots"], strict=True)},
        "states": parts["states"].view(np.uint32).reshape(-1, 4),
        "clock": steps,
        "clock.closed": closed,
    }
    if parts["vocabulary"] is not None:
        arrays["vocabulary"] = np.frombuffer(to_json(parts["vocabulary"]), np.uint8)
    about = {
        "rule": parts["rule"].config() if parts["rule"] else None,
        "learning_rate": parts["learning_rate"],
        "steps": parts["steps"],
        "fresh": parts["fresh"],
    }
    write(path, arrays, {"format": _FORMAT, "table": json.dumps(about)})


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a file that `save_table` wrote, by its header."""
    try:
        with Container(path) as file:
            return file.about.get("format") == _FORMAT
    except (DamagedFileError, FileNotFoundError):
        return False


def load_table(
    kind: type[Table], path: str | os.PathLike[str], mmap: bool, scratch: Folder | None
) -> Table:
    """Reads a table from `path`; see `Table.load`."""
    if mmap and scratch is not None:
        raise ValueError("mmap=True leaves the rows in the file; scratch is for a copy of them")
    with Container(path) as file:
        if file.about.get("format") != _FORMAT:
            raise file.damaged(f"its format is {file.about.get('format')!r}, not {_FORMAT!r}")
        try:
            table = kind.__new__(kind)
            table.take(_parts(file, mmap, scratch))
            return table
        except DamagedFileError:
            raise
        except KeyError as error:
            raise file.damaged(f"it has no {error}") from error
        except (TypeError, ValueError) as error:
            raise file.damaged(str(error)) from error


def _parts(file: Container, mmap: bool, scratch: Folder | None) -> dict[str, Any]:
    about = json.loads(file.about["table"])
    rule = rules.get(about["rule"])
    slots = [f"slot.{name}" for name in rule.slot_names] if rule else []
    shape = file.entries["weights"].shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"its weights have shape {shape}")
    rows, dim = shape
    for name, dtype, expected in [
        *((name, "f4", shape) for name in ("weights", *slots)),
        ("states", "u4", (rows, 4)),
    ]:
        entry = file.entries[name]
        if entry.dtype != dtype or entry.shape != expected:
            raise ValueError(f"{name!r} is {entry.dtype} of shape {entry.shape}, not {expected}")
    if mmap:
        big = {name: file.map(name) for name in ("weights", "states", *slots)}
    else:
        if scratch is None:
            check_fits(rows, dim, len(slots))
        big = {n: file.read(n, into=matrix(rows, dim, scratch)) for n in ("weights", *slots)}
        states = row_states(rows, scratch).view(np.uint32).reshape(rows, 4)
        big["states"] = file.read("states", into=states)
    past = file.read("clock"), file.read("clock.closed")
    if past[0].dtype != "f8" or past[0].ndim != 2 or past[1].dtype != "f8" or past[1].ndim != 1:
        raise ValueError("its clock is not made of float64 numbers")
    steps = about["steps"]
    if type(steps) is not int or not 0 <= steps < 2**62:
        raise ValueError(f"its number of steps is {steps!r}")
    if not mmap and big["states"][:, 0].max() > len(past[0]):
        raise ValueError("a row's stamp is later than the clock")
    words = file.read("vocabulary").tobytes() if "vocabulary" in file.entries else None
    return {
        "rule": rule,
        "learning_rate": about["learning_rate"],
        "steps": steps,
        "fresh": bool(about["fresh"]),
        "weights": big["weights"],
        "slots": [big[name] for name in slots],
        "states": big["states"].view(ROW_STATE).reshape(rows),
        "past": past,
        "vocabulary": None if words is None else from_json(words),
        "scratch": scratch,
    }
