"""Layers whose rows lie on a disk: the bits of the layers in memory."""

import keras
import numpy as np
import pytest

import rowwise.keras
from rowwise.store import DiskStore

ROWS, DIM = 400, 4
SMALL = 14_000  # bytes: a few dozen rows
ON_TORCH = keras.backend.backend() == "torch"
on_torch = pytest.mark.skipif(not ON_TORCH, reason="is about what torch alone has")


def model_of(layer):
    keras.utils.set_random_seed(0)
    return keras.Sequential([layer, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])


def pair(tmp_path, **options):
    """Return a model in memory and the same on a disk."""
    there = rowwise.keras.Embedding(ROWS, DIM, scratch=tmp_path, memory=SMALL, **options)
    here = rowwise.keras.Embedding(ROWS, DIM, **options)
    models = [model_of(here), model_of(there)]
    for model in models:
        model.build((None, 3))
    assert isinstance(there.table.store, DiskStore)
    assert len(there.table.store._row_of) < ROWS / 2
    here.set_weights([there.table.to_numpy()])
    there.table.mark_trained()
    return models


def fit(model, optimizer, epochs=3):
    rng = np.random.default_rng(0)
    model.compile(optimizer(), "mse")
    x, y = rng.integers(0, ROWS, (160, 3)), rng.standard_normal((160, 1))
    return model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0).history["loss"]


def bits(model):
    table = model.layers[0].table
    slots = [table.slot(name) for name in table.slot_names]
    dense = [np.asarray(weight) for weight in model.layers[-1].get_weights()]
    return [a.tobytes() for a in (table.to_numpy(), *slots, table.update_counts, *dense)]


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": keras.optimizers.Adam,
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "nadam": keras.optimizers.Nadam,
    "ftrl": keras.optimizers.Ftrl,
    "clipped": lambda: keras.optimizers.Adam(global_clipnorm=0.1),
    "accumulated": lambda: keras.optimizers.Adam(gradient_accumulation_steps=2),
}


@on_torch
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_gives_the_bits_of_memory(optimizer, tmp_path):
    results = [(fit(model, optimizer), bits(model)) for model in pair(tmp_path)]
    assert results[0] == results[1]


@on_torch
def test_options_give_the_bits_of_memory(tmp_path):
    models = pair(tmp_path, mask_zero=True, freeze_mask_row=True, untrained="mean")
    results = []
    for model in models:
        losses = fit(model, keras.optimizers.Adam)
        model.layers[0].prefetch(np.arange(3))
        results.append((losses, model.predict(np.arange(ROWS - 1).reshape(-1, 3)), bits(model)))
    assert results[0][::2] == results[1][::2]
    assert (results[0][1] == results[1][1]).all()


@on_torch
def test_rows_of_16_bits_give_the_bits_of_memory(tmp_path):
    results, start = [], keras.initializers.RandomNormal(stddev=0.3, seed=1)
    half = {"dtype": keras.DTypePolicy("bfloat16"), "embeddings_initializer": start}
    for place in ({}, {"scratch": tmp_path, "memory": 13_000}):
        model = model_of(rowwise.keras.Embedding(ROWS, DIM, rounding="nearest", **half, **place))
        results.append((fit(model, keras.optimizers.Adam), bits(model)))
    assert results[0] == results[1]
    assert model.layers[0].table.dtype == "bfloat16"
    model.save(tmp_path / "model.keras")
    assert bits(keras.models.load_model(tmp_path / "model.keras")) == bits(model)
    layer = rowwise.keras.Embedding(ROWS, DIM, scratch=tmp_path, memory=SMALL, **half)
    with pytest.raises(ValueError, match="rows of bfloat16 cannot lie on a disk: with rounding="):
        layer.build()


@on_torch
def test_a_file_holds_rows_and_slots(tmp_path):
    model = pair(tmp_path)[1]
    fit(model, keras.optimizers.Adam)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again.layers[0].table.store, DiskStore)
    assert bits(again) == bits(model)
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, ROWS, (160, 3)), rng.standard_normal((160, 1))
    for each in (model, again):
        each.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    assert bits(again) == bits(model)


@on_torch
def test_files_of_weights_alone_are_refused_before_anything_is_written(tmp_path):
    model = pair(tmp_path)[1]
    whole, alone = tmp_path / "model.keras", tmp_path / "model.weights.h5"
    model.save(whole)
    before = bits(model)
    for call in (lambda: model.save_weights(alone), lambda: model.load_weights(whole)):
        with pytest.raises(ValueError, match=r"model\.save\(path\).*layer\.table\.save\(path\)"):
            call()
    assert not alone.exists()
    assert bits(model) == before


@on_torch
def test_rows_start_as_the_initializer_says(tmp_path):
    def rows(initializer):
        layer = rowwise.keras.Embedding(
            ROWS, DIM, embeddings_initializer=initializer, scratch=tmp_path, memory=SMALL
        )
        layer.build()
        return layer.table.to_numpy(), layer.table.store._era_of.any()

    values, written = rows("uniform")
    assert not written
    assert -0.05 <= values.min() < -0.04 < 0.04 < values.max() <= 0.05
    values, written = rows(keras.initializers.RandomNormal(stddev=0.3, seed=1))
    assert written
    expected = keras.initializers.RandomNormal(stddev=0.3, seed=1)((ROWS, DIM))
    assert (values == keras.ops.convert_to_numpy(expected)).all()


@on_torch
def test_what_needs_all_rows_is_an_error(tmp_path):
    model = pair(tmp_path)[1]
    layer = model.layers[0]
    with pytest.raises(RuntimeError, match="memory may not hold all rows"):
        layer.get_weights()
    with pytest.raises(ValueError, match="an embedding on a disk is stepped by a rule alone"):
        fit(model, lambda: keras.optimizers.Adam(use_ema=True))
    with pytest.raises(ValueError, match="scratch= needs memory="):
        rowwise.keras.Embedding(ROWS, DIM, scratch=tmp_path)


@pytest.mark.skipif(ON_TORCH, reason="is about the other backends")
def test_other_backends_refuse_rows_on_a_disk(tmp_path):
    with pytest.raises(ValueError, match="rows on a disk need Keras's backend torch"):
        rowwise.keras.Embedding(ROWS, DIM, scratch=tmp_path, memory=SMALL)
