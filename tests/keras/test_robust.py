"""Whatever breaks into training: nothing is lost, and nothing is applied twice."""

import copy
import os
import pickle
import signal
import threading

import keras
import numpy as np
import pytest
from keras import optimizers
from side_by_side import ROWS, assert_equal, both, classifier, data, numpy_of

import rowwise.keras
from rowwise.keras import Embedding

OPTIMIZERS = {
    "momentum": lambda: optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: optimizers.Adam(0.01),
    "nadam": lambda: optimizers.Nadam(0.01),
    "lion": lambda: optimizers.Lion(0.001),
    "adam, several batches": lambda: optimizers.Adam(0.01, gradient_accumulation_steps=3),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
near = {"rtol": 1e-4, "atol": 5e-6}


@pytest.fixture(autouse=True)
def heeds_interrupts():
    """A process that a shell started in the background ignores Ctrl-C until told otherwise."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def fit(model, first=0, last=32, **options):
    """Batches first..last of eight sequences each."""
    ids, answers = data()
    part = slice(8 * first, 8 * last)
    model.fit(ids[part], answers[part], batch_size=8, shuffle=False, verbose=0, **options)


def batches_seen(model, before=0):
    """By the optimizer; its table has made as many steps, but for those `before` it was there."""
    if isinstance(model.layers[0], Embedding):
        variable = model.layers[0]._embeddings
        assert variable.binding.mode == "sparse"
        assert variable.table.steps == int(numpy_of(model.optimizer.iterations)) - before
    return int(numpy_of(model.optimizer._iterations))


class At(keras.callbacks.Callback):
    """Calls `do(model)` at the end of a batch."""

    def __init__(self, batch, do):
        super().__init__()
        self.batch, self.do = batch, do

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            self.do(self.model)


def broken_off(model, batch, do, error):
    with pytest.raises(error):
        fit(model, callbacks=[At(batch, do)])


def interrupt(model):
    os.kill(os.getpid(), signal.SIGINT)


def fail(model):
    raise RuntimeError("a callback's own")


@every_optimizer
@pytest.mark.parametrize(("do", "error"), [(interrupt, KeyboardInterrupt), (fail, RuntimeError)])
def test_a_fit_that_was_broken_off_goes_on(name, do, error):
    def train(model):
        model.compile(OPTIMIZERS[name](), "mse")
        broken_off(model, 10, do, error)
        fit(model, batches_seen(model))
        assert batches_seen(model) == 32

    def train_at_once(model):
        model.compile(OPTIMIZERS[name](), "mse")
        fit(model)

    ours, _ = both(train)
    whole, theirs = both(train_at_once)
    assert_equal(ours, whole, rtol=0, atol=0)
    assert_equal(ours, theirs, **near)


def test_an_interrupt_in_the_middle_of_the_tables_step_leaves_a_whole_step():
    table = rowwise.Table(200_000, 64, "adam", seed=0)
    twin = copy.deepcopy(table)
    ids, gradients = np.arange(200_000), np.ones((200_000, 64), np.float32)
    timer = threading.Timer(0.005, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        timer.start()
        list(map(lambda _: table.update(ids, gradients, 0.01), range(1000)))
    timer.join()
    for _ in range(table.steps):
        twin.update(ids, gradients, 0.01)
    steps = np.unique(table.update_counts)
    assert len(steps) == 1
    if steps[0] == table.steps:  # else the step was made, and the interrupt came before its count
        np.testing.assert_array_equal(table.to_numpy(), twin.to_numpy())


def test_a_step_that_fails_halfway_is_made_once():
    """The table's step is made before the other variables' own fails."""
    ids, answers = data()

    def train(model):
        model.compile(optimizers.SGD(0.1, momentum=0.9), "mse")
        fit(model, 0, 4)
        with pytest.raises((ValueError, RuntimeError)):
            model.train_on_batch(ids[:8], answers[:8, :, None].repeat(2, 2).repeat(3, 1))
        fit(model, 4)
        assert batches_seen(model) == 32

    assert_equal(*both(train), **near)


@every_optimizer
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_half_trained_model_goes_on_by_itself(name, copied):
    def train(model):
        model.compile(OPTIMIZERS[name](), "mse")
        fit(model, 0, 10)
        twin = copied(model)
        before = model.get_weights()[0].copy()
        fit(twin, 10)
        assert batches_seen(twin) == 32
        np.testing.assert_array_equal(model.get_weights()[0], before)
        model.set_weights(twin.get_weights())
        model.optimizer.set_weights([v.numpy() for v in twin.optimizer.variables])

    assert_equal(*both(train), **near)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copied_layer_has_a_table_of_its_own(copied):
    layer = Embedding(6, 2)
    layer(np.array([1]))
    twin = copied(layer)
    np.testing.assert_array_equal(*(one.get_weights()[0] for one in (layer, twin)))
    twin.set_weights([np.ones((6, 2))])
    assert not (layer.get_weights()[0] == 1).any()


@every_optimizer
def test_a_cloned_model_has_weights_of_its_own(name):
    def train(model):
        model.compile(OPTIMIZERS[name](), "mse")
        fit(model, 0, 10)
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        clone.compile(OPTIMIZERS[name](), "mse")
        fit(clone, 10)
        fit(model, 10, 20)
        model.set_weights(
            [(a + b) / 2 for a, b in zip(model.get_weights(), clone.get_weights(), strict=True)]
        )

    assert_equal(*both(train), **near)


@pytest.mark.parametrize("names", [("adam", "adam"), ("momentum", "lion"), ("nadam", "momentum")])
def test_two_models_train_one_layer_in_turns(names):
    def train(model):
        other = keras.Sequential(
            [
                keras.Input((None,), dtype="int32"),
                model.layers[0],
                keras.layers.GlobalMaxPooling1D(),
                keras.layers.Dense(1, kernel_initializer="ones"),
            ]
        )
        for one, name in zip((model, other), names, strict=True):
            one.compile(OPTIMIZERS[name](), "mse")
        for turn in range(6):
            fit((model, other)[turn % 2], 4 * turn, 4 * turn + 4)

    assert_equal(*both(train), **near)


@every_optimizer
def test_files_written_in_the_middle_of_fit_change_nothing(name, tmp_path):
    def train(model):
        model.compile(OPTIMIZERS[name](), "mse")
        kind = type(model.layers[0]).__module__.split(".")[0]

        def save(model):
            model.save(tmp_path / f"{kind}.keras")
            model.save_weights(tmp_path / f"{kind}.weights.h5")
            model.get_weights()
            [v.numpy() for v in model.optimizer.variables]

        fit(model, callbacks=[At(9, save)])
        batches_seen(model)

    ours, theirs = both(train)
    assert_equal(ours, theirs, **near)
    for kind in ("rowwise", "keras"):
        model = rowwise.keras.load_model(tmp_path / f"{kind}.keras")
        elsewhere = int(numpy_of(model.optimizer.iterations)) if kind == "keras" else 0
        fit(model, 10)
        assert batches_seen(model, elsewhere) == 32
        assert_equal(model, theirs, names=False, **near)


def test_a_backup_resumes_a_run_that_was_killed(tmp_path):
    def train(model):
        kind = type(model.layers[0]).__module__.split(".")[0]
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / kind), save_freq=5)
        model.compile(OPTIMIZERS["adam"](), "mse")
        with pytest.raises(RuntimeError):
            fit(model, callbacks=[backup, At(14, fail)])
        again = classifier(type(model.layers[0]))
        again.compile(OPTIMIZERS["adam"](), "mse")
        fit(again, callbacks=[keras.callbacks.BackupAndRestore(str(tmp_path / kind), save_freq=5)])
        model.set_weights(again.get_weights())

    ours, theirs = both(train)
    np.testing.assert_allclose(ours.get_weights()[0], theirs.get_weights()[0], **near)


def test_a_new_compile_in_mid_training_starts_fresh_slots():
    def train(model):
        for t, name in enumerate(("adam", "lion", "adam", "momentum")):
            model.compile(OPTIMIZERS[name](), "mse")
            fit(model, 8 * t, 8 * t + 8)

    assert_equal(*both(train), **near)


@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_weights_set_and_frozen_in_mid_training(name):
    def train(model):
        model.compile(OPTIMIZERS[name](), "mse")
        fit(model, 0, 8)
        weights = model.get_weights()
        model.set_weights([weights[0] * 0.5, *weights[1:]])
        fit(model, 8, 16)
        model.layers[0].trainable = False
        model.compile(OPTIMIZERS[name](), "mse")
        frozen = model.get_weights()[0].copy()
        fit(model, 16, 20)
        np.testing.assert_array_equal(model.get_weights()[0], frozen)
        model.layers[0].trainable = True
        model.compile(OPTIMIZERS[name](), "mse")
        fit(model, 20)

    assert_equal(*both(train), **near)


def test_rows_read_beside_training_are_never_torn():
    """A reader in another thread sees a row as of before a step, or as of after it."""
    table = rowwise.Table(ROWS, 256, rowwise.rules.SGD(1.0), init="zeros")
    torn = []
    done = threading.Event()

    def read():
        while not done.is_set():
            rows = table.lookup(np.arange(ROWS))
            torn.extend(row for row in rows if np.ptp(row))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(300):
        table.update(np.arange(ROWS), np.ones((ROWS, 256), np.float32))
    done.set()
    reader.join()
    assert not torn
