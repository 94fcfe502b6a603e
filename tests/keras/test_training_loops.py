"""Steps made in unusual ways, on both layers: the numbers stay Keras's."""

import keras
import numpy as np
import pytest
from keras import ops
from side_by_side import (
    BACKEND,
    DIM,
    LAYERS,
    ROWS,
    apply,
    assert_equal,
    both,
    classifier,
    data,
    gradients_of,
    not_on_tensorflow,
    numpy_of,
    only_torch,
    raised_in_a_program,
    stateless_apply,
    values_of,
)

from rowwise.keras import Embedding


def fit(model, epochs=2, **options):
    model.fit(*data(), batch_size=16, epochs=epochs, shuffle=False, verbose=0, **options)


def loss_of(model, start, size=8):
    ids, answers = data()
    batch = slice(start, start + size)
    return ops.mean(ops.subtract(model(ids[batch]), answers[batch]) ** 2)


class OwnStep(keras.Model):
    """A `train_step` as Keras's guide for the backend writes it."""

    def train_step(self, batch):
        ids, answers = batch
        losses = []

        def loss():
            losses.append(self.compute_loss(y=answers, y_pred=self(ids, training=True)))
            return losses[0]

        apply(self.optimizer, gradients_of(loss, self.trainable_weights), self.trainable_weights)
        return {"loss": losses[0]}


class OwnStepOnJAX(keras.Model):
    """The same, of a state that is given and given back."""

    def loss_and_state(self, trained, others, ids, answers):
        predicted, others = self.stateless_call(trained, others, ids, training=True)
        return self.compute_loss(ids, answers, predicted), others

    def train_step(self, state, batch):
        import jax

        trained, others, slots, metrics = state
        take = jax.value_and_grad(self.loss_and_state, has_aux=True)
        (loss, others), gradients = take(trained, others, *batch)
        trained, slots = self.optimizer.stateless_apply(slots, gradients, trained)
        return {"loss": loss}, (trained, others, slots, metrics)


def test_a_models_own_train_step():
    def make(layer):
        class Model(OwnStepOnJAX if BACKEND == "jax" else OwnStep):
            def __init__(self):
                super().__init__()
                self.embed, self.head = layer(ROWS, DIM), keras.layers.Dense(1)

            def call(self, ids, training=None):
                return self.head(ops.mean(self.embed(ids), axis=1))

        keras.utils.set_random_seed(0)
        model = Model()
        model(data()[0][:1])  # so that it is built, before its gradients are asked for
        return model

    def train(model):
        model.compile("adam", "mse")
        fit(model)

    assert_equal(*both(train, make))


@only_torch
def test_gradients_that_add_up_over_several_backward_passes():
    def train(model):
        model.compile("adam", "mse")
        fit(model)
        for start in range(0, 80, 8):
            model.zero_grad()
            for part in range(3):
                loss_of(model, start + part).backward()
            gradients = [variable.value.grad for variable in model.trainable_weights]
            apply(model.optimizer, gradients, model.trainable_weights)

    assert_equal(*both(train))


def test_a_loss_of_several_calls_of_the_model():
    def train(model):
        model.compile("adam", "mse")
        fit(model)
        variables = model.trainable_weights
        for start in range(0, 80, 8):
            # Of each call, as the function is called before `start` moves on.
            gradients = gradients_of(
                lambda start=start: sum(loss_of(model, start + part) for part in range(3)),
                variables,
            )
            apply(model.optimizer, gradients, variables)

    assert_equal(*both(train))


def halved(gradient):
    if not hasattr(gradient, "indices") or BACKEND != "tensorflow":
        return gradient * 0.5
    import tensorflow as tf

    return tf.IndexedSlices(gradient.values * 0.5, gradient.indices, gradient.dense_shape)


