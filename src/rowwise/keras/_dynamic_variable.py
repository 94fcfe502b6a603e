"""Embeddings with an index in front, as every backend sees them."""

from __future__ import annotations

import json
import weakref
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise._binding import DenseFallback
from rowwise.dynamic import DynamicTable, IdIndex
from rowwise.dynamic._starts import RowStarts
from rowwise.dynamic._table import OnEvict
from rowwise.keras._encoded_ids import decode_ids
from rowwise.keras._ids import validate_ids
from rowwise.keras._variable import TableVariableBase
from rowwise.store import in_memory

NO_INDEX = (
    "a model with a DynamicEmbedding cannot be exported: the index from ids to rows lies in this "
    "process. Export the layers behind it, and serve vectors from layer.dynamic.lookup(ids)"
)

_ABOUT = "about"  # the array in which numbers stand as JSON


class DynamicVariableBase(TableVariableBase):
    """Mixed into each backend's `DynamicVariable`, before its `TableVariable`.

    Attributes:
        dynamic: the index and the rows, as one.
        encoded: whether ids come as `encode_ids` makes them.
    """

    dynamic: DynamicTable
    trainable: bool
    _on_evict: OnEvict | None = None

    def __init__(self, index: IdIndex, starts: RowStarts, *, encoded: bool, **options: Any) -> None:
        self._behind, self.encoded = (index, starts), encoded
        # Where each optimizer left off that is not the owner any more.
        self._left: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        super().__init__(**options)

    def _initialize_with_initializer(self, initializer: Any) -> None:
        self._initialize(None)

    def _initialize(self, value: Any) -> None:
        """Start with free rows and unknown ones, whatever the value."""
        index, starts = self.__dict__.pop("_behind")
        table = self._new_table((index.rows, self.shape[1]), "zeros")
        unknown = starts.unknown_rows(index.unknown_rows, table.dim)
        table.store.write(unknown, np.arange(index.capacity, index.rows))
        super()._initialize(table)
        self.put_index(index, starts)

    def put_index(self, index: IdIndex, starts: RowStarts, steps: int = 0) -> None:
        """Put an index in front of the table."""
        self.dynamic = DynamicTable.over(
            self.table, index, starts, steps=steps, on_evict=self._on_evict
        )

    # ------------------------------------------------------------------ rows

    @property
    def on_evict(self) -> OnEvict | None:
        """Function called with the ids that lost their rows, and their vectors."""
        return self._on_evict

    @on_evict.setter
    def on_evict(self, function: OnEvict | None) -> None:
        self._on_evict = function
        if hasattr(self, "dynamic"):  # there are no rows while Keras learns a model's shapes
            self.dynamic.on_evict = function

    def rows_of(self, ids: NDArray[Any], observe: bool) -> NDArray[np.int64]:
        """Return the rows (...,) of ids, given as the layer gets them; count them, if asked to."""
        if self.encoded:
            ids = decode_ids(ids, self.dynamic.index.kind)
        elif ids.dtype.kind in "fV":  # V: bfloat16
            ids = validate_ids(ids)
        if not observe:
            return self.dynamic.find(ids)
        self.dynamic.check_batch(ids)
        return self.dynamic.observe(ids)

    # ------------------------------------------------------------------ optimizers

    def fall_back_to_dense(self, reason: DenseFallback) -> None:
        """Refuse an optimizer that would step every row.

        Raises:
            ValueError: with the reason.
        """
        self.refuse_dense(f"{reason}")

    def warn_of_dense_loop(self) -> None:
        """Refuse a loop whose state holds the whole array."""
        self.refuse_dense("the state of this loop holds the whole table, and visits every row")

    def refuse_dense(self, cause: str) -> None:
        """Raise the error of training that is not Keras's sparse one."""
        raise ValueError(
            f"{self.path}: a DynamicEmbedding is trained by fit and train_on_batch, with one of "
            "Keras's optimizers and options that it can step sparsely, as docs/exactness.md lists "
            f"them; any other keeps state of ids that lost their rows. Here: {cause}"
        )

    def detach_slots(self, optimizer: Any) -> None:
        """Copy the slots of every other optimizer out of the table.

        Raises:
            ValueError: this one trained the table before, and its slots are of other ids by now.
        """
        now = self.dynamic.evictions
        if self.slots.get(optimizer) and self._left.get(optimizer, now) != now:
            raise ValueError(
                f"{self.path}: rows have gone to other ids since {optimizer.name!r} trained them, "
                "and its slots are of the old ones; compile with a new optimizer"
            )
        for other in self.slots:
            if other is not optimizer:
                self._left.setdefault(other, now)
        self._left.pop(optimizer, None)
        super().detach_slots(optimizer)

    # ------------------------------------------------------------------ files and copies

    def save_ids(self) -> dict[str, NDArray[Any]]:
        """Return ids, counts and sketch as arrays, for files that hold the rows elsewhere.

        How often and when rows on a disk were updated is in their table's file alone.
        """
        state = self.dynamic.state()
        about = {
            "index": state.config,
            "starts": asdict(state.starts),
            "steps": self.dynamic.steps,
        }
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        counts = {} if self.memory is not None else in_memory(self.table.store).counts()
        return {
            _ABOUT: text,
            **{f"ids.{name}": array for name, array in state.ids.items()},
            **{f"counts.{name}": array for name, array in counts.items()},
        }

    def read_ids(self, arrays: dict[str, NDArray[Any]]) -> tuple[IdIndex, RowStarts, int]:
        """Return the index, starts and steps of what `save_ids` returned; nothing changes.

        The index has the options of this one.

        Raises:
            ValueError: ids of the other kind, or for another number of rows; damaged ones.
        """
        own = self.dynamic.index
        try:
            about = json.loads(arrays[_ABOUT].tobytes())
            own.check_fits(about["index"])
            index = IdIndex.from_state(own.config(), named_after("ids.", arrays))
            return index, RowStarts.of(**about["starts"]), int(about["steps"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.path}: the file's ids are damaged: {error!r}") from None
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def load_ids(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take what `save_ids` returned, and how often and when each row was updated.

        Raises:
            ValueError: see `read_ids`; counts of another number of rows.
        """
        ids = self.read_ids(arrays)
        try:
            in_memory(self.table.store).load_counts(**named_after("counts.", arrays))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.path}: the file's counts are damaged: {error!r}") from None
        self.dynamic.set_index(*ids)

    def load_file(self, path: str) -> None:
        """Take the rows, slots and ids of a dynamic table's file to the disk.

        Raises:
            DamagedFileError, FileNotFoundError, MemoryError, OSError: see `DynamicTable.load`.
            ValueError: rows or ids of another kind. Nothing has changed then.
        """
        found = DynamicTable.load(path, scratch=self.scratch, memory=self.memory)
        self.dynamic.index.check_fits(found.index.config())
        if found.table.shape != self.table.shape:
            raise ValueError(
                f"{self.path}: the file's rows are {found.table.shape}, not {self.table.shape}"
            )
        self.dynamic.become(found)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        own = state.pop("dynamic")
        del state["_left"]
        state["_behind"] = own.index, own.starts, own.steps
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        behind = state.pop("_behind")
        super().__setstate__(state)
        self._left = weakref.WeakKeyDictionary()
        self.put_index(*behind)


def named_after(prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays whose names begin with a prefix, by the rest of their names."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
