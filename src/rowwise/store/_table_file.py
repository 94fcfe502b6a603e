"""The table file: rows, slots, row states, clock, rule and vocabulary; see docs/file-format.md."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rowwise import rules
from rowwise.errors import DamagedFileError
from rowwise.files._container import Container, write
from rowwise.rules import Rule
from rowwise.store._host import HostStore
from rowwise.store._memory import ROW_STATE, STORED, Folder, check_fits, matrix, row_states
from rowwise.store._state import TableState
from rowwise.text import Vocabulary

_FORMAT = "rowwise table 1"
_HALF_FORMAT = "rowwise table 2"  # its weights are not float32; there is no other difference
_WEIGHTS = {_FORMAT: ("<f4",), _HALF_FORMAT: ("<f2", "<u2")}  # of bfloat16 the bits

T = TypeVar("T")


def save_state(
    state: TableState,
    path: str | os.PathLike[str],
    *,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a table's state to `path`, whole or not at all; see `Table.save`.

    Args:
        arrays, about: what goes with the table, into the same file.
    """
    own, own_about = contents(state)
    write(path, {**own, **(arrays or {})}, {**own_about, **(about or {})})


def contents(state: TableState) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays of a table's file, and the strings about them.

    Raises:
        ValueError: the table was mapped from a file that is damaged.
    """
    latest, steps = state.row_states["last_step"].max(), len(state.step_history[0])
    if latest > steps:  # mapped, and so not seen when it was opened
        raise ValueError(
            f"the last step of a row is {latest}, and the clock is at {steps}: the file that "
            "this table was mapped from is damaged; load it without mmap to see where"
        )
    return {**row_arrays(state), **other_arrays(state)}, describe(state)


def row_arrays(state: TableState) -> dict[str, NDArray[Any]]:
    """Return the arrays (rows, ...) of a table, by their names in the file."""
    slot_names = state.rule.slot_names if state.rule else ()
    return {
        "weights": state.weights,
        **{f"slot.{name}": slot for name, slot in zip(slot_names, state.slots, strict=True)},
        "states": _as_numbers(state.row_states),
    }


def other_arrays(state: TableState) -> dict[str, NDArray[Any]]:
    """Return the arrays that do not grow with the table's rows, by their names in the file."""
    steps, closed = state.step_history
    arrays: dict[str, NDArray[Any]] = {"clock": steps, "clock.closed": closed}
    if state.vocabulary is not None:
        arrays["vocabulary"] = np.frombuffer(state.vocabulary.to_json(), np.uint8)
    return arrays


def describe(state: TableState) -> dict[str, str]:
    """Return what the file's header says about a table."""
    about: dict[str, Any] = {
        "rule": state.rule.config() if state.rule else None,
        "learning_rate": state.learning_rate,
        "steps": state.steps,
        "fresh": state.slots_pristine,
    }
    if state.rounding_seed is not None:
        about["rounding_seed"] = state.rounding_seed
    form = _FORMAT if state.dtype == "float32" else _HALF_FORMAT
    return {"format": form, "table": json.dumps(about)}


def _as_numbers(states: NDArray[np.void]) -> NDArray[np.uint32]:
    """Return row states (rows,) as numbers (rows, 4), where they lie."""
    if states.flags.c_contiguous:
        return states.view(np.uint32).reshape(-1, 4)
    return np.lib.stride_tricks.as_strided(
        np.asarray(states["last_step"]), (len(states), 4), (states.strides[0], 4), writeable=False
    )


