"""Low-rank adaptation beside Keras's: the same numbers, from the batch's rows alone."""

import keras
import numpy as np
import pytest
from side_by_side import (
    DIM,
    LAYERS,
    ROWS,
    assert_equal,
    at_reads_of_whole_tables,
    both,
    classifier,
    data,
    numpy_of,
    values_of,
)

import rowwise.keras
from rowwise.keras import Embedding

OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
}


def adapted(layer, **options):
    return classifier(layer, lora_rank=3, lora_alpha=2, **options)


def fit(model, epochs=4):
    model.fit(*data(), batch_size=16, epochs=epochs, shuffle=False, verbose=0)


def trained(layer, optimizer="adam", make=adapted):
    keras.backend.clear_session(free_memory=False)
    model = make(layer)
    model.compile(OPTIMIZERS[optimizer](), "mse")
    fit(model)
    return model


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("options", [{}, {"dtype": "mixed_bfloat16"}, {"trainable": False}])
def test_training_equals_kerass(optimizer, options):
    def train(model):
        model.compile(OPTIMIZERS[optimizer](), "mse")
        fit(model)

    ours, theirs = both(train, lambda layer: adapted(layer, **options))
    # From B = 0 on, Adam divides gradients near zero by their own size; half precision also rounds
    # them, and sums them in another order.
    assert_equal(ours, theirs, atol=8e-3 if "dtype" in options else 1e-5)


def test_a_step_reads_no_whole_table_and_makes_no_product(monkeypatch):
    model = adapted(Embedding)
    model.compile("adam", "mse")
    fit(model, epochs=1)

    def read():
        raise AssertionError("all rows are read")

    at_reads_of_whole_tables(monkeypatch, read)
    fit(model, epochs=1)
    model.evaluate(*data(), verbose=0)
    with pytest.raises(AssertionError, match="all rows are read"):
        model.layers[0].get_weights()


def test_an_adapted_layer_trains_a_and_b_and_leaves_the_embeddings():
    def train(model):
        model.compile("adam", "mse")
        fit(model)
        model.layers[0].enable_lora(2)
        model.compile("adam", "mse")
        before = model.layers[0].get_weights()
        fit(model)
        after = model.layers[0].get_weights()
        assert [(b == a).all() for b, a in zip(before, after, strict=True)].count(True) == 1

    assert_equal(*both(train), rtol=1e-4)


@pytest.mark.parametrize("reader", LAYERS)
@pytest.mark.parametrize("writer", LAYERS)
def test_files_hold_the_merged_rows_and_open_either_way(tmp_path, writer, reader):
    model = trained(writer)
    rows = model.predict(data()[0], verbose=0)
    model.save(tmp_path / "model.keras")
    again = rowwise.keras.load_model(tmp_path / "model.keras", embedding=reader, compile=False)
    assert again.layers[0].lora_enabled
    np.testing.assert_allclose(again.predict(data()[0], verbose=0), rows, rtol=1e-5, atol=1e-6)
    uncompiled = keras.Sequential(model.layers)
    uncompiled.build((None, None))
    uncompiled.save_weights(tmp_path / "model.weights.h5")
    plain = classifier(reader)  # knows nothing of LoRA
    plain.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(plain.predict(data()[0], verbose=0), rows, rtol=1e-5, atol=1e-6)


def test_a_stateless_call_uses_the_matrices_it_is_given():
    def outputs(layer):
        model = adapted(layer)
        values = [2 * value + 1 for value in values_of(model.trainable_variables)]
        others = values_of(model.non_trainable_variables)
        return numpy_of(model.stateless_call(values, others, data()[0][:4])[0])

    np.testing.assert_allclose(outputs(Embedding), outputs(keras.layers.Embedding), rtol=1e-5)


def test_an_adapted_table_is_read_by_its_rows():
    layer = Embedding(ROWS, DIM, lora_rank=2)
    layer.build()
    layer.lora_embeddings_b.assign(np.ones((2, DIM)))
    ids = np.array([[3, 7], [3, 0]])
    whole = keras.ops.convert_to_numpy(layer.embeddings)
    np.testing.assert_allclose(numpy_of(layer(ids)), whole[ids], rtol=1e-6, atol=1e-7)
