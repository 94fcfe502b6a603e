"""`rowwise.keras.Embedding`: Keras's layer on a rowwise table."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from rowwise._checks import check_has_memory, check_rounding
from rowwise._init import Init
from rowwise._untrained import Untrained, check_untrained
from rowwise.keras._assets import check_saves_assets
from rowwise.keras._backend import backend
from rowwise.keras._ids import takes_ids
from rowwise.keras._initial_values import draw_of
from rowwise.keras._optimizer import freeze_row
from rowwise.keras._quantized import dequantize_int4, dequantize_int8
from rowwise.keras._scopes import is_symbolic_call
from rowwise.keras._variable import TableVariableBase
from rowwise.store import Folder
from rowwise.table import Table, cached_bytes
from rowwise.text import Vocabulary
from rowwise.vectors import Coverage, pretrained_rows

_STATISTICS, _TABLE = "rows.npz", "table.safetensors"
_ROUNDING_SEED = "rounding_seed"  # an array of the former, where rounding is random
_HALVES = ("bfloat16", "float16")

# What files of version 0.1.0 call an option, and its values.
_OLD_UNTRAINED = {"as-is": "as-is", "zero": "zeros", "mean": "mean", "error": "error"}


@takes_ids
@keras.saving.register_keras_serializable(package="rowwise")
class Embedding(keras.layers.Embedding):
    """Turn nonnegative integers (indexes) into dense vectors of fixed size.

    Arguments, shapes, masking, weights and files are those of `keras.layers.Embedding`, and so
    are the numbers, in training too; but a training step costs what the batch costs, however
    many rows the table has. Where an option needs every row at every step (an
    `embeddings_regularizer` or `embeddings_constraint`, an optimizer without an exact lazy update),
    every row is visited, to Keras's numbers, with a warning that names the cause.

    Args:
        input_dim: number of rows V; ids are 0..V-1.
        output_dim: length D of a vector.
        embeddings_initializer: what the rows start with.
        embeddings_regularizer: a penalty on the embeddings, added to the loss.
        embeddings_constraint: applied to the embeddings after each step.
        mask_zero: whether id 0 is padding, to be masked out by the layers that follow.
        weights: the initial embeddings, (V, D), instead of the initializer's; they are trained.
        lora_rank, lora_alpha, quantization_config: as in Keras.
        input_length: length of the input sequences, where the input shape leaves it open.
        freeze_mask_row: whether row 0, which `mask_zero` makes padding, stays bit for bit what it
            is, whatever Keras optimizer trains the others. (Keras's layer has no such option, and
            does not open a file of a layer that uses it.)
        scratch, memory: for rows on a disk, of which those used lately are in memory; see
            `rowwise.Table` and docs/larger-than-memory.md.
        rounding: keep variables of bfloat16 or float16 (`dtype="bfloat16"`) on a table, too, and
            round them so: "nearest" or "stochastic", see `rowwise.Table`. Slots and arithmetic are
            then float32, where Keras's have 16 bits: the numbers are those of the table, and are
            other ones than Keras's. None leaves such variables to Keras, with a warning.
        untrained: what a row gives that was never trained, when the layer does not train: "as-is"
            (what it started with), "zeros", "mean" (of the rows trained) or "error"; see
            `rowwise.Table.lookup`.
        **kwargs: of `keras.layers.Layer` (name, dtype, trainable...).

    Input shape:
        (...,) integers, or floats that are whole. Integers stay what they are on their way through
        a model's input, also where Keras would cast them to float, in which large ids collide.

    Output shape:
        (..., D).

    Raises:
        IndexError: an id outside 0..V-1, when the layer is called.
        ValueError: an id that is no whole number, or too large a float to be told from the next;
            rounding for variables that are neither float32 nor of 16 bits.

    Example:
        >>> import numpy as np
        >>> from keras import Sequential
        >>> model = Sequential([Embedding(1000, 64)])
        >>> model.compile("rmsprop", "mse")
        >>> model.predict(np.random.randint(1000, size=(32, 10)), verbose=0).shape
        (32, 10, 64)
    """

    built: bool
    pretrained: Coverage | None = None

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        weights: Any = None,
        lora_rank: int | None = None,
        lora_alpha: int | None = None,
        quantization_config: Any = None,
        input_length: int | None = None,
        *,
        freeze_mask_row: bool = False,
        untrained: Untrained = "as-is",
        scratch: Folder | None = None,
        memory: int | str | None = None,
        rounding: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_untrained(untrained)
        check_rounding(rounding)
        self._check_disk(scratch, memory)
        if freeze_mask_row and not mask_zero:
            raise ValueError("freeze_mask_row=True needs mask_zero=True: no row is a mask's row")
        refused = TableVariableBase.refused
        if refused and (freeze_mask_row or untrained != "as-is" or rounding is not None):
            raise ValueError(f"freeze_mask_row, untrained and rounding need a table: {refused}")
        self.input_length = input_length
        self.freeze_mask_row, self.untrained, self.rounding = freeze_mask_row, untrained, rounding
        self.scratch, self.memory = None if scratch is None else os.fspath(scratch), memory
        # Arguments that older versions of Keras have not are passed on where they are given.
        newer = {"lora_alpha": lora_alpha, "quantization_config": quantization_config}
        super().__init__(
            input_dim,
            output_dim,
            embeddings_initializer,
            embeddings_regularizer,
            embeddings_constraint,
            mask_zero,
            weights,
            lora_rank,
            **{name: value for name, value in newer.items() if value is not None},
            **kwargs,
        )
        self.supports_jit = backend.supports_jit
        if rounding is not None and self.variable_dtype not in ("float32", *_HALVES):
            raise ValueError(
                f"rounding={rounding!r} is for variables of 16 bits, not {self.variable_dtype}; "
                "give dtype='bfloat16' or 'float16', or leave rounding out"
            )

    def _check_disk(self, scratch: Folder | None, memory: int | str | None) -> None:
        """Refuse rows on a disk where they cannot be had.

        Raises:
            ValueError: one of the two without the other; there are no tables.
            TypeError: memory that is no size.
        """
        check_has_memory(scratch, memory)
        if cached_bytes(memory, scratch) is not None and TableVariableBase.refused:
            raise ValueError(f"rows on a disk need a table: {TableVariableBase.refused}")

    def add_weight(self, *args: Any, name: str | None = None, **options: Any) -> Any:
        """Make a variable, as Keras does; on a table, if it has one row per id."""
        given = dict(zip(("shape", "initializer", "dtype"), args, strict=False))
        if (
            name not in ("embeddings", "lora_embeddings_a")
            or len(args) > 3
            or given.keys() & options
        ):
            return super().add_weight(*args, name=name, **options)
        options = given | options
        dtype = keras.backend.standardize_dtype(options.get("dtype") or self.variable_dtype)
        if "float" not in dtype or options.pop("overwrite_with_gradient", False):
            return super().add_weight(name=name, **options)
        if TableVariableBase.refused is not None:
            return super().add_weight(name=name, **options)
        on_disk = self.memory is not None and name == "embeddings"
        reason = None if on_disk else backend.TableVariable.why_dense(dtype)
        if dtype in _HALVES and self.rounding is None:
            rounding = '"nearest"' if on_disk else '"nearest" or "stochastic"'
            reason = f"with rounding={rounding} it is a table with slots of float32"
        elif dtype not in ("float32", *_HALVES):
            reason = "rowwise's tables are float32, bfloat16 or float16"
        if reason is not None and on_disk:
            raise ValueError(f"{self.name}: rows of {dtype} cannot lie on a disk: {reason}")
        if reason is None:
            variable = self._add_table(name=name, **{**options, "dtype": dtype})
        else:
            warnings.warn(
                f"{self.name}: a table of {dtype} is trained densely, by Keras; {reason}",
                stacklevel=3,
            )
            variable = super().add_weight(name=name, **options)
        if self.freeze_mask_row:
            freeze_row(variable, 0)
        return variable

    def _add_table(
        self,
        *,
        name: str,
        shape: tuple[int, int],
        dtype: str,
        initializer: Any = None,
        trainable: bool = True,
        regularizer: Any = None,
        constraint: Any = None,
        **options: Any,
    ) -> Any:
        on_disk = self.memory is not None and name == "embeddings"
        place = {"scratch": self.scratch, "memory": self.memory} if on_disk else {}
        for option, value in (("regularizer", regularizer), ("constraint", constraint)):
            if on_disk and value is not None:
                raise ValueError(
                    f"{self.name}: embeddings_{option} needs all rows at every step, and they lie "
                    "on a disk; leave it out, or leave out scratch= and memory="
                )
        with keras.name_scope(self.name, caller=self):
            variable = backend.TableVariable(
                initializer=keras.initializers.get(initializer or "glorot_uniform"),
                shape=shape,
                dtype=dtype,
                trainable=trainable,
                name=name,
                rounding=None if dtype == "float32" else self.rounding,
                **place,
                **options,
            )
        variable.regularizer = keras.regularizers.get(regularizer)
        variable.constraint = keras.constraints.get(constraint)
        self._track_variable(variable)
        variable.trainable = trainable and self.trainable  # once tracked as what can be trained
        return variable

    @property
    def table(self) -> Table:
        """Return the rowwise table behind the layer: counts of updates, untrained rows, `save`.

        Raises:
            ValueError: the layer is not built, or its weights are not kept in a table (quantized,
                or of 16 bits without `rounding=`).
        """
        return self._table_variable().table

    def _table_variable(self) -> TableVariableBase:
        embeddings = getattr(self, "_embeddings", None)
        if not isinstance(embeddings, TableVariableBase):
            cause = TableVariableBase.refused or "is it built, and float32 or with rounding=?"
            raise ValueError(f"layer {self.name!r} has no table: {cause}")
        return embeddings

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Return vectors (..., D) of the rows inputs (...,)."""
        ids = backend.to_ids(inputs)
        rows = backend.lookup(self._embeddings, ids)
        if self.untrained != "as-is" and not training and not is_symbolic_call():
            self.table  # noqa: B018 - raises where there is none
            rows = backend.fill_untrained(self._embeddings, ids, rows, self.untrained)
        return self._adapted(rows, ids)

    def _int8_call(self, inputs: Any, training: Any = None) -> Any:
        ids = backend.to_ids(inputs)
        return self._adapted(dequantize_int8(self, ids), ids)

    def _int4_call(self, inputs: Any, training: Any = None) -> Any:
        ids = backend.to_ids(inputs)
        return self._adapted(dequantize_int4(self, ids), ids)

    def _adapted(self, vectors: Any, ids: Any) -> Any:
        """Return vectors (..., D) of rows ids (...,), and LoRA's: + alpha / rank * A[ids] @ B."""
        if self.lora_enabled:
            moves = keras.ops.matmul(
                backend.lookup(self.lora_embeddings_a, ids), self.lora_embeddings_b
            )
            vectors = keras.ops.add(vectors, (self.lora_alpha / self.lora_rank) * moves)
        return keras.ops.cast(vectors, dtype=self.compute_dtype)

    def enable_lora(self, rank: int, *args: Any, **options: Any) -> None:
        """Adapt the embeddings by A @ B, (V, rank) and (rank, D), and train these alone.

        Arguments and errors are Keras's: rank, lora_alpha, a_initializer, b_initializer.

        Raises:
            ValueError: the rows lie on a disk.
        """
        if self.memory is not None:
            raise ValueError(
                f"layer {self.name!r} has its rows on a disk, and LoRA would keep rank numbers of "
                "each of them in memory; leave out lora_rank, or scratch= and memory="
            )
        super().enable_lora(rank, *args, **options)
        if self.freeze_mask_row:
            a = keras.ops.convert_to_numpy(self.lora_embeddings_a).copy()
            a[0] = 0.0  # and so it stays: B cannot move row 0
            self.lora_embeddings_a.assign(a)

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        """Quantize the embeddings in place, as Keras does; they leave their table."""
        super().quantize(mode, type_check and type(self) is not Embedding, config)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return (..., D), with `input_length` where the input's length is open."""
        shape = tuple(input_shape)
        if self.input_length is not None and len(shape) == 2 and shape[1] is None:
            shape = (shape[0], self.input_length)
        return (*shape, self.output_dim)

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs to make the layer again."""
        return {**super().get_config(), **self._own_options()}

    def _own_options(self) -> dict[str, Any]:
        """Return the options that Keras's layer does not have, but for defaults."""
        own = {
            "input_length": (self.input_length, None),
            "freeze_mask_row": (self.freeze_mask_row, False),
            "untrained": (self.untrained, "as-is"),
            "scratch": (self.scratch, None),
            "memory": (self.memory, None),
            "rounding": (self.rounding, None),
        }
        return {name: value for name, (value, default) in own.items() if value != default}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Make the layer of which `get_config` returned this, in this version or in 0.1.0."""
        if "unseen" in config:
            config = {**config, "untrained": _OLD_UNTRAINED[config["unseen"]]}
            del config["unseen"]
        return super().from_config(config)

    def __repr__(self) -> str:
        options = {
            "trainable": (self.trainable, True),
            "mask_zero": (self.mask_zero, False),
            "embeddings_initializer": (
                self.embeddings_initializer,
                keras.initializers.get("uniform"),
            ),
            "embeddings_regularizer": (self.embeddings_regularizer, None),
            "embeddings_constraint": (self.embeddings_constraint, None),
            "lora_rank": (self.lora_rank, None),
        }
        shown = {"name": self.name, "built": self.built}
        shown |= {"input_dim": self.input_dim, "output_dim": self.output_dim}
        shown |= {name: v for name, (v, default) in options.items() if not _same(v, default)}
        shown |= self._own_options()
        listed = ", ".join(f"{name}={_short(value)}" for name, value in shown.items())
        return f"<{type(self).__name__} {listed}>"

    # ------------------------------------------------------------------ growing

    def grow(self, input_dim: int, *, init: Init | None = None, seed: int | None = None) -> None:
        """Add rows at the end, up to `input_dim` in all; see `rowwise.Table.grow`.

        A compiled model goes on training as it is: the optimizer's slots grow with the rows.

        Args:
            input_dim: number of rows.
            init: what new rows start with, see `rowwise.Table.remap`; as `embeddings_initializer`
                says unless given. Of rows on a disk a name.
            seed: of init.

        Raises:
            ValueError: fewer rows than there are; the layer has no table, or has LoRA weights;
                an optimizer has slots for the rows there are outside the table; rows on a disk
                whose start has no name.
        """
        self._table_to_change().grow(input_dim, init=self._start_of_new_rows(init), seed=seed)
        self._follow_table()

    def remap(self, source_rows: Any, *, init: Init | None = None, seed: int | None = None) -> None:
        """Make row i what row source_rows[i] was, with its slots; -1 makes a new row.

        See `rowwise.Table.remap`, and `rowwise.Vocabulary.indexer_from` for source_rows.

        Args:
            source_rows: (new rows,) ids of this layer, each at most once, or -1.
            init, seed: see `grow`.

        Raises:
            ValueError, IndexError, TypeError: see `grow` and `rowwise.Table.remap`.
        """
        self._table_to_change().remap(source_rows, init=self._start_of_new_rows(init), seed=seed)
        self._follow_table()

    def prefetch(self, ids: Any) -> None:
        """Begin to read the next batch's rows, where they lie on a disk; no value depends on it.

        Raises:
            IndexError, TypeError, ValueError: bad ids, see `rowwise.Table.lookup`.
        """
        self._table_variable().prefetch(keras.ops.convert_to_numpy(ids))

    def _start_of_new_rows(self, init: Init | None) -> Init:
        """Return what new rows start with, if not given: as the initializer says."""
        if init is not None:
            return init
        initializer = self.embeddings_initializer
        draw = draw_of(initializer, (self.input_dim, self.output_dim))
        if self._is_on_disk() and draw is not None and draw.table_init is not None:
            return draw.table_init
        return lambda shape: keras.ops.convert_to_numpy(initializer(shape))

    def _table_to_change(self) -> Table:
        table = self.table
        if self.lora_enabled:
            raise ValueError(
                f"layer {self.name!r} has LoRA weights for the rows it has now; add rows before "
                "enable_lora"
            )
        self._embeddings.check_rows_may_change()
        return table

    def _follow_table(self) -> None:
        self._embeddings.rebind_table()
        self.input_dim = self.table.rows

    # ------------------------------------------------------------------ values from elsewhere

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        *,
        trainable: bool = True,
        init: Init = "uniform",
        seed: int | None = None,
        verbose: bool = True,
        **kwargs: Any,
    ) -> Embedding:
        """Make a built layer from vectors that were trained elsewhere; they count as trained.

        Args:
            embeddings: (V, D) numbers (an array or a tensor), or `rowwise.Vectors`.
            vocabulary: V words in the order of their ids; those of the vectors unless given. Only
                with `Vectors`.
            trainable: whether training moves them.
            init: what words start with that have no vector, see `rowwise.vectors.rows_for`.
            seed: of init.
            verbose: print how many words were found; the count is also `layer.pretrained`.
            **kwargs: of the layer: mask_zero, untrained, name...

        Raises:
            TypeError: vocabulary without words to look up.
            ValueError: embeddings that are not (V, D).

        Example:
            >>> from rowwise.vectors import Vectors
            >>> vectors = Vectors(["tea", "cup"], [[1.0, 2.0], [3.0, 4.0]])
            >>> layer = Embedding.from_pretrained(vectors, ["cup", "pot"], init="zeros")
            1 of 2 words found (50.0%); missing: 'pot'
            >>> layer.table.lookup([0]).tolist()
            [[3.0, 4.0]]
        """
        pretrained = pretrained_rows(embeddings, vocabulary, init, seed=seed)
        rows, dim = pretrained.rows.shape
        layer = cls(rows, dim, **kwargs)
        layer.build()
        layer._embeddings.assign(pretrained.rows)  # not set_weights: some may be untrained
        layer.trainable = trainable
        layer.pretrained = pretrained.coverage
        layer._mark_trained(np.flatnonzero(pretrained.found))
        if verbose and pretrained.coverage is not None:
            print(pretrained.coverage)
        return layer

    def set_weights(self, weights: Any) -> None:
        """Set the weights, in Keras's order; the rows count as trained."""
        super().set_weights(weights)
        self._mark_trained()

    def load_own_variables(self, store: Any) -> None:
        """Load the weights from a file; the rows count as trained."""
        if self._is_on_disk() and not store.keys():
            return  # `load_assets` has them
        super().load_own_variables(store)
        self._mark_trained()

    def _mark_trained(self, ids: Any = None) -> None:
        if self._has_table():
            self.table.mark_trained(ids)

    def _has_table(self) -> bool:
        return isinstance(getattr(self, "_embeddings", None), TableVariableBase)

    def save_own_variables(self, store: Any) -> None:
        """Save the weights; those on a disk are in the table's file, see `save_assets`.

        Raises:
            ValueError: rows on a disk, and no assets are saved.
        """
        if self._is_on_disk():
            check_saves_assets(self)
            return
        if self._has_table() and self.table.rounding == "stochastic":
            self.table.materialize()  # what is loaded goes on from the numbers that were drawn now
        super().save_own_variables(store)

    def _is_on_disk(self) -> bool:
        return self._has_table() and self._embeddings.on_disk

    def save_assets(self, folder: str) -> None:
        """Write into a `.keras` file how often and when each row was trained.

        With it goes the seed of random rounding. Of rows on a disk it is the table's file, slots
        included.
        """
        if self._is_on_disk():
            self.table.save(os.path.join(folder, _TABLE))
        elif self._has_table():
            store: Any = self.table.store
            arrays = store.counts()
            if self.table.rounding == "stochastic":
                arrays[_ROUNDING_SEED] = np.array(store.rounding_seed)
            with open(os.path.join(folder, _STATISTICS), "wb") as file:
                np.savez(file, **arrays)

    def load_assets(self, folder: str | None) -> None:
        """Read what `save_assets` wrote, in this version or in 0.1.0; nothing in Keras's files."""
        path = os.path.join(folder or "", _TABLE)
        if self._is_on_disk():
            if not os.path.exists(path):
                raise ValueError(f"the file has no rows on a disk for layer {self.name!r}")
            found, own = Table.load(path, scratch=self.scratch, memory=self.memory), self.table
            if (found.shape, found.dtype) != (own.shape, own.dtype):
                raise ValueError(
                    f"layer {self.name!r}: the file's rows are {found.shape} of {found.dtype}, and "
                    f"the layer's {own.shape} of {own.dtype}"
                )
            own.become(found)
            return
        path = os.path.join(folder or "", _STATISTICS)
        if self._has_table() and os.path.exists(path):
            with np.load(path, allow_pickle=False) as arrays:
                # NumPy before 2.2 took an option of 0.1.0's for one more array.
                counts = {name: arrays[name] for name in arrays if name != "allow_pickle"}
            if "updates" in counts:
                counts["update_counts"] = counts.pop("updates")
            seed = counts.pop(_ROUNDING_SEED, None)
            store: Any = self.table.store
            store.load_counts(**counts)
            if seed is not None and self.table.rounding == "stochastic":
                store.resume_rounding(int(seed), store.steps)


def _same(value: Any, default: Any) -> bool:
    """Return whether an option is its default; initializers are compared by their config."""
    if hasattr(value, "get_config") and type(value) is type(default):
        return {**value.get_config(), "seed": None} == {**default.get_config(), "seed": None}
    return bool(value == default)


def _short(value: Any) -> str:
    """Return what to show of an option: of an initializer and the like, its class."""
    if isinstance(value, str | int | float | None):
        return f"{value}"
    return getattr(value, "__name__", type(value).__name__)
