"""Half precision around a float32 table."""

import keras
import numpy as np
import pytest
from side_by_side import DIM, ROWS, assert_sparse_steps, both, classifier, data, numpy_of

from rowwise.keras import Embedding

HALVES = pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])


@HALVES
def test_a_layer_of_mixed_precision_in_a_float32_model_has_sparse_steps(policy):
    def train(model):
        model.compile("adam", "mse")
        model.fit(*data(), batch_size=16, epochs=2, shuffle=False, verbose=0)

    ours, theirs = both(train, lambda layer: classifier(layer, dtype=policy))
    assert_sparse_steps(ours.layers[0])
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=4e-3)  # gradients are rounded to half


@HALVES
def test_vectors_are_the_rows_rounded_to_half(policy):
    ids = np.arange(12).reshape(3, 4)
    values = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype("float32")
    ours, theirs = (
        layer(ROWS, DIM, weights=values, dtype=policy)(ids)
        for layer in (Embedding, keras.layers.Embedding)
    )
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(numpy_of(ours), numpy_of(theirs))


def test_a_table_of_another_dtype_warns_and_is_kerass():
    layer = Embedding(5, 2, dtype="float16")
    with pytest.warns(UserWarning, match="a table of float16 is trained densely"):
        layer.build()
    assert layer.embeddings.dtype == "float16"
