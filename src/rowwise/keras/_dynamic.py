"""`rowwise.keras.DynamicEmbedding`: Keras's layer for ids that nobody numbered."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.initializers import RandomNormal, RandomUniform, Zeros
from numpy.typing import NDArray

from rowwise._checks import check_has_memory
from rowwise.dynamic import DynamicTable, IdIndex
from rowwise.dynamic._batches import IdKind
from rowwise.dynamic._index import Evict
from rowwise.dynamic._starts import RowStarts
from rowwise.dynamic._table import OnEvict
from rowwise.keras._assets import check_saves_assets, refuse_without_assets
from rowwise.keras._backend import BACKEND, backend
from rowwise.keras._dynamic_variable import NO_INDEX, DynamicVariableBase
from rowwise.keras._ids import id_layers_in, takes_ids
from rowwise.store import Folder
from rowwise.table import cached_bytes

_TABLE = "table.safetensors"  # of rows on a disk, in a `.keras` file
_WEIGHTS = "0"  # the name that Keras gives a layer's first variable in files


@takes_ids
@keras.saving.register_keras_serializable(package="rowwise")
class DynamicEmbedding(keras.layers.Layer):
    """Turn any 64-bit integers, or any strings, into vectors, within bounded memory.

    In training (`fit`, `train_on_batch`, a call with `training=True`) a call counts its ids, and
    gives rows to those due one; a row may be taken from an id that stays away. Everything else
    reads, `predict` and `evaluate` too: nothing is counted, nobody admitted. On JAX only `fit` and
    `train_on_batch` train. The numbers are those of `rowwise.dynamic.DynamicTable`,
    which is the attribute `dynamic`.

    Files hold ids, counts and sketch with the embeddings: `.keras` files, `.weights.h5` files, and
    checkpoints of `rowwise.keras.BackupAndRestore`. Checkpointing activations
    (`keras.remat`) would count ids again at each recomputation.

    Args:
        capacity: number of rows for ids.
        output_dim: length D of a vector.
        embeddings_initializer: what a row starts with when an id gets it: "uniform", "normal",
            "zeros", or `keras.initializers.RandomUniform(-a, a)`, `RandomNormal` of mean 0 or
            `Zeros`. It depends on the initializer's seed and the id alone.
        mask_zero: whether id 0, or the empty string, is padding, to be masked out by the layers
            that follow. (It has a row like any other.)
        ids: "integers" (of 64 bits; any value) or "strings" (TensorFlow's; elsewhere `encoded`).
        encoded: whether ids come as `rowwise.keras.encode_ids` makes them, with one axis more. So
            every backend holds strings, and JAX integers of 64 bits without `JAX_ENABLE_X64=1`.
        admit_after, evict, ttl, unknown_rows, evict_share, in_flight: see
            `rowwise.dynamic.IdIndex`.
        on_evict: see `rowwise.dynamic.DynamicTable`; it is not saved. It runs in the midst of a
            step: on JAX and TensorFlow it must not call them.
        scratch, memory: for rows on a disk, of which those used lately are in memory; see
            `rowwise.Table` and docs/larger-than-memory.md. On the backend torch.
        **kwargs: of `keras.layers.Layer` (name, dtype, trainable...).

    Input shape:
        (...,) ids; (..., 2) or (..., width) if `encoded`. Declare their dtype, as in
        `keras.Input((10,), dtype="int64")`.

    Output shape:
        (..., D).

    Raises:
        ValueError: an argument out of its bounds, or strings that the backend has no tensors of;
            when it is trained, an optimizer without an exact lazy update.
        IndexError: on JAX, an integer that JAX would cut to 32 bits.
        NotImplementedError: a model with this layer is exported.

    Example:
        >>> import keras, numpy as np
        >>> from rowwise.keras import DynamicEmbedding
        >>> layer = DynamicEmbedding(1000, 8, admit_after=2)
        >>> model = keras.Sequential(
        ...     [keras.Input((2,), dtype="int64"), layer, keras.layers.Flatten()]
        ... )
        >>> model.compile("adam", "mse")
        >>> clicks = np.array([[70_000, -5], [70_000, 8]])
        >>> history = model.fit(clicks, np.ones((2, 16)), verbose=0)
        >>> layer.has_row([70_000, -5]).tolist()
        [True, False]
    """

    _embeddings: Any  # a DynamicVariableBase

    def __init__(
        self,
        capacity: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        mask_zero: bool = False,
        *,
        ids: IdKind = "integers",
        encoded: bool = False,
        admit_after: int = 1,
        evict: Evict = "lru",
        ttl: int | None = None,
        unknown_rows: int = 1,
        evict_share: float = 0.05,
        in_flight: int = 2,
        on_evict: OnEvict | None = None,
        scratch: Folder | None = None,
        memory: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        _check_disk(scratch, memory)
        super().__init__(**kwargs)
        self.autocast = False  # of ids to half precision
        self._index_options = {
            "capacity": capacity,
            "ids": ids,
            "admit_after": admit_after,
            "evict": evict,
            "ttl": ttl,
            "unknown_rows": unknown_rows,
            "evict_share": evict_share,
            "in_flight": in_flight,
        }
        IdIndex(**self._index_options)  # type: ignore[arg-type]  # raises what is out of bounds
        if ids == "strings" and not encoded and BACKEND != "tensorflow":
            raise ValueError(
                f"Keras on {BACKEND} has no tensors of strings: DynamicEmbedding(..., "
                "ids='strings', encoded=True), and give it rowwise.keras.encode_ids(strings, width)"
            )
        if output_dim < 1:
            raise ValueError(f"output_dim={output_dim} must be at least 1")
        if self.variable_dtype != "float32":
            raise ValueError(
                f"{self.name}: a table's rows are float32, not {self.variable_dtype}; take a dtype "
                "policy with variables of float32, such as 'mixed_bfloat16'"
            )
        self.capacity, self.output_dim = int(capacity), int(output_dim)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self._starts_of_rows = _starts_of(self.embeddings_initializer)
        self.mask_zero, self.encoded = mask_zero, encoded
        self.supports_masking = mask_zero
        self.supports_jit = backend.supports_jit
        self.scratch, self.memory = None if scratch is None else os.fspath(scratch), memory
        self._on_evict = on_evict

    def build(self, input_shape: Any = None) -> None:
        """Make the rows."""
        if DynamicVariableBase.refused is not None:
            raise ValueError(
                f"a DynamicEmbedding cannot be trained here: {DynamicVariableBase.refused}"
            )
        index = IdIndex(**self._index_options)  # type: ignore[arg-type]
        with keras.name_scope(self.name, caller=self):
            self._embeddings = backend.DynamicVariable(
                index,
                self._starts_of_rows,
                encoded=self.encoded,
                initializer="zeros",  # the variable gives unknown rows their starts
                shape=(index.rows, self.output_dim),
                dtype="float32",
                trainable=True,
                name="embeddings",
                **self._place,
            )
        self._track_variable(self._embeddings)
        self._embeddings.trainable = self.trainable
        self._embeddings.on_evict = self._on_evict
        self.built = True

    @property
    def _place(self) -> dict[str, Any]:
        """Where rows lie, if not in memory."""
        on_disk = self.memory is not None
        return {"scratch": self.scratch, "memory": self.memory} if on_disk else {}

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Return the vectors (..., D) of ids inputs (...,)."""
        observe = bool(training) and self._embeddings.trainable
        rows = backend.find_rows(self._embeddings, backend.to_ids(inputs), observe)
        return ops.cast(backend.lookup(self._embeddings, rows), self.compute_dtype)

    # ------------------------------------------------------------------ the index

    @property
    def dynamic(self) -> DynamicTable:
        """Return the table of ids and rows: `lookup`, `has_row`, `evicted_since`, `save`.

        Raises:
            ValueError: the layer is not built.
        """
        if not self.built:
            raise ValueError(f"layer {self.name!r} has no rows before it is built")
        self._embeddings.table  # noqa: B018  (waits for steps that are being made)
        return self._embeddings.dynamic

    def has_row(self, ids: Any) -> NDArray[np.bool_]:
        """Return whether ids (...,), integers or strings as in logs, have a row of their own."""
        return self.dynamic.has_row(ids)

    def prefetch(self, ids: Any) -> None:
        """Begin to read the next batch's rows, where they lie on a disk; no value depends on it.

        Args:
            ids: what the layer is called with next. Nothing is counted.

        Raises:
            TypeError, ValueError: no ids.
        """
        if self._is_on_disk():
            rows = self._embeddings.rows_of(ops.convert_to_numpy(ids), observe=False)
            self._embeddings.table.prefetch(rows)

    @property
    def on_evict(self) -> OnEvict | None:
        """Function called with the ids that lost their rows, and their vectors; it may be set."""
        return self._on_evict

    @on_evict.setter
    def on_evict(self, function: OnEvict | None) -> None:
        self._on_evict = function
        if self.built:
            self._embeddings.on_evict = function

    # ------------------------------------------------------------------ Keras

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return which ids (...,) are no padding, if `mask_zero` is set."""
        if not self.mask_zero:
            return None
        if self.encoded:
            return ops.any(ops.not_equal(inputs, 0), axis=-1)
        return (
            ops.not_equal(inputs, 0) if self._index_options["ids"] == "integers" else inputs != ""
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return (..., D)."""
        shape = tuple(input_shape)
        return (*(shape[:-1] if self.encoded else shape), self.output_dim)

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs to make the layer again."""
        return {
            **super().get_config(),
            **self._index_options,
            "output_dim": self.output_dim,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "mask_zero": self.mask_zero,
            "encoded": self.encoded,
            **self._place,
        }

    def _is_on_disk(self) -> bool:
        return self.built and self.memory is not None

    def save_own_variables(self, store: Any) -> None:
        """Write embeddings, ids, counts and sketch to a file of weights.

        Those of rows on a disk are in the table's file, see `save_assets`.

        Raises:
            ValueError: rows on a disk, and no assets are saved.
        """
        if self._is_on_disk():
            check_saves_assets(self)
            return
        # So that what is loaded goes on to the bits of what was saved: the rows that a file holds
        # are up to date, rounded.
        self._embeddings.table.materialize()
        store[_WEIGHTS] = self._embeddings.numpy()
        for name, array in self._embeddings.save_ids().items():
            store[name] = array

    def load_own_variables(self, store: Any) -> None:
        """Read what `save_own_variables` wrote.

        Raises:
            ValueError: a file without ids, of other ids, or of another number of rows; one of rows
                in memory for rows on a disk.
        """
        names = set(store.keys())
        if self._is_on_disk():
            if names:
                refuse_without_assets(self)
            return  # `load_assets` has them
        if not {_WEIGHTS, "about"} <= names:
            raise ValueError(
                f"layer {self.name!r}: the file holds no ids of a DynamicEmbedding, but {names}"
            )
        arrays = {name: np.asarray(store[name]) for name in names}
        weights = arrays.pop(_WEIGHTS)
        if weights.shape != tuple(self._embeddings.shape):
            raise ValueError(
                f"layer {self.name!r}: the file's embeddings are {weights.shape}, and the layer's "
                f"{tuple(self._embeddings.shape)}"
            )
        self._embeddings.load_ids(arrays)
        self._embeddings.assign(weights)

    def save_assets(self, folder: str) -> None:
        """Write the file of rows on a disk, with slots and ids, into a `.keras` file."""
        if self._is_on_disk():
            self.dynamic.save(os.path.join(folder, _TABLE))

    def load_assets(self, folder: str | None) -> None:
        """Read what `save_assets` wrote.

        Raises:
            ValueError: the file has no rows of a disk, or others.
        """
        if not self._is_on_disk():
            return
        path = os.path.join(folder or "", _TABLE)
        if not os.path.exists(path):
            raise ValueError(f"the file has no rows on a disk for layer {self.name!r}")
        self._embeddings.load_file(path)


def refuse_export(original: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Write a model for serving, where it has no index. Wraps Keras's `Model.export`."""
    if any(isinstance(one, DynamicEmbedding) for one in id_layers_in(model)):
        raise NotImplementedError(NO_INDEX)
    return original(model, *args, **kwargs)


def _check_disk(scratch: Folder | None, memory: int | str | None) -> None:
    """Refuse rows on a disk where they cannot be had.

    Raises:
        ValueError: one of the two without the other; another backend than torch.
        TypeError: memory that is no size.
    """
    check_has_memory(scratch, memory)
    if cached_bytes(memory, scratch) is not None and BACKEND != "torch":
        raise ValueError(
            "a DynamicEmbedding with rows on a disk needs Keras's backend torch "
            f"(KERAS_BACKEND=torch), and this is {BACKEND}; leave out scratch and memory"
        )


def _starts_of(initializer: Any) -> RowStarts:
    """Return the starts by id that an initializer of Keras stands for.

    Raises:
        ValueError: one that stands for no starts by id.
    """
    seed = getattr(initializer, "seed", 0)
    if isinstance(seed, int):
        seed %= 2**64
        if type(initializer) is Zeros:
            return RowStarts.of("zeros", None, 0)
        if type(initializer) is RandomUniform and initializer.minval == -initializer.maxval:
            return RowStarts.of("uniform", initializer.maxval, seed)
        if type(initializer) is RandomNormal and initializer.mean == 0:
            return RowStarts.of("normal", initializer.stddev, seed)
    raise ValueError(
        f"embeddings_initializer={initializer!r}: a row's start depends on a seed and its id "
        "alone; take 'uniform', 'normal', 'zeros', RandomUniform(-a, a), RandomNormal of mean 0, "
        "or Zeros, with an integer as their seed or none"
    )
