"""Checkpoints from which training goes on, after the process was killed, to the same bits."""

from __future__ import annotations

import json
import os
import random
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rowwise.errors import DamagedFileError
from rowwise.files._atomic import replacing
from rowwise.files._container import Container, write
from rowwise.keras._backend import backend
from rowwise.keras._dynamic_variable import DynamicVariableBase, named_after
from rowwise.keras._variable import DiskSlot, TableVariableBase
from rowwise.table import Table

_FORMAT = "rowwise backup 1"
_LATEST = "rowwise-backup.json"  # names the epoch and the files of the checkpoint that counts
_OURS = re.compile(r"rowwise-backup(\.json|-\d+(\.table-\d+)?\.safetensors)")


class BackupAndRestore(keras.callbacks.Callback):
    """Back the training up after each epoch, and go on from there when `fit` is called again.

    What `keras.callbacks.BackupAndRestore` is for, with two differences. A checkpoint counts
    once all of it is on the disk, so that a process killed at any moment finds the last one whole.
    And a training that goes on ends with the bits of one that was never stopped, backed up or not:
    tables are kept with their last steps and clocks, and so are the states of the random numbers by
    which `fit` shuffles, NumPy's and Python's and on the torch backend PyTorch's. (On TensorFlow
    `fit` shuffles by random numbers whose state cannot be kept: shuffle=False, or a dataset. On JAX
    a sum of gradients that waits for more batches is rounded once more.)

    Args:
        backup_dir: a folder for this training; other files in it stay as they are.
        delete_checkpoint: whether the checkpoint goes when `fit` has ended, and with it the folder
            if nothing else is in it.

    Raises:
        ValueError: `fit` finds a checkpoint of another model or optimizer. Nothing has changed.
        DamagedFileError: a file of the checkpoint is damaged.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> from rowwise.keras import BackupAndRestore, Embedding
        >>> model = keras.Sequential([Embedding(10, 4), keras.layers.Flatten()])
        >>> model.build((None, 1))
        >>> model.compile("adam", "mse")
        >>> backup = BackupAndRestore(tempfile.mkdtemp())
        >>> ids, targets = np.arange(10)[:, None], np.ones((10, 4))
        >>> history = model.fit(ids, targets, epochs=3, callbacks=[backup], verbose=0)
    """

    def __init__(
        self, backup_dir: str | os.PathLike[str], *, delete_checkpoint: bool = True
    ) -> None:
        super().__init__()
        self.backup_dir = Path(backup_dir)
        self.delete_checkpoint = delete_checkpoint

    def on_train_begin(self, logs: Any = None) -> None:
        """Restore the last checkpoint, if there is one."""
        if not self.model.built:
            raise ValueError(
                "BackupAndRestore needs to know the model's variables before fit: begin the model "
                "with keras.Input, or call model.build(input_shape)"
            )
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        latest = self.backup_dir / _LATEST
        if latest.exists():
            self._restore(_read_latest(latest))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write a checkpoint; remove the one before it once this one is whole."""
        self.backup_dir.mkdir(parents=True, exist_ok=True)
        tables, others = self._variables()
        names = [f"rowwise-backup-{epoch + 1}.table-{i}.safetensors" for i in range(len(tables))]
        for name, variable in zip(names, tables, strict=True):
            variable.table.save(self.backup_dir / name)
        state = f"rowwise-backup-{epoch + 1}.safetensors"
        arrays = {str(i): keras.ops.convert_to_numpy(v) for i, v in enumerate(others)}
        arrays |= {f"touched.{i}": v.sums.touched for i, v in _accumulators(others)}
        for i, variable in _dynamic(tables):
            arrays |= {f"ids-{i}.{name}": a for name, a in variable.save_ids().items()}
        write(self.backup_dir / state, arrays | _random_arrays(), {"random": _random_numbers()})
        latest = {
            "format": _FORMAT,
            "epoch": epoch + 1,
            "state": state,
            "tables": names,
            "dynamic_tables": [i for i, _ in _dynamic(tables)],
            "shapes": [list(v.shape) for v in others],
            "optimizer": type(self.model.optimizer).__name__,
        }
        with replacing(self.backup_dir / _LATEST) as temporary:
            Path(temporary).write_text(json.dumps(latest))
        self._remove_all_but(_LATEST, state, *names)

    def on_train_end(self, logs: Any = None) -> None:
        """Remove the folder, if asked to."""
        if self.delete_checkpoint:
            self._remove_all_but()
            with suppress(OSError):  # something else is in it, or it never was
                self.backup_dir.rmdir()

    def _remove_all_but(self, *names: str) -> None:
        """Remove the files that this class writes, but for those of some names."""
        for path in self.backup_dir.glob("rowwise-backup*"):
            if _OURS.fullmatch(path.name) and path.name not in names and path.is_file():
                path.unlink()

    def _restore(self, latest: dict[str, Any]) -> None:
        tables, others = self._variables()
        folder = self.backup_dir
        mine = {
            "format": _FORMAT,
            "tables": len(tables),
            "dynamic_tables": [i for i, _ in _dynamic(tables)],
            "shapes": [list(v.shape) for v in others],
            "optimizer": type(self.model.optimizer).__name__,
        }
        theirs = {name: latest.get(name) for name in mine} | {"tables": len(latest["tables"])}
        theirs["dynamic_tables"] = latest.get("dynamic_tables", [])  # older files: there were none
        for what, own in mine.items():
            if theirs[what] != own:
                raise ValueError(
                    f"the checkpoint in {str(folder)!r} is of another training: its {what} is "
                    f"{theirs[what]}, and this one's {own}; take another folder, or remove it"
                )
        loaded = [
            Table.load(folder / name, scratch=variable.scratch, memory=variable.memory)
            for variable, name in zip(tables, latest["tables"], strict=True)
        ]
        for variable, table in zip(tables, loaded, strict=True):
            if _kind(table) != _kind(variable.table):
                raise ValueError(
                    f"the checkpoint in {str(folder)!r} is of another training: its table is "
                    f"{table!r}, and {variable.path!r} has {variable.table!r}"
                )
        with Container(folder / latest["state"]) as file:
            arrays = {name: file.read(name) for name in file.entries}
            numbers = file.about["random"]
        ids = [
            (variable, variable.read_ids(named_after(f"ids-{i}.", arrays)))
            for i, variable in _dynamic(tables)
        ]
        for variable, table in zip(tables, loaded, strict=True):
            variable.table.become(table)
            variable.rebind_table()
        for variable, read in ids:
            variable.dynamic.set_index(*read)
        for i, variable in enumerate(others):
            variable.assign(arrays[str(i)].reshape(variable.shape))
        for i, accumulator in _accumulators(others):
            accumulator.sums.touched = arrays[f"touched.{i}"]
        _set_random(arrays, numbers)
        self.model._initial_epoch = latest["epoch"]

    def _variables(self) -> tuple[list[Any], list[Any]]:
        """Return the model's tables, and all other variables of model and optimizer but slots."""
        everything = [*self.model.variables, *self.model.optimizer.variables]
        tables = [v for v in everything if isinstance(v, TableVariableBase)]
        return tables, [
            v
            for v in everything
            if not isinstance(v, TableVariableBase | DiskSlot | backend.SlotVariable)
        ]


