"""Steps made in unusual ways, on both layers: the numbers stay Keras's."""

import keras
import numpy as np
import pytest
import torch
from side_by_side import DIM, LAYERS, ROWS, assert_equal, both, classifier, data

from rowwise.keras import Embedding


def fit(model, epochs=2, **options):
    model.fit(*data(), batch_size=16, epochs=epochs, shuffle=False, verbose=0, **options)


def loss_of(model, start, size=8):
    ids, answers = data()
    batch = slice(start, start + size)
    return torch.mean((model(ids[batch]) - torch.from_numpy(answers[batch])) ** 2)


def apply(model, gradients):
    with torch.no_grad():
        model.optimizer.apply(gradients, model.trainable_weights)


def gradients_of(model):
    return [variable.value.grad for variable in model.trainable_weights]


def test_a_models_own_train_step():
    def make(layer):
        class Model(keras.Model):
            def __init__(self):
                super().__init__()
                self.embed, self.head = layer(ROWS, DIM), keras.layers.Dense(1)

            def call(self, ids):
                return self.head(keras.ops.mean(self.embed(ids), axis=1))

            def train_step(self, batch):
                ids, answers = batch
                self.zero_grad()
                loss = self.compute_loss(y=answers, y_pred=self(ids, training=True))
                loss.backward()
                apply(self, gradients_of(self))
                return {"loss": loss}

        keras.utils.set_random_seed(0)
        return Model()

    def train(model):
        model.compile("adam", "mse")
        fit(model)

    assert_equal(*both(train, make))


def test_gradients_that_add_up_over_several_backward_passes():
    def train(model):
        model.compile("adam", "mse")
        fit(model)
        for start in range(0, 80, 8):
            model.zero_grad()
            for part in range(3):
                loss_of(model, start + part).backward()
            apply(model, gradients_of(model))

    assert_equal(*both(train))


@pytest.mark.parametrize("how", ["scaled", "autograd.grad"])
def test_gradients_that_pass_through_the_users_hands(how):
    def train(model):
        model.compile("adam", "mse")
        fit(model)
        for start in range(0, 80, 8):
            model.zero_grad()
            loss = loss_of(model, start)
            if how == "autograd.grad":
                apply(model, torch.autograd.grad(loss, [v.value for v in model.trainable_weights]))
            else:
                loss.backward()
                apply(model, [gradient * 0.5 for gradient in gradients_of(model)])

    assert_equal(*both(train))


# Keras warns of a subclassed model that was built by a call, and of variables without gradients.
@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer 'either'")
def test_a_step_that_does_not_use_a_table_leaves_it_alone():
    """Keras steps only what has a gradient: no decay and no momentum for the other table."""

    def make(layer):
        class Either(keras.Model):
            def __init__(self):
                super().__init__()
                self.tables, self.head = [layer(ROWS, DIM), layer(ROWS, DIM)], keras.layers.Dense(1)
                self.turn = 0

            def call(self, ids):
                return self.head(keras.ops.mean(self.tables[self.turn](ids), axis=1))

        keras.utils.set_random_seed(0)
        model = Either()
        for model.turn in (0, 1):
            model(data()[0][:2])
        return model

    def train(model):
        model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.2), "mse")
        ids, answers = data()
        for step in range(40):
            model.turn = step % 3 % 2
            batch = slice(4 * step, 4 * step + 4)
            model.train_on_batch(ids[batch], answers[batch])

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
            with pytest.warns(UserWarning, match="learning rate -0.0") as warned:
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


def test_state_dicts_are_saved_and_loaded_in_the_middle_of_training():
    def train(model):
        model.compile("adam", "mse")
        fit(model)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        fit(model)
        model.load_state_dict(state)
        fit(model)

    assert_equal(*both(train))


def test_torch_writes_into_the_table_in_the_middle_of_training():
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


def test_a_stateless_step_is_the_callers_and_changes_nothing_here():
    def stateless_step(layer):
        keras.backend.clear_session()
        model = classifier(layer)
        model.compile("adam", "mse")
        fit(model)
        before = [v.numpy().copy() for v in (*model.weights, *model.optimizer.variables)]
        values = [v.value.detach().clone() for v in model.trainable_variables]
        slots = [v.value.detach().clone() for v in model.optimizer.variables]
        results = model.optimizer.stateless_apply(
            slots, [torch.ones_like(v) for v in values], values
        )
        for mine, was in zip((*model.weights, *model.optimizer.variables), before, strict=True):
            np.testing.assert_array_equal(mine.numpy(), was)
        return [value.detach().numpy() for part in results for value in part]

    for mine, other in zip(
        stateless_step(Embedding), stateless_step(keras.layers.Embedding), strict=True
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


def test_gradients_of_single_samples_by_vmap():
    def of_samples(layer, ids):
        embed = layer(ROWS, DIM, embeddings_initializer="ones")
        embed.build()

        def loss(value, sample):
            return (embed.stateless_call([value], [], sample)[0] ** 2).sum()

        value = embed.embeddings.value.detach().clone()
        return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(value, ids)

    ids = torch.from_numpy(data()[0][:4])
    for dtype in (torch.int64, torch.int32):
        ours, theirs = (of_samples(layer, ids.to(dtype)) for layer in LAYERS)
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(IndexError, match=rf"id {ROWS + 1} at position \(0, 0\) is outside"):
        of_samples(Embedding, torch.tensor([[ROWS + 1]]))
