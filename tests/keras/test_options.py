"""Every option of keras.layers.Embedding beside Keras: numbers, shapes, configs."""

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
    float64_there_is,
    numpy_of,
)

from rowwise.keras import Embedding

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
WHOLE = {
    "l1": {"embeddings_regularizer": "l1"},
    "l2": {"embeddings_regularizer": keras.regularizers.L2(0.05)},
    "the user's own": {"embeddings_regularizer": lambda rows: keras.ops.sum(rows**4) / 9},
    "max norm": {"embeddings_constraint": keras.constraints.MaxNorm(0.1, axis=1)},
    "non-negative": {"embeddings_constraint": "non_neg"},
    "regularizer and constraint": {
        "embeddings_regularizer": "l2",
        "embeddings_constraint": "unit_norm",
    },
}


def fit(optimizer, batch_size=16):
    def train(model):
        model.compile(OPTIMIZERS[optimizer](), "mse")
        model.fit(*data(), batch_size=batch_size, epochs=2, shuffle=False, verbose=0)

    return train


@every_optimizer
@pytest.mark.parametrize("name", WHOLE)
def test_what_needs_every_row_is_kerass_numbers_with_one_warning(name, optimizer):
    # Few steps: absolute values in a loss turn rounding near zero into the other direction.
    fit_it = fit(optimizer, batch_size=64)

    def train(model):
        if not isinstance(model.layers[0], Embedding):
            fit_it(model)
            return
        with pytest.warns(UserWarning, match=rf"embeddings_.* visits all {ROWS} rows") as warned:
            fit_it(model)
        assert len([w for w in warned if "visits all" in str(w.message)]) == 1

    assert_equal(*both(train, lambda layer: classifier(layer, **WHOLE[name])), rtol=1e-4, atol=1e-5)


@every_optimizer
def test_a_regularized_activity_is_the_batchs_alone(optimizer, monkeypatch):
    def make(layer):
        return classifier(layer, activity_regularizer=keras.regularizers.L2(0.1))

    assert_equal(*both(fit(optimizer), make), rtol=1e-4)
    at_reads_of_whole_tables(monkeypatch, lambda: pytest.fail("all rows"))
    fit(optimizer)(make(Embedding))


@every_optimizer
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_tables_of_other_dtypes_are_kerass_own_with_one_warning(dtype, optimizer):
    def make(layer):
        if layer is not Embedding:
            return classifier(layer, dtype=dtype)
        with pytest.warns(UserWarning, match=f"a table of {dtype} is trained densely") as warned:
            model = classifier(layer, dtype=dtype)
        assert len(warned) == 1
        return model

    with float64_there_is(dtype == "float64"):
        ours, theirs = both(fit(optimizer), make)
        for mine, other in zip(ours.weights, theirs.weights, strict=True):
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(numpy_of(mine), numpy_of(other))
    with pytest.raises(ValueError, match="has no table"):
        _ = ours.layers[0].table


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask_zero": True, "name": "words", "trainable": False},
        {"embeddings_initializer": keras.initializers.RandomNormal(stddev=0.1, seed=1)},
        {"embeddings_regularizer": "l1l2", "activity_regularizer": "l2"},
        {"embeddings_constraint": keras.constraints.MinMaxNorm(0.1, 0.2)},
        {"dtype": "mixed_bfloat16"},
        {"dtype": "int8_from_float32"},
        {"lora_rank": 2, "lora_alpha": 3},
    ],
)
def test_configs_are_kerass_and_make_the_layer_again(options):
    def config(layer):
        keras.backend.clear_session(free_memory=False)
        return layer(5, 2, **options).get_config()

    ours, theirs = map(config, LAYERS)
    assert ours == theirs
    for layer in LAYERS:
        assert layer.from_config(ours).get_config() == ours


@pytest.mark.parametrize("mask_zero", [False, True])
@pytest.mark.parametrize("dtype", [None, "mixed_bfloat16", "int8_from_float32"])
def test_shapes_specs_and_masks_are_kerass(dtype, mask_zero):
    ids = np.array([[0, 3, 0], [1, 0, 4]])
    for shape, input_dtype in [((None, 3), "int32"), ((2, None), "float32"), ((2, 3, 4), "int64")]:
        symbol = keras.KerasTensor(shape, input_dtype)
        ours, theirs = (layer(5, 2, mask_zero=mask_zero, dtype=dtype) for layer in LAYERS)
        assert ours.compute_output_shape(shape) == theirs.compute_output_shape(shape)
        specs = [layer.compute_output_spec(symbol) for layer in (ours, theirs)]
        called = [layer(symbol) for layer in (ours, theirs)]
        assert len({(s.shape, s.dtype, s.sparse, s.ragged) for s in specs + called}) == 1
        masks = [layer.compute_mask(ids) for layer in (ours, theirs)]
        assert (masks[0] is None) == (masks[1] is None) == (not mask_zero)
        if mask_zero:
            np.testing.assert_array_equal(*map(numpy_of, masks))
        carried = [getattr(layer(ids), "_keras_mask", None) for layer in (ours, theirs)]
        assert (carried[0] is None) == (carried[1] is None)


@pytest.mark.parametrize("options", [{}, {"lora_rank": 2}, {"dtype": "int4_from_float32"}])
def test_summaries_are_kerass(options):
    def summary(layer):
        keras.backend.clear_session(free_memory=False)
        lines = []
        model = classifier(layer, **options)
        model.summary(print_fn=lines.append)
        return lines, model.count_params(), model.layers[0].count_params()

    assert summary(Embedding) == summary(keras.layers.Embedding)


def test_attributes_are_kerass():
    ours, theirs = (layer(ROWS, DIM, "zeros", "l2", "non_neg", True) for layer in LAYERS)
    for name in ("input_dim", "output_dim", "mask_zero", "supports_masking", "autocast"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("embeddings_initializer", "embeddings_regularizer", "embeddings_constraint"):
        assert type(getattr(ours, name)) is type(getattr(theirs, name))
    assert not hasattr(ours, "embeddings")  # nor has Keras's, before it is built
