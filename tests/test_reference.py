"""The oracle against Keras's, PyTorch's and FBGEMM's optimizers: their formulas, our rounding."""

import dataclasses
import warnings

import numpy as np
import pytest

from helpers.oracle import Dense
from helpers.rules import RULES, each, every_rule

ROWS, DIM, STEPS = 7, 4, 50


def run(rule, *trainers):
    """Give every trainer the same steps: rows of all sizes, many untouched, a rate that moves."""
    rng = np.random.default_rng(0)
    sizes = 10.0 ** np.linspace(-5, 1, ROWS)[:, None]
    for t in range(1, STEPS + 1):
        lr = float(
            np.float32(
                rule.learning_rate * (1.5 + np.sin(t)) * (t % 10 != 0 or rule.name == "ftrl")
            )
        )
        touched = np.flatnonzero(rng.random(ROWS) < 0.4)
        gradients = (rng.normal(size=(ROWS, DIM)) * sizes).astype(np.float32)[touched]
        for trainer in trainers:
            trainer.step(touched, gradients, lr)


class Keras:
    """The same steps with the optimizer of that name in Keras, on one dense torch variable."""

    def __init__(self, weights, rule):
        keras = pytest.importorskip("keras")
        if keras.backend.backend() != "torch":
            pytest.skip("the oracle's float32 operations follow Keras on torch")
        self.ops = keras.ops
        self.variable = keras.Variable(weights)
        self.optimizer = getattr(keras.optimizers, type(rule).__name__)(**dataclasses.asdict(rule))

    def step(self, ids, gradients, learning_rate):
        dense = np.zeros(self.variable.shape, np.float32)
        dense[ids] = gradients
        self.optimizer.learning_rate = learning_rate
        self.optimizer.apply([self.ops.convert_to_tensor(dense)], [self.variable])

    @property
    def weights(self):
        return self.variable.value.detach().numpy()

    def slot(self, name):
        found = [v for v in self.optimizer.variables if v.path.endswith("_" + name)]
        assert len(found) == 1
        return found[0].value.detach().numpy()


class PyTorch:
    """The same steps with the optimizer of that name in PyTorch; weight decay is decoupled."""

    def __init__(self, weights, rule):
        self.torch = pytest.importorskip("torch")
        options = dataclasses.asdict(rule)
        self.weight_decay = options.pop("weight_decay")
        if "beta_1" in options:
            options["betas"] = (options.pop("beta_1"), options.pop("beta_2"))
        names = {"epsilon": "eps", "learning_rate": "lr"}
        if rule.name == "pytorch.rmsprop":
            names["rho"] = "alpha"
        options = {names.get(name, name): value for name, value in options.items()}
        self.variable = self.torch.tensor(weights, requires_grad=True)
        kind = getattr(self.torch.optim, type(rule).__name__)
        self.optimizer = kind([self.variable], **options, weight_decay=0.0)

    def step(self, ids, gradients, learning_rate):
        dense = np.zeros(self.variable.shape, np.float32)
        dense[ids] = gradients
        self.variable.grad = self.torch.tensor(dense)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        with self.torch.no_grad():
            self.variable *= 1 - learning_rate * (self.weight_decay or 0.0)
        self.optimizer.step()

    @property
    def weights(self):
        return self.variable.detach().numpy()

    def slot(self, name):
        return self.optimizer.state[self.variable][name].numpy()


