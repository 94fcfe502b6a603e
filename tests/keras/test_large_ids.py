"""Ids that floats cannot tell apart stay the integers they are given as."""

import keras
import numpy as np
import pytest
from side_by_side import BACKEND, numpy_of

import rowwise.keras
from rowwise.keras import Embedding

POLICIES = pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
ROWS = 2**24 + 8
IDS = np.array([[ROWS - 1, ROWS - 2], [2**24 + 1, 2**24]])  # float32: 2^24 + 8, + 6, + 0, + 0


@pytest.fixture(scope="module")
def embed():
    """One column, as many rows: row i holds i % 7, which half precision has too."""
    layer = Embedding(ROWS, 1, embeddings_initializer="zeros")
    layer.build()
    values = np.empty((ROWS, 1), "float32")
    values[:, 0] = np.arange(ROWS) % 7
    layer.set_weights([values])
    return layer


MODELS = {
    "no Input": lambda layer: keras.Sequential([layer]),
    "Sequential": lambda layer: keras.Sequential([keras.Input((2,)), layer]),
    "functional": lambda layer: functional(layer),
    "int32": lambda layer: keras.Sequential([keras.Input((2,), dtype="int32"), layer]),
    "nested": lambda layer: functional(keras.Sequential([layer])),
    "nested functional": lambda layer: functional(functional(layer)),
}
CALLS = {
    "predict": lambda model, ids: model.predict(ids, verbose=0),
    "predict_on_batch": lambda model, ids: model.predict_on_batch(ids),
    "call": lambda model, ids: numpy_of(model(ids)),
    "call on a tensor": lambda model, ids: numpy_of(model(keras.ops.convert_to_tensor(ids))),
}


def functional(layer):
    ids = keras.Input((2,))
    return keras.Model(ids, layer(ids))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("make", MODELS)
def test_every_row_is_found(embed, make, call):
    model = MODELS[make](embed)
    small = IDS.astype("int32")
    # JAX has no tensor of 64 bits.
    for ids in (small,) if (BACKEND, call) == ("jax", "call on a tensor") else (IDS, small):
        np.testing.assert_array_equal(CALLS[call](model, ids)[..., 0], ids % 7)


@pytest.mark.parametrize("steps", ["fit", "train_on_batch"])
def test_the_rows_of_the_batch_are_trained_and_no_others(embed, steps):
    model = keras.Sequential([embed])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    before = model.evaluate(IDS, np.zeros((2, 2, 1)), verbose=0)
    if steps == "fit":
        model.fit(IDS, IDS[..., None] % 7 + 1.0, verbose=0)
    else:
        model.train_on_batch(IDS, IDS[..., None] % 7 + 1.0)
    assert before == pytest.approx(np.mean((IDS % 7) ** 2))
    np.testing.assert_allclose(model.predict(IDS, verbose=0)[..., 0], IDS % 7 + 0.25)
    embed.table.rule = None
    assert embed.table.lookup(IDS).ravel() == pytest.approx((IDS % 7 + 0.25).ravel())
    values = numpy_of(embed.embeddings).copy()
    values[IDS] -= 0.25
    embed.embeddings.assign(values)
    np.testing.assert_array_equal(np.flatnonzero(embed.table.update_counts), np.unique(IDS))


def test_a_saved_model_finds_them_too(embed, tmp_path):
    model = keras.Sequential([Embedding(300, 1)])
    model.predict(np.array([[1]]), verbose=0)
    model.save(tmp_path / "model.keras")
    again = rowwise.keras.load_model(tmp_path / "model.keras")
    assert again.inputs[0].dtype == "float32"
    again.pop()
    again.add(embed)
    np.testing.assert_array_equal(again.predict(IDS[:, :1], verbose=0)[..., 0], IDS[:, :1] % 7)


def test_ids_outside_an_int32_are_outside_the_table():
    model = keras.Sequential([keras.Input((1,), dtype="int32"), Embedding(10, 2)])
    with pytest.raises(IndexError, match=f"id {2**32 + 5} "):
        model.predict(np.array([[2**32 + 5]]), verbose=0)


@POLICIES
@pytest.mark.parametrize("reloaded", [False, True])
def test_mixed_precision_leaves_ids_alone(policy, reloaded, tmp_path):
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential([Embedding(5000, 2), keras.layers.Flatten()])
        model.compile("sgd", "mse")
        ids = np.array([[4999, 4998], [4997, 257]])
        model.fit(ids, np.zeros((2, 4)), verbose=0)
        if reloaded:
            model.save(tmp_path / "model.keras")
            model = keras.saving.load_model(tmp_path / "model.keras")
        rows = model.layers[0].get_weights()[0][ids].reshape(2, 4)
        np.testing.assert_allclose(model.predict(ids, verbose=0), rows, rtol=1e-2)
        assert len(np.unique(rows)) == 8
    finally:
        keras.config.set_dtype_policy("float32")


@POLICIES
def test_floats_are_cast_as_by_keras_and_refused_where_they_collide(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential([Embedding(5000, 2)])
        with pytest.raises(ValueError, match=r"give ids as integers|id inf"):
            model.predict(np.array([[3.0, 2.0**24]]), verbose=0)
        assert model.predict(np.array([[3.0, 4.0]]), verbose=0).shape == (1, 2, 2)
    finally:
        keras.config.set_dtype_policy("float32")


def test_an_input_that_other_layers_share_is_kerass(embed):
    """They are owed the floats that they declared; the embedding then refuses what it is given."""
    ids = keras.Input((2,))
    seen = keras.layers.Rescaling(0.5)(ids)
    for other in (seen, ids):
        model = keras.Model(ids, [Embedding(9, 2)(ids), other])
        assert model(np.array([[1, 2]]))[1].dtype == keras.ops.zeros(1).dtype
    with pytest.raises(ValueError, match=r"declare it: keras.Input\(shape, dtype='int64'\)"):
        keras.Model(ids, [embed(ids), seen]).predict(IDS, verbose=0)


def test_other_models_get_the_floats_they_declared():
    class Seen(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    assert keras.Sequential([Seen()])(np.array([[1, 2]])).dtype == keras.ops.zeros(1).dtype
