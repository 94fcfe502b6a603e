"""Optimizers that change, skip, repeat or give way in mid-training, beside Keras's own layer."""

import functools
import itertools
import warnings

import keras
import numpy as np
import pytest
from keras import ops, optimizers
from side_by_side import (
    apply,
    gradients_of,
    not_on_tensorflow,
    numpy_of,
    only_torch,
    stateless_apply,
    values_of,
)

import rowwise.keras

ROWS, DIM = 30, 4


def trained(layer, optimizer, steps, before=lambda optimizer, step: None, unused=()):
    """The embeddings and another variable after steps on the same batches."""
    rng = np.random.default_rng(1)
    embedding = layer(ROWS, DIM)
    embedding.build()
    embedding.set_weights([np.random.default_rng(0).normal(size=(ROWS, DIM)).astype("float32")])
    other = keras.Variable(np.ones(DIM, "float32"))
    variables = [embedding.trainable_variables[0], other]
    optimizer.build(variables)
    for step in range(steps):
        before(optimizer, step)
        ids = rng.integers(0, 10 if step % 2 else ROWS, 6)
        factors = rng.normal(size=(6, DIM)).astype("float32")

        def loss(step=step, ids=ids, factors=factors):
            loss = ops.sum(other.value**2)
            return loss if step in unused else loss + ops.sum(ops.multiply(embedding(ids), factors))

        gradients = gradients_of(loss, variables)
        if step in unused:
            gradients[0] = None  # as on every backend but JAX, where it is zeros
        apply(optimizer, gradients, variables)
    return embedding.get_weights()[0], numpy_of(other)


def assert_same(make, *args, **options):
    ours = trained(rowwise.keras.Embedding, make(), *args, **options)
    theirs = trained(keras.layers.Embedding, make(), *args, **options)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("unused", [{1}, {2}, {0, 1}])
def test_waiting_gradients_of_a_table_that_a_batch_left_out(unused):
    assert_same(lambda: optimizers.SGD(0.1, gradient_accumulation_steps=2), 6, unused=unused)
    assert_same(lambda: optimizers.Lion(0.1, gradient_accumulation_steps=2), 6, unused=unused)


def test_a_rate_that_counts_its_calls_is_asked_once_a_step():
    def make():
        count = itertools.count(1)
        return optimizers.SGD(lambda: 0.1 / next(count))

    assert_same(make, 10)


@pytest.mark.parametrize(
    ("make", "knob", "value"),
    [
        (lambda: optimizers.SGD(0.1, momentum=0.9), "momentum", 0.0),
        (lambda: optimizers.SGD(0.1, momentum=0.9), "momentum", 0.5),
        (lambda: optimizers.RMSprop(0.1, centered=True), "centered", False),
        (lambda: optimizers.Adam(0.1, amsgrad=True), "amsgrad", False),
    ],
)
@pytest.mark.filterwarnings("ignore:.*in mid-training")
def test_a_knob_turned_in_mid_training(make, knob, value):
    def turn(optimizer, step):
        if step == 5:
            setattr(optimizer, knob, value)

    assert_same(make, 12, before=turn)


def total(embedding, ids):
    return ops.sum(embedding(np.array(ids)))


def test_a_variable_that_is_given_twice_makes_two_steps():
    for layer in (rowwise.keras.Embedding, keras.layers.Embedding):
        embedding = layer(5, 2, embeddings_initializer="zeros")
        embedding.build()
        variable = embedding.trainable_variables[0]
        optimizer = optimizers.SGD(1.0)
        optimizer.build([variable])
        gradients = []
        for ids in ([0, 1], [2, 3]):
            gradients += gradients_of(functools.partial(total, embedding, ids), [variable])
        optimizer.apply(gradients, [variable, variable])
        np.testing.assert_array_equal(embedding.get_weights()[0][:, 0], [-1, -1, -1, -1, 0])


@pytest.mark.parametrize(("beta_1", "beta_2"), [(0.9, 0.5), (0.5, 0.6), (0.9, 0.51)])
@pytest.mark.filterwarnings("ignore:.*every step visits every row")
def test_lion_whose_momentum_dies_out(beta_1, beta_2):
    assert_same(lambda: optimizers.Lion(0.01, beta_1=beta_1, beta_2=beta_2), 600)


@not_on_tensorflow
def test_stateless_steps_with_waiting_gradients():
    for layer in (rowwise.keras.Embedding, keras.layers.Embedding):
        embedding = layer(5, 2, embeddings_initializer="zeros")
        embedding.build()
        optimizer = optimizers.SGD(1.0, gradient_accumulation_steps=2)
        optimizer.build(embedding.trainable_variables)
        values, state = values_of(embedding.trainable_variables), values_of(optimizer.variables)
        for _ in range(2):
            values, state = stateless_apply(optimizer, state, [ops.ones((5, 2))], values)
        np.testing.assert_array_equal(numpy_of(values[0]), -np.ones((5, 2)))


@only_torch
def test_torchs_own_optimizer_takes_over_from_keras():
    import torch

    def train(layer):
        embedding = layer(ROWS, DIM, embeddings_initializer="ones")
        model = keras.Sequential([embedding, keras.layers.GlobalAveragePooling1D()])
        model.compile(optimizers.Adam(0.1), "mse")
        ids = np.arange(20).reshape(4, 5)
        model.fit(ids, np.zeros((4, DIM)), epochs=2, verbose=0)
        own = torch.optim.Adam(model.parameters(), 0.1)
        for _ in range(3):
            own.zero_grad()
            (model(torch.from_numpy(ids)) ** 2).sum().backward()
            own.step()
        return embedding.get_weights()[0]

    np.testing.assert_allclose(
        train(rowwise.keras.Embedding), train(keras.layers.Embedding), rtol=1e-5
    )


@only_torch
def test_new_data_goes_into_the_table_and_other_memory_is_refused():
    import torch

    embedding = rowwise.keras.Embedding(4, 2)
    embedding.build()
    value = embedding.trainable_variables[0].value
    value.data = torch.ones(4, 2)
    np.testing.assert_array_equal(embedding(torch.arange(4)).detach(), np.ones((4, 2)))
    np.testing.assert_array_equal(embedding.get_weights()[0], np.ones((4, 2)))
    for change in (embedding.double, embedding.share_memory):
        with pytest.raises(RuntimeError, match="cannot become"):
            change()
    np.testing.assert_array_equal(embedding.get_weights()[0], np.ones((4, 2)))


def test_weights_of_a_subclass_are_added_as_keras_adds_them():
    class Mine(rowwise.keras.Embedding):
        def build(self, input_shape=None):
            self._embeddings = self.add_weight(
                (5, 2), "ones", name="embeddings", autocast=True, aggregation="mean"
            )
            self.built = True

    layer = Mine(5, 2)
    layer.build()
    assert layer.table.shape == (5, 2)
    assert layer.trainable_variables[0].aggregation == "mean"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors = layer(np.array([1]))
    assert numpy_of(vectors).tolist() == [[1.0, 1.0]]
