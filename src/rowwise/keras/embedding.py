"""`rowwise.keras.Embedding`: Keras's layer on a rowwise table."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from rowwise._init import Init
from rowwise._untrained import Untrained, check_untrained
from rowwise.keras.backend import compiles, ids_of, rows_of, with_untrained_filled
from rowwise.keras.frozen import freeze_row
from rowwise.keras.inputs import takes_ids
from rowwise.keras.quantized import dequantized_int4, dequantized_int8
from rowwise.keras.scopes import only_shapes_count
from rowwise.keras.variables import TableVariable
from rowwise.table import Table
from rowwise.text._vocabulary import Vocabulary
from rowwise.vectors import Coverage, Vectors, rows_for

_STATISTICS = "rows.npz"


@takes_ids
@keras.saving.register_keras_serializable(package="rowwise")
class Embedding(keras.layers.Embedding):
    """Turns nonnegative integers (indexes) into dense vectors of fixed size.

    Arguments, shapes, masking, weights and files are those of `keras.layers.Embedding`, and so
    are the numbers, in training too; but a training step costs what the batch costs, however
    many rows the table has. Where an option needs every row at every step (an
    `embeddings_regularizer` or `embeddings_constraint`, an optimizer that is not known by rows),
    every row is visited, to Keras's numbers, with a warning that names the cause.

    Args:
        input_dim: number of rows V; ids are 0..V-1.
        output_dim: length D of a vector.
        embeddings_initializer: what the rows start with.
        embeddings_regularizer: a penalty on the embeddings, added to the loss.
        embeddings_constraint: applied to the embeddings after each step.
        mask_zero: whether id 0 is padding, to be masked out by the layers that follow.
        weights: the initial embeddings, (V, D), instead of the initializer's.
        lora_rank, lora_alpha, quantization_config: as in Keras.
        input_length: length of the input sequences, where the input shape leaves it open.
        freeze_mask_row: whether row 0, which `mask_zero` makes padding, stays bit for bit what it
            is, whatever Keras optimizer trains the others. (Keras's layer has no such option, and
            does not open a file of a layer that uses it.)
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
        ValueError: an id that is no whole number, or too large a float to be told from the next.

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
        **kwargs: Any,
    ) -> None:
        check_untrained(untrained)
        if freeze_mask_row and not mask_zero:
            raise ValueError("freeze_mask_row=True needs mask_zero=True: no row is a mask's row")
        self.input_length = input_length
        self.freeze_mask_row, self.untrained = freeze_mask_row, untrained
        super().__init__(
            input_dim,
            output_dim,
            embeddings_initializer,
            embeddings_regularizer,
            embeddings_constraint,
            mask_zero,
            weights,
            lora_rank,
            lora_alpha,
            quantization_config,
            **kwargs,
        )
        self.supports_jit = compiles

    def add_weight(self, *args: Any, name: str | None = None, **options: Any) -> Any:
        """Makes a variable, as Keras does; on a table, if it is one row per id."""
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
        if dtype == "float32":
            variable = self._add_table(name=name, **options)
        else:
            warnings.warn(
                f"{self.name}: a table of {dtype} is trained densely, by Keras; rowwise's tables "
                "are float32",
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
        initializer: Any = None,
        dtype: Any = None,
        trainable: bool = True,
        regularizer: Any = None,
        constraint: Any = None,
        **options: Any,
    ) -> TableVariable:
        with keras.name_scope(self.name, caller=self):
            variable = TableVariable(
                initializer=keras.initializers.get(initializer or "glorot_uniform"),
                shape=shape,
                dtype="float32",
                trainable=trainable,
                name=name,
                **options,
            )
        variable.regularizer = keras.regularizers.get(regularizer)
        variable.constraint = keras.constraints.get(constraint)
        self._track_variable(variable)
        variable.trainable = trainable and self.trainable  # once tracked as what can be trained
        return variable

    @property
    def table(self) -> Table:
        """The rowwise table behind the layer: counts of updates, untrained rows, `save`.

        Raises:
            ValueError: the layer is not built, or its weights are not kept in a table (quantized,
                or not float32).
        """
        embeddings = getattr(self, "_embeddings", None)
        if not isinstance(embeddings, TableVariable):
            raise ValueError(f"layer {self.name!r} has no table: is it built, and float32?")
        return embeddings.table

    def call(self, inputs: Any, training: Any = None) -> Any:
        """vectors (..., D) of the rows inputs (...,)."""
        ids = ids_of(inputs)
        rows = rows_of(self._embeddings, ids)
        if self.untrained != "as-is" and not training and not only_shapes_count():
            self.table  # noqa: B018 - says so where there is none
            rows = with_untrained_filled(self._embeddings, ids, rows, self.untrained)
        return self._adapted(rows, ids)

    def _int8_call(self, inputs: Any, training: Any = None) -> Any:
        ids = ids_of(inputs)
        return self._adapted(dequantized_int8(self, ids), ids)

    def _int4_call(self, inputs: Any, training: Any = None) -> Any:
        ids = ids_of(inputs)
        return self._adapted(dequantized_int4(self, ids), ids)

    def _adapted(self, vectors: Any, ids: Any) -> Any:
        """vectors (..., D) of rows ids (...,), moved by LoRA: + alpha / rank * A[ids] @ B."""
        if self.lora_enabled:
            moves = keras.ops.matmul(rows_of(self.lora_embeddings_a, ids), self.lora_embeddings_b)
            vectors = keras.ops.add(vectors, (self.lora_alpha / self.lora_rank) * moves)
        return keras.ops.cast(vectors, dtype=self.compute_dtype)

    def enable_lora(self, rank: int, *args: Any, **options: Any) -> None:
        """Adapts the embeddings by A @ B, (V, rank) and (rank, D), and trains these alone.

        Arguments and errors are Keras's: rank, lora_alpha, a_initializer, b_initializer.
        """
        super().enable_lora(rank, *args, **options)
        if self.freeze_mask_row:
            a = keras.ops.convert_to_numpy(self.lora_embeddings_a).copy()
            a[0] = 0.0  # and so it stays: B cannot move row 0
            self.lora_embeddings_a.assign(a)

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        """Quantizes the embeddings in place, as Keras does; they leave their table."""
        super().quantize(mode, type_check and type(self) is not Embedding, config)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """(..., D), with `input_length` where the input's length is open."""
        shape = tuple(input_shape)
        if self.input_length is not None and len(shape) == 2 and shape[1] is None:
            shape = (shape[0], self.input_length)
        return (*shape, self.output_dim)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs to make the layer again."""
        config = super().get_config()
        if self.input_length is not None:
            config["input_length"] = self.input_length
        if self.freeze_mask_row:
            config["freeze_mask_row"] = True
        if self.untrained != "as-is":
            config["untrained"] = self.untrained
        return config

    # ------------------------------------------------------------------ growing

    def grow(self, input_dim: int, *, seed: int | None = None) -> None:
        """Adds rows at the end, up to `input_dim` in all; see `rowwise.Table.grow`.

        New rows start as `embeddings_initializer` says. A compiled model goes on training as it
        is: the optimizer's slots grow with the rows.

        Raises:
            ValueError: fewer rows than there are; the layer has no table, or has LoRA weights;
                an optimizer without a rule by rows has slots for the rows there are.
        """
        self._table_to_change().grow(input_dim, init=self._new_rows, seed=seed)
        self._take_new_memory()

    def remap(self, places: Any, *, seed: int | None = None) -> None:
        """Makes row i what row places[i] was, with its slots; -1 makes a new row.

        See `rowwise.Table.reorder`, and `rowwise.Vocabulary.indexer_from` for places.
        """
        self._table_to_change().remap(places, init=self._new_rows, seed=seed)
        self._take_new_memory()

    def _new_rows(self, shape: tuple[int, int]) -> Any:
        return keras.ops.convert_to_numpy(self.embeddings_initializer(shape))

    def _table_to_change(self) -> Table:
        table = self.table
        if self.lora_enabled:
            raise ValueError(
                f"layer {self.name!r} has LoRA weights for the rows it has now; add rows before "
                "enable_lora"
            )
        self._embeddings.check_rows_may_change()
        return table

    def _take_new_memory(self) -> None:
        self._embeddings.lie_over_new_memory()
        self.input_dim = self.table.rows

    # ------------------------------------------------------------------ what came from elsewhere

    @classmethod
    def from_pretrained(
        cls,
        vectors: Vectors,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        *,
        trainable: bool = True,
        init: Init = "uniform",
        seed: int | None = None,
        verbose: bool = True,
        **kwargs: Any,
    ) -> Embedding:
        """A built layer that starts with pretrained vectors.

        Args:
            vectors: as `rowwise.vectors.load` gives them.
            vocabulary: V words in the order of their ids; those of `vectors` unless given.
            trainable: whether training moves them.
            init: what words start with that have no vector, see `rowwise.vectors.rows_for`.
            seed: of init.
            verbose: print how many words were found; the report is also `layer.pretrained`.
            **kwargs: of the layer: mask_zero, untrained, name...

        Example:
            >>> from rowwise.vectors import Vectors
            >>> vectors = Vectors(["tea", "cup"], [[1.0, 2.0], [3.0, 4.0]])
            >>> layer = Embedding.from_pretrained(vectors, ["cup", "pot"], init="zeros")
            1 of 2 words found (50.0%); missing: 'pot'
            >>> layer.table.lookup([0]).tolist()
            [[3.0, 4.0]]
        """
        words = vectors.words if vocabulary is None else vocabulary
        pretrained = rows_for(vectors, words, init, seed=seed)
        rows, dim = pretrained.rows.shape
        layer = cls(rows, dim, **kwargs)
        layer.build()
        layer._embeddings.assign(pretrained.rows)  # not set_weights: not every row is known
        layer.trainable = trainable
        layer.pretrained = pretrained.coverage
        layer._mark_trained(np.flatnonzero(pretrained.found))
        if verbose:
            print(pretrained.coverage)
        return layer

    def set_weights(self, weights: Any) -> None:
        """Takes weights in Keras's order; their rows count as known."""
        super().set_weights(weights)
        self._mark_trained()

    def load_own_variables(self, store: Any) -> None:
        """Takes weights from a file; their rows count as known."""
        super().load_own_variables(store)
        self._mark_trained()

    def _mark_trained(self, ids: Any = None) -> None:
        if isinstance(getattr(self, "_embeddings", None), TableVariable):
            self.table.mark_trained(ids)

    def save_assets(self, folder: str) -> None:
        """Writes how often and when each row was trained into a `.keras` file."""
        if isinstance(getattr(self, "_embeddings", None), TableVariable):
            with open(os.path.join(folder, _STATISTICS), "wb") as file:
                np.savez(file, allow_pickle=False, **self.table.store.counts())

    def load_assets(self, folder: str | None) -> None:
        """Reads that, where our layer wrote the file."""
        path = os.path.join(folder or "", _STATISTICS)
        if isinstance(getattr(self, "_embeddings", None), TableVariable) and os.path.exists(path):
            with np.load(path, allow_pickle=False) as arrays:
                self.table.store.load_counts(**arrays)
