"""Layers whose table lies on Keras's device: the bits of the layers on the CPU.

The device's kernels run on this processor, over tensors of the CPU; or on a GPU.
"""

import copy
import os

import keras
import numpy as np
import pytest
from side_by_side import only_torch

import rowwise.keras

pytestmark = only_torch

ROWS, DIM = 120, 4
DEVICE = os.environ.get("ROWWISE_TEST_DEVICE", "cpu")


@pytest.fixture
def both(monkeypatch):
    """Return what calls a function on the CPU, and with Keras's variables on the device."""
    from rowwise.torch._device import DeviceStore

    def run(results_of):
        here = results_of()
        if DEVICE == "cpu":
            monkeypatch.setenv("ROWWISE_KERNELS", "emulate")
        with keras.device(DEVICE):
            assert isinstance(model_of().layers[0].table.store, DeviceStore)
            return here, results_of()

    return run


def model_of(kind=rowwise.keras.Embedding, **options):
    keras.utils.set_random_seed(0)
    pooled = [keras.layers.GlobalAveragePooling1D()] if kind is rowwise.keras.Embedding else []
    model = keras.Sequential([kind(ROWS, DIM, **options), *pooled, keras.layers.Dense(1)])
    model.build((None, 3))
    model.layers[0].table.mark_trained()
    return model


def fit(model, optimizer, epochs=3):
    rng = np.random.default_rng(0)
    if optimizer is not None:
        model.compile(optimizer(), "mse")
    x, y = rng.integers(0, ROWS - 5, (96, 3)), rng.standard_normal((96, 1))
    return model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0).history["loss"]


def bits(model):
    table = model.layers[0].table
    slots = [table.slot(name) for name in table.slot_names]
    dense = [np.asarray(weight) for weight in model.layers[-1].get_weights()]
    return [a.tobytes() for a in (table.to_numpy(), *slots, table.update_counts, *dense)]


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "nadam": keras.optimizers.Nadam,
    "ftrl": keras.optimizers.Ftrl,
    "clipped": lambda: keras.optimizers.Adam(global_clipnorm=0.1),
    "accumulated": lambda: keras.optimizers.Adam(gradient_accumulation_steps=2),
    "dense": lambda: keras.optimizers.Adam(use_ema=True),
}


@pytest.mark.filterwarnings("ignore:.*use_ema=True.*every step visits")
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_gives_the_bits_of_the_cpu(optimizer, both):
    def results():
        model = model_of()
        return fit(model, optimizer), bits(model)

    here, there = both(results)
    assert here == there


@pytest.mark.parametrize("combiner", ["sum", "mean"])
def test_reduced_bags_give_the_bits_of_the_cpu(combiner, both):
    def results():
        model = model_of(rowwise.keras.EmbedReduce, combiner=combiner, mask_zero=True)
        return fit(model, keras.optimizers.Adam), bits(model)

    here, there = both(results)
    assert here == there


def test_growth_copies_and_files_go_on_to_the_same_bits(both, tmp_path):
    def results():
        model = model_of(mask_zero=True, freeze_mask_row=True, untrained="mean")
        fit(model, keras.optimizers.Adam)
        model.layers[0].grow(ROWS + 4, seed=1)
        fit(model, None)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        twin = copy.deepcopy(model.layers[0])
        assert type(twin.table.store) is type(loaded.layers[0].table.store)
        assert type(twin.table.store) is type(model.layers[0].table.store)
        vectors = keras.ops.convert_to_numpy(twin(np.arange(ROWS)[None]))
        return bits(model), bits(loaded)[0], vectors.tobytes()

    here, there = both(results)
    assert here == there


def test_a_device_that_fails_the_check_has_keras_s_own_variable(monkeypatch):
    from rowwise.torch._device import _self_check

    if DEVICE == "cpu":
        monkeypatch.setenv("ROWWISE_KERNELS", "emulate")
    monkeypatch.setattr(_self_check, "_found", {})
    monkeypatch.setattr(_self_check, "self_check", lambda *given: "weights have other bits")
    with keras.device(DEVICE):
        layer = rowwise.keras.Embedding(ROWS, DIM)
        with pytest.warns(UserWarning, match="by Keras; .* failed rowwise.s check"):
            layer.build()
        assert type(layer.embeddings) is keras.Variable


@pytest.mark.filterwarnings("ignore:they fail; every step visits all 120 rows")
def test_an_optimizer_whose_kernels_fail_makes_dense_steps(both, monkeypatch):
    from rowwise.torch._device import _self_check

    with keras.device(DEVICE):
        place = keras.ops.zeros(()).device
    monkeypatch.setitem(_self_check._found, (place, "adam"), "they fail")

    def results():
        model = model_of()
        losses = fit(model, keras.optimizers.Adam)
        return losses, model.layers[0]._embeddings.binding.mode

    (ours, sparse), (theirs, dense) = both(results)
    assert (sparse, dense) == ("sparse", "dense")
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


RATES = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "schedule": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 9)),
}


@pytest.mark.parametrize("make", RATES.values(), ids=RATES)
@pytest.mark.parametrize("options", [{}, {"embeddings_regularizer": "l2"}], ids=str)
@pytest.mark.filterwarnings("ignore:.*embeddings_regularizer gives every row a gradient")
def test_no_step_waits_for_the_device(make, options, both):
    from helpers.device import waits

    x = keras.ops.convert_to_tensor(np.arange(12).reshape(4, 3))

    def results():
        model, optimizer = model_of(**options), make()
        model.compile(optimizer, "mse")
        waited = []
        for number in range(6):
            if number == 4 and make is not RATES["schedule"]:
                optimizer.learning_rate = 0.5
            with waits() as found:
                loss = keras.ops.sum(model(x) ** 2) + sum(model.losses)
                loss.backward()
                gradients = [v.value.grad for v in model.trainable_variables]
                optimizer.apply(gradients, model.trainable_variables)
            for variable in model.trainable_variables:
                variable.value.grad = None
            waited.append(found)
        return bits(model), waited

    (here, _), (there, waited) = both(results)
    assert here == there
    on_host = ["__array__"] if make is RATES["schedule"] else []  # of the rate computed there
    assert waited[2] == waited[3] == waited[5] == on_host