def _kind(table: Table) -> tuple[Any, ...]:
    """Return the properties that a checkpoint's table shares with the model's."""
    return table.shape, table.rule, table.dtype, table.rounding


def _read_latest(path: Path) -> dict[str, Any]:
    """Return what stands in the file that names the checkpoint.

    Raises:
        DamagedFileError: it is not as it was written.
    """
    try:
        latest = json.loads(path.read_bytes())
        names = [latest["state"], *latest["tables"]]
        if latest["epoch"] < 1 or not all(_OURS.fullmatch(name) for name in names):
            raise ValueError(f"its files are {names}, of epoch {latest['epoch']}")
    except KeyError as error:
        raise DamagedFileError(path, f"it has no {error}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedFileError(path, str(error)) from None
    return dict(latest)


def _dynamic(tables: list[Any]) -> list[tuple[int, Any]]:
    """Return the tables with an index in front, each with its number."""
    return [(i, v) for i, v in enumerate(tables) if isinstance(v, DynamicVariableBase)]


def _accumulators(variables: list[Any]) -> list[tuple[int, Any]]:
    """Return the variables that sum by row; a row may be touched though its sum is zero."""
    sums = [(i, v) for i, v in enumerate(variables) if isinstance(v, backend.AccumulatorVariable)]
    return [(i, v) for i, v in sums if hasattr(v, "sums")]


def _random_arrays() -> dict[str, Any]:
    state: Any = np.random.get_state()
    return {"random.numpy": np.asarray(state[1], dtype=np.uint32)} | {
        f"random.{name}": array for name, array in backend.random_state().items()
    }


def _random_numbers() -> str:
    state: Any = np.random.get_state()
    return json.dumps({"numpy": state[2:], "python": random.getstate()})


def _set_random(arrays: dict[str, Any], numbers: str) -> None:
    numbered = json.loads(numbers)
    backend.set_random_state({n: arrays[f"random.{n}"] for n in backend.random_state()})
    np.random.set_state(("MT19937", arrays["random.numpy"], *numbered["numpy"]))
    version, state, gauss = numbered["python"]
    random.setstate((version, tuple(state), gauss))
