"""The layer where keras.layers.Embedding stood."""

import copy
import pickle

import keras
import numpy as np
import pytest
from side_by_side import (
    DIM,
    ROWS,
    apply,
    assert_equal,
    both,
    classifier,
    data,
    gradients_of,
    numpy_of,
    only_torch,
)

from rowwise.keras import Embedding


def fit(model, epochs=2, **options):
    model.fit(*data(), batch_size=16, epochs=epochs, shuffle=False, verbose=0, **options)


def compile_and_fit(optimizer, **options):
    def train(model):
        model.compile(optimizer() if callable(optimizer) else optimizer, "mse")
        fit(model, **options)

    return train


# ---------------------------------------------------------------------- the program


@pytest.mark.parametrize("sequential", [keras.models.Sequential, keras.Sequential])
def test_keras_own_program_runs_with_its_import_changed(sequential):
    model = sequential()
    model.add(Embedding(5, 2, input_length=5))
    input_array = np.random.default_rng(0).integers(5, size=(1, 5))
    model.compile("rmsprop", "mse")
    output_array = model.predict(input_array, verbose=0)
    assert output_array.shape == (1, 5, 2)
    table = model.layers[0].get_weights()[0]
    np.testing.assert_array_equal(output_array[0], table[input_array[0]])


def test_the_start_is_keras_own_for_the_same_seed():
    ours, theirs = both(lambda model: None)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_summary_counts_the_table_as_trainable(capsys):
    model = classifier(Embedding)
    model.summary()
    assert f"Trainable params: {ROWS * DIM + DIM + 1}" in capsys.readouterr().out
    assert model.layers[0].count_params() == ROWS * DIM


def test_input_length_fixes_the_length_that_the_input_leaves_open():
    layer = Embedding(5, 2, input_length=7)
    assert layer.compute_output_shape((None, None)) == (None, 7, 2)
    assert layer.compute_output_shape((None, 3)) == (None, 3, 2)
    assert layer(keras.Input((None,), dtype="int32")).shape == (None, 7, 2)
    assert Embedding.from_config(layer.get_config()).input_length == 7


def test_a_layer_comes_back_from_its_config():
    layer = Embedding(5, 2, "zeros", mask_zero=True, name="e", trainable=False)
    twin = Embedding.from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    assert keras.layers.Embedding(5, 2, name="e").get_config() == {
        **Embedding(5, 2, name="e").get_config(),
        "dtype": keras.layers.Embedding(5, 2).get_config()["dtype"],
    }


# ---------------------------------------------------------------------- weights


def test_weights_are_got_set_and_given():
    values = np.arange(10, dtype="float32").reshape(5, 2)
    layer = Embedding(5, 2, weights=[values])
    np.testing.assert_array_equal(layer.get_weights()[0], values)
    layer.set_weights([2 * values])
    np.testing.assert_array_equal(numpy_of(layer(np.array([4, 0]))), 2 * values[[4, 0]])
    with pytest.raises(ValueError, match="shape"):
        layer.set_weights([values[:4]])


def test_weights_set_in_the_middle_of_training_keep_the_momentum():
    def train(model):
        model.compile("adam", "mse")
        fit(model)
        model.layers[0].set_weights([np.full((ROWS, DIM), 0.5, "float32")])
        fit(model)
        model.layers[0].embeddings.assign_add(np.ones((ROWS, DIM), "float32"))
        fit(model)

    assert_equal(*both(train))


def test_evaluation_and_prediction_change_no_bit_of_the_table():
    model = classifier(Embedding)
    model.compile("adam", "mse")
    fit(model)
    before = [array.copy() for array in (model.layers[0].table.store.memory(),)]
    states = model.layers[0].table.store._row_states.copy()
    model.evaluate(*data(), verbose=0)
    model.predict(data()[0], verbose=0)
    np.testing.assert_array_equal(model.layers[0].table.store.memory(), before[0])
    np.testing.assert_array_equal(model.layers[0].table.store._row_states, states)


@pytest.mark.filterwarnings("ignore:.*visits all")
@pytest.mark.parametrize("optimizer", ["adam", "nadam"])
def test_the_table_knows_which_rows_were_trained(optimizer):
    model = classifier(Embedding)
    model.compile(optimizer, "mse")
    fit(model, epochs=1)
    np.testing.assert_array_equal(
        model.layers[0].table.untrained(), np.setdiff1d(np.arange(ROWS), data()[0])
    )


# ---------------------------------------------------------------------- models


def test_functional_models_with_two_tables_and_masks():
    def make(layer):
        keras.utils.set_random_seed(0)
        words, users = keras.Input((5,), dtype="int32"), keras.Input((), dtype="int32")
        read = keras.layers.LSTM(4)(layer(ROWS, DIM, mask_zero=True)(words))
        both_parts = keras.layers.Concatenate()([read, layer(10, 3)(users)])
        return keras.Model([words, users], keras.layers.Dense(1)(both_parts))

    def train(model):
        model.compile("adam", "mse")
        ids, answers = data()
        model.fit([ids, ids[:, 0] % 10], answers, batch_size=32, epochs=2, shuffle=False, verbose=0)

    assert_equal(*both(train, make), rtol=1e-4)


