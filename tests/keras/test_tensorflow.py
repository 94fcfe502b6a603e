"""What TensorFlow alone has: strategies of distribution, graphs that fail, threads that predict."""

import threading

import keras
import numpy as np
import pytest
from side_by_side import BACKEND, numpy_of

from rowwise.keras import Embedding

if BACKEND != "tensorflow":
    pytest.skip("is about what TensorFlow alone has", allow_module_level=True)

import tensorflow as tf

IDS = np.arange(24).reshape(8, 3)  # none of them twice: Keras's layer squares parts of sums
ANSWERS = np.random.default_rng(0).standard_normal((8, 1)).astype("float32")


def model_of(layer, rows=24):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,), dtype="int32")
    vectors = keras.layers.Flatten()(layer(rows, 4)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(vectors))
    model.compile(keras.optimizers.Adam(0.1), "mse")
    return model


@pytest.mark.parametrize("strategy", ["MirroredStrategy", "OneDeviceStrategy"])
@pytest.mark.parametrize("fit_within", [True, False])
def test_under_a_strategy_keras_makes_the_steps(strategy, fit_within):
    device = ["/cpu:0"] if strategy == "MirroredStrategy" else "/cpu:0"
    scope = getattr(tf.distribute, strategy)(device)

    def trained(layer):
        with scope.scope():
            model = model_of(layer)
            if fit_within:
                model.fit(IDS, ANSWERS, epochs=3, verbose=0)
        if not fit_within:
            model.fit(IDS, ANSWERS, epochs=3, verbose=0)
        return model.get_weights()

    with pytest.warns(UserWarning, match=r"a tf\.distribute strategy is set"):
        ours = trained(Embedding)
    for mine, other in zip(ours, trained(keras.layers.Embedding), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


def test_a_graph_of_ones_own_does_not_count_a_step_that_failed():
    model = model_of(Embedding)
    model.fit(IDS, ANSWERS, verbose=0)

    @tf.function
    def step(ids):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(ids) ** 2)
        variables = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, variables), variables)

    step(IDS)
    before = [numpy_of(v) for v in (*model.variables, *model.optimizer.variables)]
    with pytest.raises(tf.errors.OpError, match="id 24 at position"):
        step(IDS + 1)
    for variable, was in zip((*model.variables, *model.optimizer.variables), before, strict=True):
        np.testing.assert_array_equal(numpy_of(variable), was)


def test_of_two_threads_each_gets_its_own_error():
    model = model_of(Embedding)
    model.predict_on_batch(IDS)
    raised = []

    def predict(ids, times):
        for _ in range(times):
            try:
                model.predict_on_batch(ids)
            except Exception as error:
                raised.append(error)

    others = [threading.Thread(target=predict, args=(IDS, 100)) for _ in range(2)]
    for thread in others:
        thread.start()
    predict(IDS + 1, 50)
    for thread in others:
        thread.join()
    assert [type(error) for error in raised] == [IndexError] * 50
