"""`freeze_mask_row`: row 0 stays bit for bit, under whatever trains the others as ever."""

import keras
import numpy as np
import pytest
from keras import ops
from side_by_side import (
    DIM,
    ROWS,
    assert_equal,
    assert_sparse_steps,
    classifier,
    data,
    float64_there_is,
    gradients_of,
    not_on_tensorflow,
    numpy_of,
    stateless_apply,
    values_of,
)

import rowwise.keras
from rowwise.keras import Embedding

FROZEN = {"mask_zero": True, "freeze_mask_row": True}
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum, decay": lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.8, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.05),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.5),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.01)),
    "nadam": lambda: keras.optimizers.Nadam(0.01, weight_decay=0.5),
    "lion": lambda: keras.optimizers.Lion(0.001, weight_decay=0.5),
    "lamb": lambda: keras.optimizers.Lamb(0.01),
    "clipped": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.5, clipnorm=0.1),
    "averaged": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3),
    "averaged at the end": lambda: keras.optimizers.Adam(0.01, use_ema=True),
    "accumulated": lambda: keras.optimizers.AdamW(0.01, gradient_accumulation_steps=3),
}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*visits all", "ignore:.*is trained densely", "ignore:Layer 'global_average"
)


def words():
    """Sentences with padding, but not of padding alone, which has no mean."""
    ids, answers = data()
    ids[:, 0] = np.maximum(ids[:, 0], 1)
    assert (ids == 0).any()
    return ids, answers


def fit(model, epochs=2):
    model.fit(*words(), batch_size=16, epochs=epochs, shuffle=False, verbose=0)


def train_and_compare(model, optimizer):
    layer = model.layers[0]
    model.compile(OPTIMIZERS[optimizer](), "mse")
    before = layer.get_weights()[0].copy()
    fit(model)
    after = layer.get_weights()[0]
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(numpy_of(layer(np.array([0])))[0], before[0])
    return before, after


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"embeddings_regularizer": "l2"},
        {"embeddings_constraint": "unit_norm"},
        {"dtype": "float64"},
        {"dtype": "mixed_bfloat16", "embeddings_initializer": "ones"},
    ],
    ids=["plain", "regularizer", "constraint", "float64", "mixed"],
)
def test_row_0_stays_and_the_others_move(optimizer, options):
    with float64_there_is(options.get("dtype") == "float64"):
        before, after = train_and_compare(classifier(Embedding, **FROZEN, **options), optimizer)
    assert (before[1] != after[1]).all()
    assert np.isfinite(after).all()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum, decay", "adam", "adamw", "nadam"])
def test_the_other_rows_are_trained_as_ever(optimizer):
    """Row 0 is no part of the loss here, so that nothing depends on whether it moves."""

    def trained(**options):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        ids = keras.Input((5,), dtype="int32")
        vectors = Embedding(ROWS, DIM, mask_zero=True, **options)(ids)
        pooled = keras.layers.GlobalAveragePooling1D()(vectors)
        model = keras.Model(ids, keras.layers.Dense(1)(pooled))
        model.compile(OPTIMIZERS[optimizer](), "mse")
        fit(model)
        return model

    frozen, free = trained(freeze_mask_row=True), trained()
    for model in (frozen, free):
        for variable in (model.layers[1].embeddings, *model.optimizer.variables):
            if variable.shape == (ROWS, DIM):
                values = numpy_of(variable).copy()
                values[0] = 0.0
                variable.assign(values)
    assert_equal(frozen, free, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_padding_gets_no_gradient(dtype):
    with float64_there_is(dtype == "float64"):
        layer = Embedding(5, 2, dtype=dtype, **FROZEN)
        layer.build()

        def loss():
            return ops.sum(layer(np.array([[0, 1], [2, 0]])) ** 2)

        (gradient,) = map(numpy_of, gradients_of(loss, layer.trainable_variables))
    assert (gradient != 0).any(axis=1).tolist() == [False, True, True, False, False]


def test_it_is_counted_as_never_trained():
    model = classifier(Embedding, **FROZEN)
    train_and_compare(model, "adam")
    assert model.layers[0].table.update_counts[0] == 0
    assert 0 in model.layers[0].table.untrained()
    assert_sparse_steps(model.layers[0])


@pytest.mark.parametrize("way", [None, "int8"])
def test_adapting_by_low_rank_leaves_it_too(way):
    model = classifier(Embedding, **FROZEN)
    layer = model.layers[0]
    if way:
        layer.quantize(way)
    plain = numpy_of(layer(np.array([0, 1])))
    layer.enable_lora(2)
    model.compile(OPTIMIZERS["adamw"](), "mse")
    fit(model)
    adapted = numpy_of(layer(np.array([0, 1])))
    np.testing.assert_array_equal(adapted[0], plain[0])
    assert (adapted[1] != plain[1]).all()


def test_a_row_that_is_set_stays_what_it_was_set_to():
    model = classifier(Embedding, **FROZEN)
    train_and_compare(model, "adamw")
    model.layers[0].set_weights([np.full((ROWS, DIM), 0.3, "float32")])
    fit(model)
    assert (model.layers[0].get_weights()[0][0] == np.float32(0.3)).all()


def test_momentum_from_before_it_was_frozen_does_not_move_it(tmp_path):
    free = classifier(Embedding, mask_zero=True)
    free.compile("adam", "mse")
    fit(free)
    frozen = classifier(Embedding, **FROZEN)
    frozen.compile("adam", "mse")
    frozen.optimizer.build(frozen.trainable_variables)
    free.save_weights(tmp_path / "free.weights.h5")
    frozen.load_weights(tmp_path / "free.weights.h5")
    before = frozen.layers[0].get_weights()[0][0].copy()
    for _ in range(3):
        fit(frozen)
        np.testing.assert_array_equal(frozen.layers[0].get_weights()[0][0], before)


@not_on_tensorflow
def test_a_stateless_step_leaves_it_too():
    model = classifier(Embedding, **FROZEN)
    model.compile(OPTIMIZERS["adamw"](), "mse")
    model.optimizer.build(model.trainable_variables)
    values = values_of(model.trainable_variables)
    slots = values_of(model.optimizer.variables)
    gradients = [ops.ones_like(value) for value in values]
    before = numpy_of(values[0]).copy()
    (after, *_), _ = stateless_apply(model.optimizer, slots, gradients, values)
    np.testing.assert_array_equal(numpy_of(after)[0], before[0])
    assert (numpy_of(after)[1] != before[1]).all()


def test_it_is_saved_and_opened(tmp_path):
    model = classifier(Embedding, **FROZEN)
    train_and_compare(model, "adamw")
    model.save(tmp_path / "model.keras")
    again = rowwise.keras.load_model(tmp_path / "model.keras")
    assert again.layers[0].freeze_mask_row
    before = again.layers[0].get_weights()[0][0].copy()
    fit(again)
    np.testing.assert_array_equal(again.layers[0].get_weights()[0][0], before)


def test_it_needs_a_mask():
    with pytest.raises(ValueError, match="needs mask_zero=True"):
        Embedding(5, 2, freeze_mask_row=True)
    assert "freeze_mask_row" not in Embedding(5, 2, mask_zero=True).get_config()
