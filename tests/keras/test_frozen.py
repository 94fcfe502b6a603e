"""Vectors that are given and not to be trained."""

import numpy as np
import pytest
from side_by_side import (
    BACKEND,
    DIM,
    ROWS,
    assert_equal,
    both,
    classifier,
    data,
    only_torch,
)

from rowwise.keras import Embedding

GIVEN = np.random.default_rng(1).standard_normal((ROWS, DIM)).astype("float32")


def frozen(layer, **options):
    return classifier(layer, trainable=False, **options)


def fit(model):
    model.fit(*data(), batch_size=16, epochs=2, shuffle=False, verbose=0)


@pytest.mark.parametrize("options", [{}, {"weights": GIVEN}], ids=["drawn", "given"])
def test_a_layer_made_frozen_is_not_trained(options):
    def train(model):
        model.compile("adam", "mse")
        before = model.layers[0].get_weights()[0].copy()
        assert len(model.trainable_weights) == 2
        fit(model)
        np.testing.assert_array_equal(model.layers[0].get_weights()[0], before)

    assert_equal(*both(train, lambda layer: frozen(layer, **options)))


def test_a_layer_made_frozen_trains_once_it_is_thawed():
    def train(model):
        model.compile("adam", "mse")
        fit(model)
        model.layers[0].trainable = True
        model.compile("adam", "mse")
        before = model.layers[0].get_weights()[0].copy()
        fit(model)
        assert (model.layers[0].get_weights()[0] != before).any()

    assert_equal(*both(train, frozen))


def test_freezing_without_a_new_compile_is_as_in_keras():
    def train(model):
        model.compile("adam", "mse")
        for trainable in (True, False, True):
            model.layers[0].trainable = trainable
            if BACKEND == "jax" and not trainable:  # where Keras wants a new compile
                with pytest.raises(ValueError, match="the optimizer was built with 3 variables"):
                    fit(model)
                return
            fit(model)

    ours, theirs = both(train)
    if BACKEND == "jax":  # Keras has lost its model's variables over that error; ours are there
        assert all(np.isfinite(values).all() for values in ours.get_weights())
    else:
        assert_equal(ours, theirs)


@only_torch
def test_a_frozen_variable_asks_for_no_gradient():
    layer = Embedding(5, 2, trainable=False)
    assert not layer(np.array([1])).requires_grad
    layer.trainable = True
    assert layer(np.array([1])).requires_grad