def test_subclassed_models():
    def make(layer):
        class Model(keras.Model):
            def __init__(self):
                super().__init__()
                self.embed, self.head = layer(ROWS, DIM), keras.layers.Dense(1)

            def call(self, ids):
                return self.head(self.embed(ids)[:, 0])

        keras.utils.set_random_seed(0)
        return Model()

    assert_equal(*both(compile_and_fit("adam"), make))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_layer_used_twice_in_a_step_is_updated_once(optimizer):
    def make(layer):
        keras.utils.set_random_seed(0)
        left, right = keras.Input((5,), dtype="int32"), keras.Input((5,), dtype="int32")
        embed = layer(ROWS, DIM)
        product = keras.layers.Dot(axes=(2, 2))([embed(left), embed(right)])
        pooled = keras.layers.GlobalAveragePooling1D()(product)
        return keras.Model([left, right], keras.layers.Dense(1)(pooled))

    def train(model):
        model.compile(optimizer, "mse")
        ids, answers = data()
        model.fit([ids, ids[::-1]], answers, batch_size=32, epochs=2, shuffle=False, verbose=0)

    assert_equal(*both(train, make))


def test_two_models_share_a_layer():
    def make(layer):
        keras.utils.set_random_seed(0)
        ids, embed = keras.Input((5,), dtype="int32"), layer(ROWS, DIM)
        flat = keras.layers.Flatten()(embed(ids))
        first = keras.Model(ids, keras.layers.Dense(1)(flat))
        second = keras.Model(ids, keras.layers.Dense(1)(flat))
        object.__setattr__(first, "second", second)  # a model beside it, not a part of it
        return first

    def train(model):
        for part in (model, model.second):
            part.compile("adam", "mse")
        for part in (model, model.second, model, model.second):
            fit(part, epochs=1)

    assert_equal(*both(train, make))


def test_tied_weights_get_a_dense_gradient_and_the_right_step():
    def make(layer):
        class Tied(keras.Model):
            def __init__(self):
                super().__init__()
                self.embed = layer(ROWS, DIM)

            def call(self, ids):
                hidden = keras.ops.mean(self.embed(ids), axis=1)
                return keras.ops.matmul(hidden, keras.ops.transpose(self.embed.embeddings))[:, :1]

        keras.utils.set_random_seed(0)
        return Tied()

    assert_equal(*both(compile_and_fit("adam"), make))


def test_frozen_rows_stay_and_thawed_ones_move_on():
    def train(model):
        model.compile("adam", "mse")
        fit(model)
        model.layers[0].trainable = False
        model.compile("adam", "mse")
        before = model.layers[0].get_weights()[0].copy()
        fit(model)
        np.testing.assert_array_equal(model.layers[0].get_weights()[0], before)
        assert not model.layers[0].trainable_weights
        model.layers[0].trainable = True
        model.compile("adam", "mse")
        fit(model)

    assert_equal(*both(train))


def test_a_new_compile_starts_with_fresh_slots():
    def train(model):
        for optimizer in ("adam", "rmsprop", keras.optimizers.SGD(0.1, momentum=0.9), "adam"):
            model.compile(optimizer, "mse")
            fit(model)

    assert_equal(*both(train))


