"""TensorFlow alone: strategies of distribution, graphs that fail, threads that predict."""

import copy
import gc
import threading
import warnings

import keras
import numpy as np
import pytest
from side_by_side import BACKEND, LAYERS, assert_sparse_steps, numpy_of

from rowwise.keras import Embedding, export_scope

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


def test_steps_until_a_generator_runs_dry_are_counted_without_a_warning():
    model = model_of(Embedding)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        model.fit(((IDS, ANSWERS) for _ in range(4)), shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == model.layers[1].table.steps == 4


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


# ---------------------------------------------------------------------- embeddings.value


def gradient_of(layer, ask):
    """The gradient by what `ask(layer)` gives, in an eager call and in a graph, whole."""

    def gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(IDS[:2] // 2) ** 2)
        slices = tape.gradient(loss, ask(layer))
        assert isinstance(slices, tf.IndexedSlices)
        return tf.convert_to_tensor(slices)

    return numpy_of(gradient()), numpy_of(tf.function(gradient)())


def layer_of(kind):
    keras.utils.set_random_seed(0)
    layer = kind(24, 4)
    layer.build()
    return layer


def test_the_gradient_by_the_value_is_that_by_the_variable():
    theirs = layer_of(keras.layers.Embedding)
    expected = gradient_of(theirs, lambda layer: layer.embeddings.value)[0]
    assert expected.any()
    for ask in (lambda layer: layer.embeddings.value, lambda layer: layer.embeddings):
        for gradient in gradient_of(layer_of(Embedding), ask):
            np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_loop_over_values_makes_sparse_steps_to_the_numbers_of_keras(compiled):
    def trained(kind):
        model, optimizer = model_of(kind), keras.optimizers.Adam(0.1)
        values = [variable.value for variable in model.trainable_variables]

        def step(ids, answers):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(ids) - answers) ** 2)
            optimizer.apply_gradients(zip(tape.gradient(loss, values), values, strict=True))

        optimizer.build(values)
        step = tf.function(step) if compiled else step
        for first in (0, 4, 0):
            step(IDS[first : first + 4], ANSWERS[first : first + 4])
        if kind is Embedding:
            assert_sparse_steps(model.layers[1])
        return model

    ours, theirs = map(trained, LAYERS)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


def test_what_tensorflow_does_with_a_variable_it_does_with_the_value():
    answers = []
    for kind in LAYERS:
        value = layer_of(kind).embeddings.value
        assert isinstance(value, tf.Variable)
        seen = [value.shape, value.dtype, tf.nn.embedding_lookup(value, [3, 1]), value[2:4, 0]]
        seen += [tf.gather_nd(value, [[1, 2]]), tf.matmul(tf.ones((1, 24)), value), value + 1.0]
        seen += [copy.deepcopy(value).numpy(), tf.function(lambda value=value: value * 2)()]
        value.assign_add(tf.ones((24, 4)))
        value.assign_sub(2 * value)
        seen += [value.numpy(), np.asarray(value.assign(tf.ones((24, 4))))]
        answers.append([np.asarray(one) for one in seen])
    for ours, theirs in zip(*answers, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_value_does_not_do_what_a_table_cannot():
    value = layer_of(Embedding).embeddings.value
    with pytest.raises(NotImplementedError, match=r"assign\(\) sets all .*store\.write\(v"):
        value.scatter_nd_update([[0]], [[1.0, 1, 1, 1]])
    with pytest.raises(ValueError, match=r"\(3, 4\) cannot be assigned to \(24, 4\)"):
        value.assign(tf.ones((3, 4)))


def test_a_checkpoint_of_tensorflows_restores_values_slots_and_iterations(tmp_path):
    """Training goes on from there as Keras's layer does, and each reads the other's files."""

    def write(model):
        model.fit(IDS, ANSWERS, batch_size=4, verbose=0)
        return tf.train.Checkpoint(model=model).save(tmp_path / type(model.layers[1]).__module__)

    def resume(model, file):
        model.fit(IDS[::-1], ANSWERS, batch_size=4, verbose=0)
        tf.train.Checkpoint(model=model).restore(file).assert_existing_objects_matched()
        model.fit(IDS[:4], ANSWERS[:4], verbose=0)
        return [numpy_of(v) for v in (*model.variables, *model.optimizer.variables)]

    files = [write(model_of(kind)) for kind in LAYERS]
    resumed = [resume(model_of(kind), file) for kind in LAYERS for file in files]
    for other in resumed[:-1]:
        for mine, theirs in zip(other, resumed[-1], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------- models that go


def test_of_a_model_that_is_dropped_tensorflow_keeps_neither_gradients_nor_graphs():
    from tensorflow.python.framework import ops

    def left():
        gc.collect()
        graphs = sum(type(thing).__name__ == "FuncGraph" for thing in gc.get_objects())
        return len(ops.gradient_registry._registry), graphs

    def train_and_drop():
        model_of(Embedding).train_on_batch(IDS, ANSWERS)
        keras.backend.clear_session(free_memory=False)

    train_and_drop()
    before = left()
    for _ in range(3):
        train_and_drop()
    assert left() == before


def test_a_graph_has_its_gradient_after_the_model_is_dropped():
    def traced():
        layer = layer_of(Embedding)
        return layer, tf.function(lambda ids: tf.reduce_sum(layer(ids) ** 2))

    layer, loss = traced()
    loss.get_concrete_function(tf.TensorSpec((3,), tf.int64))
    gc.collect()
    with tf.GradientTape() as tape:
        value = loss(tf.constant([1, 2, 2], tf.int64))
    slices = tape.gradient(value, layer.embeddings)
    rows = layer.table.to_numpy()[[1, 2, 2]]
    np.testing.assert_allclose(numpy_of(slices.values), 2 * rows, rtol=1e-6)


def test_without_what_is_private_to_tensorflow_models_train_and_export(monkeypatch):
    from rowwise.keras._tensorflow import internals

    assert len(internals.points_that_write_graphs()) == 3
    modules = ("convert_to_constants", "function_serialization", "saved_model_exported_concrete")
    for name in (*modules, "save_context"):
        monkeypatch.setattr(internals, name, None)
    monkeypatch.setattr(internals, "_registry", {})
    assert internals.points_that_write_graphs() == []
    model = model_of(Embedding)
    model.train_on_batch(IDS, ANSWERS)
    assert_sparse_steps(model.layers[1])
    with export_scope():
        served = tf.function(model).get_concrete_function(tf.TensorSpec((None, 3), tf.int32))
    assert "PyFunc" not in {operation.type for operation in served.graph.get_operations()}
