"""`rowwise.keras.Embedding`: Keras's layer on a rowwise table."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from rowwise.keras.bridge import takes_sparse_gradient, uncast_value
from rowwise.keras.variable import TableVariable
from rowwise.table import Table
from rowwise.torch.lookup import lookup


@contextmanager
def naming_the_cast() -> Iterator[None]:
    """Says, where ids are no whole numbers, how they may have come to be floats."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"{error}. Keras casts ids to the dtype of the model's input, which is a float "
            "unless the model starts with keras.Input(shape, dtype='int64')"
        ) from None


@keras.saving.register_keras_serializable(package="rowwise")
class Embedding(keras.layers.Embedding):
    """Turns nonnegative integers (indexes) into dense vectors of fixed size.

    Arguments, shapes, masking, weights and files are those of `keras.layers.Embedding`, and so
    are the numbers, in training too; but a training step costs what the batch costs, however
    many rows the table has. Where an option needs every row at every step (an
    `embeddings_constraint`, an optimizer that is not known by rows), Keras's own dense step is
    made, with a warning that names the cause.

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
        **kwargs: of `keras.layers.Layer` (name, dtype, trainable...).

    Input shape:
        (...,) integers, or floats that are whole.

    Output shape:
        (..., D).

    Raises:
        IndexError: an id outside 0..V-1, when the layer is called.

    Example:
        >>> import numpy as np
        >>> from keras import Sequential
        >>> model = Sequential([Embedding(1000, 64)])
        >>> model.compile("rmsprop", "mse")
        >>> model.predict(np.random.randint(1000, size=(32, 10)), verbose=0).shape
        (32, 10, 64)
    """

    built: bool

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
        **kwargs: Any,
    ) -> None:
        self.input_length = input_length
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
        self.supports_jit = False  # torch.compile would have to break the graph at every lookup

    def build(self, input_shape: Any = None) -> None:
        """Makes the table."""
        if self.built:
            return
        if self.quantization_mode is not None or self.variable_dtype != "float32":
            if self.quantization_mode is None:
                warnings.warn(
                    f"{self.name}: a table of {self.variable_dtype} is trained densely, by Keras; "
                    "rowwise's tables are float32",
                    stacklevel=2,
                )
            super().build(input_shape)
            return
        with keras.name_scope(self.name, caller=self):
            embeddings = TableVariable(
                initializer=self.embeddings_initializer,
                shape=(self.input_dim, self.output_dim),
                dtype=self.variable_dtype,
                name="embeddings",
            )
        embeddings.regularizer = self.embeddings_regularizer
        embeddings.constraint = self.embeddings_constraint
        self._embeddings = embeddings
        embeddings.trainable = self.trainable
        self.built = True
        if self.lora_rank:
            self.enable_lora(self.lora_rank)

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

    def call(self, inputs: Any) -> Any:
        """vectors (..., D) of the rows inputs (...,)."""
        embeddings = self._embeddings
        if not isinstance(embeddings, TableVariable):
            return super().call(inputs)
        value = uncast_value(embeddings)
        # In a stateless call the values are the caller's; with LoRA they are a sum of two.
        if value is not embeddings._value or self.lora_enabled:
            return super().call(inputs)
        with naming_the_cast():
            vectors = lookup(value, inputs, takes_sparse_gradient(embeddings))
        return keras.ops.cast(vectors, dtype=self.compute_dtype)

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
        return config