def test_two_optimizers_take_turns():
    def train(model):
        turns = [keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.1, momentum=0.9)]
        for optimizer in turns * 3:
            model.compile(optimizer, "mse")
            fit(model)

    assert_equal(*both(train), rtol=1e-4)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), keras.models.clone_model],
    ids=["deepcopy", "pickle", "clone"],
)
def test_a_copy_is_a_model_of_its_own(copied):
    model = classifier(Embedding)
    model.compile("adam", "mse")
    fit(model)
    weights = [w.copy() for w in model.get_weights()]
    twin = copied(model)
    twin.set_weights(weights)
    twin.compile("adam", "mse")
    fit(twin)
    for mine, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(mine, before)
    fresh = classifier(Embedding, weights=weights[0])
    fresh.set_weights(weights)
    fresh.compile("adam", "mse")
    fit(fresh)
    for mine, other in zip(twin.get_weights(), fresh.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


# ---------------------------------------------------------------------- loops of one's own


def gradients_in(model, ids, answers):
    def loss():
        return keras.ops.mean(keras.ops.subtract(model(ids), answers) ** 2)

    return gradients_of(loss, model.trainable_weights)


@pytest.mark.parametrize("how", ["guide", "apply", "apply_gradients", "train_on_batch"])
def test_custom_loops(how):
    def train(model):
        optimizer = keras.optimizers.Adam(0.01)
        model.compile(optimizer, "mse")
        ids, answers = data()
        for start in range(0, 256, 16):
            batch = ids[start : start + 16], answers[start : start + 16]
            if how == "train_on_batch":
                model.train_on_batch(*batch)
                continue
            gradients, variables = gradients_in(model, *batch), model.trainable_weights
            if how == "guide":
                apply(optimizer, gradients, variables)
            elif how == "apply":
                optimizer.apply(gradients, variables)
            else:
                optimizer.apply_gradients(zip(gradients, variables, strict=True))

    assert_equal(*both(train))


@only_torch
def test_a_plain_torch_optimizer_gets_ordinary_gradients():
    import torch

    def train(model):
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        ids, answers = data()
        for start in range(0, 256, 16):
            gradients_in(model, ids[start : start + 16], answers[start : start + 16])
            optimizer.step()

    assert_equal(*both(train))


def test_stateless_calls_use_the_weights_they_are_given():
    model = classifier(Embedding)
    ids = data()[0][:4]
    zeros = [keras.ops.zeros(w.shape) for w in model.trainable_variables]
    outputs, _ = model.stateless_call(zeros, [], ids)
    np.testing.assert_array_equal(numpy_of(outputs), np.zeros((4, 1)))


def test_knobs_turned_in_the_middle_count_from_there_on():
    class Turn(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.weight_decay = 0.1 * epoch
            self.model.optimizer.learning_rate = 0.01 / (epoch + 1)
            self.model.optimizer.beta_1 = 0.9 - 0.1 * epoch

    def train(model):
        model.compile(keras.optimizers.AdamW(0.01), "mse")
        fit(model, epochs=4, callbacks=[Turn()])

    assert_equal(*both(train), rtol=1e-4)


def test_variables_are_excluded_from_weight_decay():
    def optimizer():
        adam = keras.optimizers.AdamW(0.01, weight_decay=0.5)
        adam.exclude_from_weight_decay(var_names=["embeddings"])
        return adam

    assert_equal(*both(compile_and_fit(optimizer)), rtol=1e-4)


# ---------------------------------------------------------------------- what runs densely

DENSE = {
    "use_ema": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=5),
    "l2_shrinkage": lambda: keras.optimizers.Ftrl(0.1, l2_shrinkage_regularization_strength=0.1),
    "Adafactor": lambda: keras.optimizers.Adafactor(0.01),
    "Lamb": lambda: keras.optimizers.Lamb(0.01),
    "Muon": lambda: keras.optimizers.Muon(0.01, exclude_layers=["embedding"]),
    "ScheduleFreeAdamW": lambda: keras.optimizers.ScheduleFreeAdamW(0.01),
}


@pytest.mark.parametrize("name", DENSE)
def test_what_has_no_exact_lazy_update_is_kerass_own_step_with_one_warning(name):
    def train(model):
        ours = isinstance(model.layers[0], Embedding)
        model.compile(DENSE[name](), "mse")
        if ours:
            with pytest.warns(UserWarning, match=f"{name}.* visits all {ROWS} rows") as warned:
                fit(model)
            assert len([w for w in warned if "visits all" in str(w.message)]) == 1
        else:
            fit(model)

    assert_equal(*both(train))


@pytest.mark.filterwarnings("ignore:.*visits all")
def test_a_users_own_subclass_of_adam_runs_as_written():
    class Halved(keras.optimizers.Adam):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient * 0.5, variable, learning_rate)

    assert_equal(*both(compile_and_fit(lambda: Halved(0.01))))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    def make(layer):
        keras.config.set_dtype_policy(policy)
        try:
            return classifier(layer)
        finally:
            keras.config.set_dtype_policy("float32")

    ours, theirs = both(compile_and_fit("adam"), make)
    # Half precision sums the gradients of one row in another order: equal to its rounding.
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-3)
    assert (
        ours.predict(data()[0][:2], verbose=0).dtype
        == theirs.predict(data()[0][:2], verbose=0).dtype
    )


@pytest.mark.filterwarnings("ignore:.*visits all")
def test_an_optimizer_with_a_rule_goes_on_after_one_without():
    def train(model):
        for optimizer in (keras.optimizers.Lamb(0.01), "adam", keras.optimizers.Lamb(0.01), "adam"):
            model.compile(optimizer, "mse")
            before = numpy_of(model.layers[0].embeddings).copy()
            model.fit(*data(), batch_size=16, epochs=2, shuffle=False, verbose=0)
            assert (numpy_of(model.layers[0].embeddings) != before).any()
            np.testing.assert_allclose(
                model.predict(data()[0][:4], verbose=0), numpy_of(model(data()[0][:4])), rtol=1e-5
            )

    assert_equal(*both(train), rtol=1e-4)