def is_table(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is a file that `save_state` wrote, by its header."""
    try:
        with Container(path) as file:
            return file.about.get("format") in _WEIGHTS
    except (DamagedFileError, FileNotFoundError):
        return False


def load_state(
    path: str | os.PathLike[str],
    make: Callable[[TableState, Container], T],
    *,
    mmap: bool,
    scratch: Folder | None,
    memory: int | None = None,
) -> T:
    """Read a table's state from `path`, and return what `make` makes of it and the open file.

    Raises:
        DamagedFileError: the file is damaged, or `make` finds that its parts do not fit.
        FileNotFoundError, MemoryError, OSError, ValueError: see `Table.load`.
    """
    if mmap and scratch is not None:
        raise ValueError("mmap=True leaves the rows in the file; scratch is for a copy of them")
    with Container(path) as file, blaming(file):
        if memory is None:
            return make(_read_state(file, mmap, scratch), file)
        state = _read_state(file, True, None, verify=True)
        return make(replace(state, scratch=scratch, memory=memory), file)


@contextmanager
def blaming(file: Container) -> Iterator[None]:
    """Turn errors about the parts of a file into errors that name it."""
    try:
        yield
    except DamagedFileError:
        raise
    except KeyError as error:
        raise file.damaged(f"it has no {error}") from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise file.damaged(str(error)) from error
    except MemoryError as error:
        if error.args:
            raise
        raise file.too_large() from None


def check_layout(file: Container) -> tuple[int, int, Rule | None, list[str]]:
    """Return rows, dim and rule of the table in a file, and the names of its slots' arrays.

    Raises:
        DamagedFileError, KeyError, ValueError: it is not a table's file.
    """
    if file.about.get("format") not in _WEIGHTS:
        raise file.damaged(f"its format is {file.about.get('format')!r}, not {_FORMAT!r}")
    rule = rules.get(json.loads(file.about["table"])["rule"])
    slots = [f"slot.{name}" for name in rule.slot_names] if rule else []
    return *_check_shapes(file, rule, slots), rule, slots


def open_rows(path: str | os.PathLike[str]) -> tuple[HostStore, Vocabulary | None]:
    """Open the rows of a table's file, to be read where they lie, and their vocabulary.

    Raises:
        DamagedFileError, FileNotFoundError: see `Table.load`.
    """

    def make(state: TableState, _: Container) -> tuple[HostStore, Vocabulary | None]:
        return HostStore.from_state(state), state.vocabulary

    return load_state(path, make, mmap=True, scratch=None)


def _read_state(
    file: Container, mmap: bool, scratch: Folder | None, *, verify: bool = False
) -> TableState:
    rows, dim, rule, slots = check_layout(file)
    if mmap:
        big = {name: file.map(name) for name in ("weights", "states", *slots)}
        if verify:
            for name in big:
                file.verify(name)
    else:
        if scratch is None:
            dtype = file.entries["weights"].dtype
            check_fits(rows, dim, rule, dtype=next(n for n in STORED if STORED[n] == dtype))
        dims = {"weights": dim, **{name: rule.slot_dim(dim) for name in slots if rule}}
        big = {
            name: file.read(name, into=matrix(rows, dims[name], scratch, file.entries[name].dtype))
            for name in dims
        }
        states = row_states(rows, scratch).view(np.uint32).reshape(rows, 4)
        big["states"] = file.read("states", into=states)
    return complete(file, big, scratch, check_last_steps=verify or not mmap)


def complete(
    file: Container, big: dict[str, NDArray[Any]], scratch: Folder | None, *, check_last_steps: bool
) -> TableState:
    """Return the state in a file whose arrays of rows, those of `row_arrays`, were read.

    Raises:
        ValueError: its other parts are not what they should be.
    """
    about = json.loads(file.about["table"])
    rule = rules.get(about["rule"])
    slots = rule.slot_names if rule else ()
    rows = len(big["weights"])
    history = file.read("clock"), file.read("clock.closed")
    if any(part.dtype != "f8" for part in history) or [p.ndim for p in history] != [2, 1]:
        raise ValueError("its clock is not made of float64 numbers")
    steps = about["steps"]
    if type(steps) is not int or not 0 <= steps < 2**62:
        raise ValueError(f"its number of steps is {steps!r}")
    if check_last_steps and big["states"][:, 0].max() > len(history[0]):
        raise ValueError("a row's last step is later than the clock")
    words = file.read("vocabulary").tobytes() if "vocabulary" in file.entries else None
    return TableState(
        weights=big["weights"],
        slots=[big[f"slot.{name}"] for name in slots],
        row_states=big["states"].view(ROW_STATE).reshape(rows),
        step_history=history,
        steps=steps,
        rule=rule,
        learning_rate=about["learning_rate"],
        slots_pristine=bool(about["fresh"]),
        vocabulary=None if words is None else Vocabulary.from_json(words, limit=rows),
        scratch=scratch,
        rounding_seed=_rounding_seed(about),
    )


def _rounding_seed(about: Mapping[str, Any]) -> int | None:
    seed = about.get("rounding_seed")
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**64):
        raise ValueError(f"its rounding seed is {seed!r}")
    return seed


def _check_shapes(file: Container, rule: Rule | None, slots: list[str]) -> tuple[int, int]:
    shape, stored = file.entries["weights"].shape, _WEIGHTS[file.about["format"]]
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"its weights have shape {shape}")
    rows, dim = shape
    if file.entries["weights"].dtype not in stored:
        raise ValueError(f"its weights are {file.entries['weights'].dtype}, not {stored}")
    expected: dict[str, Any] = {"states": ("u4", (rows, 4))}
    if rule is not None:
        expected |= {name: ("f4", (rows, rule.slot_dim(dim))) for name in slots}
    for name, (dtype, wanted) in expected.items():
        entry = file.entries[name]
        if entry.dtype != dtype or entry.shape != wanted:
            raise ValueError(f"{name!r} is {entry.dtype} of shape {entry.shape}, not {wanted}")
    return rows, dim