class Fbgemm:
    """The same steps with FBGEMM's row-wise Adagrad; weight decay is decoupled."""

    def __init__(self, weights, rule):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about parts of FBGEMM that a CPU has not
            pytest.importorskip("fbgemm_gpu")
            import torch
            from fbgemm_gpu import split_embedding_configs as configs
            from fbgemm_gpu import split_table_batched_embeddings_ops_training as training

        self.torch = torch
        self.weight_decay = rule.weight_decay
        place = training.EmbeddingLocation.HOST, training.ComputeDevice.CPU
        self.layer = training.SplitTableBatchedEmbeddingBagsCodegen(
            [(len(weights), weights.shape[1], *place)],
            optimizer=configs.EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            eps=rule.epsilon,
            pooling_mode=training.PoolingMode.SUM,
        )
        self.variable = self.layer.split_embedding_weights()[0]
        self.variable.copy_(torch.from_numpy(weights))
        (self.accumulator,) = self.layer.split_optimizer_states()[0]
        self.accumulator.fill_(rule.initial_accumulator_value)

    def step(self, ids, gradients, learning_rate):
        self.variable *= 1 - learning_rate * (self.weight_decay or 0.0)
        self.layer.set_learning_rate(learning_rate)
        bags = self.torch.arange(len(ids) + 1)
        self.layer(self.torch.tensor(ids), bags).backward(self.torch.tensor(gradients))

    @property
    def weights(self):
        return self.variable.numpy()

    def slot(self, name):
        return self.accumulator.numpy().reshape(-1, 1)


def start():
    return np.random.default_rng(1).uniform(-0.05, 0.05, (ROWS, DIM)).astype(np.float32)


def assert_rows_close(ours, theirs, rtol, offset=0.0):
    """Every row to within rtol of that row's own size, where size is measured from offset.

    On top comes the rounding of the stored number itself, fifty times half a unit or less.
    """
    size = np.abs(theirs - offset).max(axis=1, keepdims=True)
    np.testing.assert_array_less(
        np.abs(ours - theirs), rtol * size + 2.0**-19 * np.abs(theirs) + 1e-37
    )


@every_rule
def test_the_oracle_in_float32_agrees_with_its_framework(rule):
    framework = PyTorch if rule.name.startswith("pytorch.") else Keras
    if rule.name == "rowwise_adagrad":
        framework = Fbgemm
    ours, theirs = Dense(start(), rule, np.float32), framework(start(), rule)
    run(rule, ours, theirs)
    # Keras takes 1 - beta**t in float32, so that Adam's first steps carry a relative error of
    # about 2**-24 / (1 - beta_2).
    rtol = 2e-6 + 2**-24 / (1 - getattr(rule, "beta_2", 0))
    assert_rows_close(ours.weights, theirs.weights, rtol, offset=start())
    for name, slot in ours.slots.items():
        assert_rows_close(slot, theirs.slot(name), rtol=2e-6)


@every_rule
def test_the_oracle_in_float32_stays_near_the_oracle_in_float64(rule):
    rounded, truth = Dense(start(), rule, np.float32), Dense(start(), rule)
    run(rule, rounded, truth)
    assert rounded.weights.dtype == np.float32
    assert truth.weights.dtype == np.float64
    # Ftrl loses digits to n^p - acc^p, where a small gradient hardly moves the accumulator.
    rtol = 1e-2 if rule.name == "ftrl" else 1e-5
    assert_rows_close(rounded.weights, truth.weights, rtol, offset=start())
    for name, slot in truth.slots.items():
        assert slot.dtype == np.float64
        assert rounded.slots[name].dtype == np.float32
        assert_rows_close(rounded.slots[name], slot, rtol)


@each(["sgd", "adam"])
def test_duplicates_are_summed_and_no_ids_is_a_step(rule):
    once, twice = Dense(start(), rule), Dense(start(), rule)
    g = np.float32([[1, 2, 4, 8]])
    once.step([3], 3 * g)
    twice.step([3, 3], np.concatenate([g, 2 * g]))
    once.step([], [])
    twice.step([], np.empty((0, DIM)))
    assert once.steps == twice.steps == 2
    np.testing.assert_array_equal(once.weights, twice.weights)


def test_adam_moves_rows_that_have_no_gradient():
    dense = Dense(start(), RULES["adam"])
    dense.step([2], np.ones((1, DIM)))
    after = dense.weights.copy()
    dense.step([], [])
    assert np.all(dense.weights[2] < after[2])
    np.testing.assert_array_equal(np.delete(dense.weights, 2, 0), np.delete(start(), 2, 0))
