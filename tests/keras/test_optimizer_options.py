"""Options of optimizers besides their rule: sparse steps have the dense gradient's numbers."""

import keras
import numpy as np
import pytest
from keras import optimizers
from side_by_side import ROWS, all_three, assert_as_exact, assert_equal, both, data

from rowwise.keras import Embedding

OPTIMIZERS = {
    "momentum": lambda **options: optimizers.SGD(0.05, momentum=0.9, **options),
    "rmsprop": lambda **options: optimizers.RMSprop(0.01, **options),
    "adamw": lambda **options: optimizers.AdamW(0.01, weight_decay=0.1, **options),
    "nadam": lambda **options: optimizers.Nadam(0.01, **options),
    "lion": lambda **options: optimizers.Lion(0.001, **options),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
CLIPS = [{"clipnorm": 0.02}, {"clipvalue": 0.002}, {"global_clipnorm": 0.05}]
by_clip = pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: next(iter(clip)))


def fit(optimizer, epochs=2):
    def train(model):
        model.compile(optimizer(), "mse")
        model.fit(*data(), batch_size=8, epochs=epochs, shuffle=False, verbose=0)
        if isinstance(model.layers[0], Embedding) and keras.config.floatx() == "float32":
            # On JAX Keras does not keep all of Nadam where a LossScaleOptimizer is around it.
            lost = keras.backend.backend() == "jax" and hasattr(model.optimizer, "inner_optimizer")
            lost = lost and isinstance(model.optimizer.inner_optimizer, optimizers.Nadam)
            assert model.layers[0]._embeddings.binding.mode == ("dense" if lost else "sparse")

    return train


@every_optimizer
@by_clip
def test_gradients_are_clipped_as_a_whole(name, clip):
    assert_as_exact(*all_three(fit(lambda: OPTIMIZERS[name](**clip))))


@by_clip
def test_the_clips_of_these_tests_do_clip(clip):
    clipped, free = (
        both(fit(lambda options=options: optimizers.SGD(0.05, **options)))[0].get_weights()[0]
        for options in (clip, {})
    )
    assert np.abs(clipped - free).max() > 1e-3


@every_optimizer
def test_gradients_of_several_batches_make_one_step(name):
    assert_as_exact(*all_three(fit(lambda: OPTIMIZERS[name](gradient_accumulation_steps=3))))


@by_clip
def test_the_mean_of_several_batches_is_clipped(clip):
    assert_as_exact(
        *all_three(fit(lambda: OPTIMIZERS["adamw"](gradient_accumulation_steps=3, **clip)))
    )


def test_a_file_keeps_gradients_that_wait_for_their_step(tmp_path):
    path = str(tmp_path / "model.keras")
    ids, answers = data()

    def through_a_file(model):
        model.compile(optimizers.Adam(0.01, gradient_accumulation_steps=3), "mse")
        ours = isinstance(model.layers[0], Embedding)
        for start in range(0, 64, 8):  # 8 batches: two of them wait
            model.train_on_batch(ids[start : start + 8], answers[start : start + 8])
        waiting = model.optimizer.variables[2].numpy()
        assert waiting.shape == (ROWS, 6)
        assert waiting.any()
        model.save(path)
        loaded = keras.saving.load_model(path)
        for start in range(64, 256, 8):
            loaded.train_on_batch(ids[start : start + 8], answers[start : start + 8])
        assert not ours or loaded.layers[0]._embeddings.binding.mode == "sparse"
        model.set_weights(loaded.get_weights())
        model.optimizer.set_weights([v.numpy() for v in loaded.optimizer.variables])

    assert_equal(*both(through_a_file), atol=5e-6)


def test_gradients_wait_through_a_switch_to_dense_training():
    """A learning rate that no exact lazy update takes comes while gradients wait."""
    ids, answers = data()

    def train(model):
        model.compile(optimizers.SGD(0.1, gradient_accumulation_steps=4), "mse")
        for t, start in enumerate(range(0, 128, 8)):
            if t == 5:
                model.optimizer.learning_rate = -0.1
            model.train_on_batch(ids[start : start + 8], answers[start : start + 8])

    with pytest.warns(UserWarning, match=r"learning_rate=-0\.1.* visits all"):
        models = both(train)
    assert_equal(*models)


@pytest.mark.filterwarnings("ignore:.*does not keep Nadam's momentum product")  # on JAX
@every_optimizer
def test_scaled_losses_give_the_same_steps(name):
    for scaled in (
        lambda: optimizers.LossScaleOptimizer(OPTIMIZERS[name](), 256.0),
        lambda: OPTIMIZERS[name](loss_scale_factor=64.0),
    ):
        assert_as_exact(*all_three(fit(scaled, epochs=1)))


def test_a_step_that_loss_scaling_skips_leaves_all_as_it_was():
    ids, answers = data()

    def train(model):
        model.compile(optimizers.LossScaleOptimizer(optimizers.Adam(0.01), 4.0), "mse")
        for t, start in enumerate(range(0, 128, 8)):
            batch = answers[start : start + 8]
            model.train_on_batch(ids[start : start + 8], batch * (np.inf if t == 7 else 1))

    assert_equal(*both(train))


def test_each_variable_has_its_own_optimizer():
    def optimizer():
        return optimizers.MultiOptimizer(
            optimizers.OptimizerMap(
                optimizers.SGD(0.1), {"embedding/.*": optimizers.Adam(0.01, clipnorm=0.1)}
            )
        )

    assert_equal(*both(fit(optimizer)))


@every_optimizer
def test_a_model_of_nothing_but_embeddings(name):
    ids, _ = data()
    answers = np.random.default_rng(1).standard_normal((*ids.shape, 6)).astype("float32")

    def train(model):
        model.compile(OPTIMIZERS[name](), "mse")
        model.fit(ids, answers, batch_size=8, epochs=2, shuffle=False, verbose=0)

    def make(layer):
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.Input((None,), dtype="int32"), layer(ROWS, 6, name="e")])

    assert_as_exact(*all_three(train, make))


def test_nadam_whose_iterations_were_set_back_is_kerass():
    def train(model):
        model.compile(optimizers.Nadam(0.01), "mse")
        ids, answers = data()
        model.train_on_batch(ids[:8], answers[:8])
        model.optimizer.iterations.assign(50)
        for start in range(8, 64, 8):
            model.train_on_batch(ids[start : start + 8], answers[start : start + 8])

    with pytest.warns(UserWarning, match="momentum product"):
        models = both(train)
    assert_equal(*models)


@pytest.mark.filterwarnings("ignore:.*visits all")
def test_ftrl_without_a_rate_is_kerass():
    def train(model):
        model.compile(optimizers.Ftrl(0.1), "mse")
        ids, answers = data()
        model.train_on_batch(ids[:8], answers[:8])
        model.optimizer.learning_rate = 0.0
        model.train_on_batch(ids[8:16], answers[8:16])

    ours, theirs = both(train)
    np.testing.assert_array_equal(ours.get_weights()[0], theirs.get_weights()[0])
