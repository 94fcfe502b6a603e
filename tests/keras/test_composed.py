"""The layer inside other layers and models, built by shapes alone or by data."""

import keras
import numpy as np
import pytest
from side_by_side import DIM, LAYERS, ROWS, assert_equal, both, data, numpy_of

from rowwise.keras import Embedding


def train(model):
    model.compile("adam", "mse")
    model.fit(*data(), batch_size=32, epochs=2, shuffle=False, verbose=0)


def tokens_and_positions(layer):
    class TokensAndPositions(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = layer(ROWS, DIM), layer(5, DIM)

        def call(self, ids):
            return self.tokens(ids) + self.positions(keras.ops.arange(keras.ops.shape(ids)[-1]))

    return TokensAndPositions()


def functional(layer):
    ids = keras.Input((5,), dtype="int32")
    vectors = tokens_and_positions(layer)(ids)
    assert vectors.shape == (None, 5, DIM)
    return keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(vectors)))


def deferred(layer):
    flat = keras.layers.Flatten()
    return keras.Sequential([tokens_and_positions(layer), flat, keras.layers.Dense(1)])


def nested(layer):
    inner = keras.Sequential([layer(ROWS, DIM), keras.layers.Flatten()])
    ids = keras.Input((5,), dtype="int32")
    return keras.Model(ids, keras.layers.Dense(1)(inner(ids)))


def masked(layer):
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layer(ROWS, DIM, mask_zero=True),
            keras.layers.Bidirectional(keras.layers.GRU(3)),
            keras.layers.Dense(1),
        ]
    )


def attending(layer):
    ids = keras.Input((5,), dtype="int32")
    vectors = layer(ROWS, DIM, mask_zero=True)(ids)
    attended = keras.layers.MultiHeadAttention(2, 3)(vectors, vectors)
    pooled = keras.layers.GlobalAveragePooling1D()(attended)
    return keras.Model(ids, keras.layers.Dense(1)(pooled))


def spread_over_time(layer):
    ids = keras.Input((5,), dtype="int32")
    vectors = keras.layers.TimeDistributed(layer(ROWS, DIM))(keras.layers.Reshape((5, 1))(ids))
    return keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(vectors)))


@pytest.mark.parametrize(
    "make",
    [functional, deferred, nested, masked, attending, spread_over_time],
    ids=lambda make: make.__name__,
)
def test_a_layer_inside_others_trains_to_kerass_numbers(make):
    def seeded(layer):
        keras.utils.set_random_seed(0)
        return make(layer)

    assert_equal(*both(train, seeded), rtol=1e-4)


def test_masks_are_kerass():
    ids = data()[0]
    masks = [numpy_of(layer(ROWS, DIM, mask_zero=True).compute_mask(ids)) for layer in LAYERS]
    np.testing.assert_array_equal(*masks)
    assert not masks[0].all()


def test_a_mask_leaves_padding_out_of_the_pooled_vectors():
    embed = Embedding(5, 2, mask_zero=True)
    pooled = keras.Sequential([keras.Input((3,), dtype="int32"), embed])
    pooled.add(keras.layers.GlobalAveragePooling1D())
    vectors = pooled.predict(np.array([[1, 2, 0]]), verbose=0)
    np.testing.assert_allclose(vectors[0], embed.get_weights()[0][[1, 2]].mean(axis=0), rtol=1e-6)