@pytest.mark.parametrize("how", ["scaled", pytest.param("autograd.grad", marks=only_torch)])
def test_gradients_that_pass_through_the_users_hands(how):
    def train(model):
        model.compile("adam", "mse")
        fit(model)
        variables = model.trainable_weights
        for start in range(0, 80, 8):
            if how == "autograd.grad":
                import torch

                values = [variable.value for variable in variables]
                gradients = torch.autograd.grad(loss_of(model, start), values)
            else:
                whole = gradients_of(lambda start=start: loss_of(model, start), variables)
                gradients = [halved(gradient) for gradient in whole]
            apply(model.optimizer, gradients, variables)

    assert_equal(*both(train))


@only_torch
def test_torch_clips_gradients_as_it_does_kerass():
    def train(model):
        import torch

        model.compile("adam", "mse")
        fit(model)
        variables = model.trainable_weights
        values = [variable.value for variable in variables]
        for start in range(0, 80, 8):
            model.zero_grad()
            loss_of(model, start).backward()
            torch.nn.utils.clip_grad_norm_(values, 0.01)
            values[0].grad.clamp_(-0.001, 0.001)
            apply(model.optimizer, [value.grad for value in values], variables)

    assert_equal(*both(train))


# Keras warns of a subclassed model that was built by a call, and of variables without gradients.
@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer 'either'")
def test_a_step_that_does_not_use_a_table_leaves_it_alone():
    """Keras steps only what has a gradient: no decay and no momentum for the other table.

    On JAX all there is has one, of zeros, and Keras steps that as any other.
    """

    def make(layer):
        class Either(keras.Model):
            def __init__(self):
                super().__init__()
                self.tables, self.head = [layer(ROWS, DIM), layer(ROWS, DIM)], keras.layers.Dense(1)
                self.turn = 0

            def call(self, ids):
                return self.head(ops.mean(self.tables[self.turn](ids), axis=1))

        keras.utils.set_random_seed(0)
        model = Either()
        for model.turn in (0, 1):
            model(data()[0][:2])
        return model

    def train(model):
        # Eagerly: a compiled step goes on with the table that was used when it was compiled.
        adam = keras.optimizers.AdamW(0.01, weight_decay=0.2)
        model.compile(adam, "mse", run_eagerly=True)
        ids, answers = data()
        for step in range(40):
            model.turn = step % 3 % 2
            batch = slice(4 * step, 4 * step + 4)
            model.train_on_batch(ids[batch], answers[batch])

    if BACKEND == "jax":
        assert_equal(*both(train, make))
        return
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        assert_equal(*both(train, make))


def test_a_rate_of_zero_moves_nothing_and_keeps_the_momentum():
    def train(model):
        model.compile(keras.optimizers.AdamW(0.01), "mse")
        for rate in (0.01, 0.0, 0.01):
            model.optimizer.learning_rate = rate
            fit(model)

    assert_equal(*both(train), rtol=1e-4)


def test_a_negative_rate_is_kerass_own_step_with_one_warning():
    def train(model):
        model.compile(keras.optimizers.Adam(0.01), "mse")
        fit(model)
        model.optimizer.learning_rate = -0.01
        if isinstance(model.layers[0], Embedding):
            with pytest.warns(UserWarning, match=r"learning_rate=-0\.0") as warned:
                fit(model)
            assert len([w for w in warned if "visits all" in str(w.message)]) == 1
        else:
            fit(model)

    assert_equal(*both(train), rtol=1e-4)


def test_a_step_counter_that_is_set_counts_from_there_on():
    def train(model):
        model.compile("adam", "mse")
        for iterations in (1000, 0):
            fit(model)
            model.optimizer.iterations.assign(iterations)
        fit(model)

    assert_equal(*both(train), rtol=1e-4)


def test_slots_that_are_set_count_from_there_on():
    def train(model):
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        fit(model)
        momentum = next(v for v in model.optimizer.variables if "embeddings" in v.path)
        momentum.assign(np.full((ROWS, DIM), 0.01, "float32"))
        fit(model)

    assert_equal(*both(train), rtol=1e-4)


