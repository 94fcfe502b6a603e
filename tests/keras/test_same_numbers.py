"""Trained beside keras.layers.Embedding, the weights are those of dense training."""

import keras
import numpy as np
import pytest
from keras import optimizers
from keras.optimizers import schedules
from side_by_side import ROWS, all_three, assert_as_exact, data

OPTIMIZERS = {
    "sgd": lambda lr=0.1: optimizers.SGD(lr),
    "sgd, weight decay": lambda lr=0.1: optimizers.SGD(lr, weight_decay=0.1),
    "momentum": lambda lr=0.05: optimizers.SGD(lr, momentum=0.9),
    "nesterov": lambda lr=0.05: optimizers.SGD(lr, momentum=0.9, nesterov=True),
    "momentum, weight decay": lambda lr=0.05: optimizers.SGD(lr, momentum=0.9, weight_decay=0.1),
    "rmsprop": lambda lr=0.01: optimizers.RMSprop(lr),
    "rmsprop, momentum": lambda lr=0.01: optimizers.RMSprop(lr, momentum=0.8),
    "rmsprop, centered": lambda lr=0.01: optimizers.RMSprop(lr, momentum=0.8, centered=True),
    "adagrad": lambda lr=0.05: optimizers.Adagrad(lr),
    "adam": lambda lr=0.01: optimizers.Adam(lr),
    "adam, large epsilon": lambda lr=0.01: optimizers.Adam(lr, beta_1=0.8, epsilon=1e-3),
    "adam, amsgrad": lambda lr=0.01: optimizers.Adam(lr, amsgrad=True),
    "adamw": lambda lr=0.01: optimizers.AdamW(lr, weight_decay=0.1),
    "adadelta": lambda lr=1.0: optimizers.Adadelta(lr, weight_decay=0.1),
    "adamax": lambda lr=0.01: optimizers.Adamax(lr),
    "nadam": lambda lr=0.01: optimizers.Nadam(lr),
    "lion": lambda lr=0.001: optimizers.Lion(lr, weight_decay=0.1),
    "ftrl": lambda lr=0.1: optimizers.Ftrl(lr, l1_regularization_strength=0.001, beta=0.1),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
# One of each way in which a rule moves the rows that a batch leaves out.
every_kind = pytest.mark.parametrize(
    "name", ["sgd, weight decay", "nesterov", "adagrad", "adam, amsgrad", "nadam", "ftrl"]
)


def fit(optimizer, batch_size=8, epochs=2, **options):
    n = 64 if batch_size == 1 else 256

    def train(model):
        model.compile(optimizer(), "mse")
        model.fit(
            *data(n), batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, **options
        )

    return train


@every_optimizer
def test_fit_gives_the_same_weights_and_slots(name):
    models = all_three(fit(OPTIMIZERS[name], 32, epochs=5))
    assert models[0].layers[0]._embeddings.binding.mode == "sparse"
    assert_as_exact(*models)


@every_kind
def test_fit_by_single_samples_gives_the_same_weights_and_slots(name):
    assert_as_exact(*all_three(fit(OPTIMIZERS[name], 1, epochs=1)))


@every_kind
@pytest.mark.parametrize(
    "schedule",
    [
        lambda: schedules.ExponentialDecay(0.02, 20, 0.7),
        lambda: schedules.CosineDecay(0.02, 100, warmup_target=0.05, warmup_steps=30),
    ],
    ids=["exponential", "cosine with warm-up"],
)
def test_schedules_give_every_missed_step_its_own_rate(name, schedule):
    assert_as_exact(*all_three(fit(lambda: OPTIMIZERS[name](schedule()))))


@every_kind
def test_a_rate_reduced_on_a_plateau_counts_from_there_on(name):
    class Reduce(keras.callbacks.ReduceLROnPlateau):
        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self.start = float(self.model.optimizer.learning_rate)

        def on_train_end(self, logs=None):
            assert float(self.model.optimizer.learning_rate) < self.start / 10  # it did fire

    def train(model):
        model.compile(OPTIMIZERS[name](), "mse")
        plateau = Reduce("loss", factor=0.05, patience=1, min_delta=10.0)
        model.fit(*data(), batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=[plateau])

    assert_as_exact(*all_three(train))


def test_an_optimizer_that_forgets_missed_steps_would_be_noticed():
    """The bound of `assert_as_exact` is tight: a lazy Adam falls outside it."""

    def forgetful(model):
        model.compile("adam", "mse")
        ids, answers = data()
        model.train_on_batch(ids[:8], answers[:8])
        if (table := getattr(model.layers[0], "table", None)) is None:
            for start in range(8, 256, 8):
                model.train_on_batch(ids[start : start + 8], answers[start : start + 8])
            return
        for start in range(8, 256, 8):
            batch = ids[start : start + 8]
            before = table.to_numpy()
            model.train_on_batch(batch, answers[start : start + 8])
            table.materialize()
            untouched = np.setdiff1d(np.arange(ROWS), batch)
            table.store.memory()[untouched] = before[untouched]

    with pytest.raises(AssertionError, match="from the truth"):
        assert_as_exact(*all_three(forgetful))
