"""`rowwise.keras.EmbedReduce`: a sequence of ids embedded as one vector, on a rowwise table."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from rowwise._pooling import WEIGHTED as COMBINERS
from rowwise.keras._backend import backend
from rowwise.keras._embedding import Embedding
from rowwise.keras._variable import TableVariableBase


@keras.saving.register_keras_serializable(package="rowwise")
class EmbedReduce(Embedding):
    """Embed ids and combine those of the last axis into one vector.

    What `Embedding` followed by a weighted mean or sum gives, in training too, without the vectors
    of single ids ever standing in memory: time and memory are those of the distinct ids and the
    results. Arguments are those of `keras_rs.layers.EmbedReduce`.

    With vectors v and weights w (1 unless given, 0 where masked), the combination of a sequence is

        "mean":   sum(w v) / sum(w)
        "sum":    sum(w v)
        "sqrtn":  sum(w v) / sqrt(sum(w^2))

    and 0 where the divisor is 0, as it is where everything is masked.

    Args:
        input_dim: number of rows V; ids are 0..V-1.
        output_dim: length D of a vector.
        embeddings_initializer: what the rows start with.
        embeddings_regularizer: a penalty on the embeddings, added to the loss.
        embeddings_constraint: applied to the embeddings after each step.
        mask_zero: whether id 0 is padding, to be left out of the combination.
        weights: the initial embeddings, (V, D), instead of the initializer's.
        combiner: "mean", "sum" or "sqrtn".
        **kwargs: of `rowwise.keras.Embedding` (untrained, name, dtype, trainable...).

    Call arguments:
        inputs: (..., length) integers, or floats that are whole. Ids of shape (n,), without a
            length, are embedded one by one; weights then matter to "sum" alone.
        weights: floats of the shape of inputs, or None. They may be trainable.
        mask: booleans of the shape of inputs, False where an id is left out, or None.

    Output shape:
        (..., D).

    Raises:
        ValueError: an unknown combiner; when called, weights or a mask of another shape.
        IndexError: an id outside 0..V-1, masked or not, when the layer is called.

    Example:
        >>> import numpy as np
        >>> from keras import Sequential
        >>> rows = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
        >>> layer = EmbedReduce(3, 2, weights=rows, mask_zero=True)
        >>> layer(np.array([[1, 2, 0], [2, 2, 2], [0, 0, 0]])).detach().numpy()
        array([[2., 3.],
               [3., 4.],
               [0., 0.]], dtype=float32)
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        weights: Any = None,
        combiner: str = "mean",
        **kwargs: Any,
    ) -> None:
        if combiner not in COMBINERS:
            raise ValueError(f"combiner={combiner!r} is not one of {', '.join(COMBINERS)}")
        super().__init__(
            input_dim,
            output_dim,
            embeddings_initializer,
            embeddings_regularizer,
            embeddings_constraint,
            mask_zero,
            weights,
            **kwargs,
        )
        self.combiner = combiner
        self.supports_masking = True

    def build(self, input_shape: Any = None) -> None:
        """Make the table."""
        if self.quantization_mode is not None:
            raise NotImplementedError(
                f"{self.name}: EmbedReduce has no {self.quantization_mode} form; reduce the output "
                "of a quantized Embedding instead"
            )
        super().build(input_shape)

    def call(  # type: ignore[override]
        self, inputs: Any, weights: Any = None, mask: Any = None, training: Any = None
    ) -> Any:
        """Return combined vectors (..., D) of the rows inputs (..., length)."""
        inputs = backend.to_ids(inputs)
        single = len(inputs.shape) < 2
        if single and self.combiner != "sum":
            weights = None  # w v / w
        learned = weights is not None
        weights = self._effective_weights(inputs, weights, mask)
        if single:
            vectors = super().call(inputs, training)
            return vectors if weights is None else vectors * _column(weights, vectors.dtype)
        summed = self._sum(inputs, weights, learned, training)
        if self.combiner != "sum":
            if weights is None:
                weights = ops.ones_like(inputs, dtype=self._dtype_of_sums)
            summed = self._divided(summed, weights)
        return ops.cast(summed, self.compute_dtype)

    def _effective_weights(self, inputs: Any, weights: Any, mask: Any) -> Any:
        """Return weights of the shape of inputs, 0 where masked, or None: all are 1."""
        if weights is not None:
            weights = ops.cast(ops.convert_to_tensor(weights), self._dtype_of_sums)
            _check_shape("weights", weights, inputs)
        if mask is not None:
            mask = ops.cast(ops.convert_to_tensor(mask), "bool")
            _check_shape("mask", mask, inputs)
        if self.mask_zero:
            present = ops.not_equal(inputs, 0)
            mask = present if mask is None else ops.logical_and(mask, present)
        if mask is None:
            return weights
        if weights is None:
            return ops.cast(mask, self._dtype_of_sums)
        return ops.where(mask, weights, ops.zeros_like(weights))

    @property
    def _dtype_of_sums(self) -> str:
        """Return the dtype of sums: half precision holds neither long ones nor squares."""
        return str(keras.backend.result_type(self.variable_dtype, "float32"))

    def _sum(self, inputs: Any, weights: Any, learned: bool, training: Any) -> Any:
        """Return the weighted sum (..., D) of the rows inputs (..., length)."""
        embeddings = self._embeddings
        as_is = bool(training) or self.untrained == "as-is"
        if isinstance(embeddings, TableVariableBase) and not self.lora_enabled and as_is:
            summed = backend.pool(embeddings, inputs, weights, learned)
            if summed is not None:
                return summed
        vectors = ops.cast(super().call(inputs, training), self._dtype_of_sums)
        if weights is not None:
            vectors = vectors * _column(weights, vectors.dtype)
        return ops.sum(vectors, axis=-2)

    def _divided(self, summed: Any, weights: Any) -> Any:
        """Return the sum (..., D), divided as the combiner says."""
        total = ops.sum(weights if self.combiner == "mean" else weights * weights, axis=-1)
        total = _column(total, summed.dtype)
        # Nowhere a division by 0, or the root of it: their gradients would be NaN.
        nothing = ops.equal(total, 0)
        divisor = ops.where(nothing, ops.ones_like(total), total)
        divisor = divisor if self.combiner == "mean" else ops.sqrt(divisor)
        return ops.where(nothing, ops.zeros_like(summed), summed / divisor)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """Return None: what was masked has been left out."""
        return None

    def compute_output_shape(self, input_shape: Any, weights_shape: Any = None) -> Any:
        """Return (..., D) for ids (..., length)."""
        shape = tuple(input_shape)
        return (*(shape if len(shape) < 2 else shape[:-1]), self.output_dim)

    def compute_output_spec(self, inputs: Any, weights: Any = None, mask: Any = None) -> Any:
        """Return the shape and dtype of what a call returns."""
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs to make the layer again."""
        return {**super().get_config(), "combiner": self.combiner}

    def _own_options(self) -> dict[str, Any]:
        combiner = {} if self.combiner == "mean" else {"combiner": self.combiner}
        return {**super()._own_options(), **combiner}


def _column(weights: Any, dtype: Any) -> Any:
    """Return weights (...,) as (..., 1), to be multiplied with vectors (..., D)."""
    return ops.cast(ops.expand_dims(weights, -1), keras.backend.standardize_dtype(dtype))


def _check_shape(argument: str, values: Any, inputs: Any) -> None:
    pairs = zip(values.shape, inputs.shape, strict=False)
    known = all(a == b for a, b in pairs if a is not None and b is not None)
    if len(values.shape) != len(inputs.shape) or not known:
        raise ValueError(
            f"{argument} have shape {tuple(values.shape)}, the ids {tuple(inputs.shape)}; "
            "there must be one for each id"
        )