def test_a_sample_that_is_not_a_number_spoils_the_rows_it_would_in_keras():
    def train(model):
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        ids, answers = data()
        answers[100] = np.nan
        model.fit(ids, answers, batch_size=16, shuffle=False, verbose=0)

    ours, theirs = both(train)
    spoilt = np.isnan(ours.layers[0].get_weights()[0])
    assert spoilt.any()
    assert not spoilt.all()
    assert_equal(ours, theirs)


def test_the_best_weights_are_restored_after_early_stopping():
    def train(model):
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        stop = keras.callbacks.EarlyStopping(
            "loss", mode="max", patience=3, restore_best_weights=True
        )
        fit(model, epochs=8, callbacks=[stop])
        assert stop.stopped_epoch > 0

    assert_equal(*both(train))


@pytest.mark.parametrize("optimizer", ["scaled", "scaled inside", "overflowing"])
def test_scaled_losses(optimizer):
    def make_optimizer():
        if optimizer == "scaled inside":
            return keras.optimizers.Adam(0.01, loss_scale_factor=128.0)
        scale = 2.0**127 if optimizer == "overflowing" else 2.0**15
        return keras.optimizers.LossScaleOptimizer(
            keras.optimizers.Adam(0.01), initial_scale=scale, dynamic_growth_steps=4
        )

    def train(model):
        model.compile(make_optimizer(), "mse")
        fit(model)
        if optimizer == "overflowing":  # most of the 32 steps were left out
            assert 0 < model.optimizer.iterations < 32

    assert_equal(*both(train), rtol=1e-4)


@only_torch
def test_state_dicts_are_saved_and_loaded_in_the_middle_of_training():
    def train(model):
        model.compile("adam", "mse")
        fit(model)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        fit(model)
        model.load_state_dict(state)
        fit(model)

    assert_equal(*both(train))


@only_torch
def test_torch_writes_into_the_table_in_the_middle_of_training():
    import torch

    def train(model):
        model.compile("adam", "mse")
        fit(model)
        value = model.layers[0].embeddings.value
        with torch.no_grad():
            value[3] = 7.0
            value.mul_(2.0)
        value.data[4] = 1.0
        fit(model)

    assert_equal(*both(train))


@not_on_tensorflow
def test_a_stateless_step_is_the_callers_and_changes_nothing_here():
    def stateless_step(layer):
        keras.backend.clear_session(free_memory=False)
        model = classifier(layer)
        model.compile("adam", "mse")
        fit(model)
        before = [numpy_of(v).copy() for v in (*model.weights, *model.optimizer.variables)]
        values = values_of(model.trainable_variables)
        slots = values_of(model.optimizer.variables)
        results = stateless_apply(
            model.optimizer, slots, [ops.ones_like(v) for v in values], values
        )
        for mine, was in zip((*model.weights, *model.optimizer.variables), before, strict=True):
            np.testing.assert_array_equal(mine.numpy(), was)
        return [numpy_of(value) for part in results for value in part]

    for mine, other in zip(
        stateless_step(Embedding), stateless_step(keras.layers.Embedding), strict=True
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow maps no function over samples")
def test_gradients_of_single_samples_by_vmap():
    def of_samples(layer, ids):
        embed = layer(ROWS, DIM, embeddings_initializer="ones")
        embed.build()

        def loss(value, sample):
            return ops.sum(embed.stateless_call([value], [], sample)[0] ** 2)

        (value,) = values_of([embed.embeddings])
        if BACKEND == "torch":
            from torch.func import grad, vmap

            return vmap(grad(loss), in_dims=(None, 0))(value, ids)
        import jax

        return jax.vmap(jax.grad(loss), in_axes=(None, 0))(value, ids)

    for dtype in ("int32",) if BACKEND == "jax" else ("int64", "int32"):
        ids = ops.convert_to_tensor(data()[0][:4].astype(dtype))
        ours, theirs = (numpy_of(of_samples(layer, ids)) for layer in LAYERS)
        np.testing.assert_array_equal(ours, theirs)
    message = rf"id {ROWS + 1} at position \(0, 0\) is outside"
    with pytest.raises(raised_in_a_program(IndexError), match=message):
        of_samples(Embedding, ops.convert_to_tensor([[ROWS + 1]]))
