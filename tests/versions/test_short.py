"""Behaviour that every supported version of Keras, PyTorch, JAX, TensorFlow and NumPy must pass.

`make test-versions` runs this file in an environment per version.
"""

import numpy as np
import pytest

import rowwise

ROWS, DIM, LENGTH = 64, 8, 4


def batches(steps=6, batch=8):
    """Ids (steps, batch, LENGTH), none twice in a batch: Keras on TensorFlow treats parts apart."""
    rng = np.random.default_rng(0)
    return np.stack(
        [rng.permutation(ROWS)[: batch * LENGTH].reshape(batch, -1) for _ in range(steps)]
    )


def test_table_trains_saves_and_loads(tmp_path):
    table = rowwise.Table(ROWS, DIM, "adam", seed=0)
    for ids in batches():
        table.update(ids, np.ones((*ids.shape, DIM), np.float32))
    table.save(tmp_path / "table.safetensors")
    again = rowwise.Table.load(tmp_path / "table.safetensors")
    assert np.array_equal(np.asarray(again), np.asarray(table))
    assert np.isfinite(np.asarray(table)).all()


class TestTorch:
    def setup_method(self):
        pytest.importorskip("torch.nn")

    @pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW"])
    def test_modules_train_to_the_numbers_of_pytorch(self, name):
        import torch

        import rowwise.torch

        options = {"lr": 0.1, **({"momentum": 0.9} if name in ("SGD", "RMSprop") else {})}
        theirs = torch.nn.Embedding(ROWS, DIM)
        ours = rowwise.torch.Embedding(ROWS, DIM)
        ours.load_state_dict(theirs.state_dict())
        dense = getattr(torch.optim, name)(theirs.parameters(), **options)
        rows = getattr(rowwise.torch.optim, name)(ours.parameters(), **options)
        for ids in torch.from_numpy(batches()):
            for module, optimizer in ((theirs, dense), (ours, rows)):
                optimizer.zero_grad()
                module(ids).square().sum().backward()
                optimizer.step()
        torch.testing.assert_close(
            ours.weight.detach(), theirs.weight.detach(), rtol=1e-4, atol=1e-5
        )
        assert ours.table.steps == len(batches())  # by rows


class TestKeras:
    def setup_method(self):
        pytest.importorskip("keras.layers")

    def trained(self, layer, optimizer, start):
        import keras

        model = keras.Sequential(
            [keras.Input((LENGTH,), dtype="int32"), layer, keras.layers.Flatten()]
        )
        layer.set_weights([start])
        model.compile(optimizer, "mse")
        ids = batches().reshape(-1, LENGTH)
        model.fit(ids, np.ones((len(ids), LENGTH * DIM)), batch_size=8, shuffle=False, verbose=0)
        return model

    def test_program_of_keras_documentation_runs(self):
        from keras.models import Sequential

        from rowwise.keras import Embedding

        model = Sequential()
        model.add(Embedding(5, 2, input_length=5))
        input_array = np.random.default_rng(0).integers(5, size=(1, 5))
        model.compile("rmsprop", "mse")
        assert model.predict(input_array, verbose=0).shape == (1, 5, 2)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("SGD", {"momentum": 0.9}),
            ("RMSprop", {}),
            ("Adagrad", {}),
            ("Adam", {"clipnorm": 1.0}),
            ("AdamW", {}),
        ],
    )
    def test_layer_trains_to_the_numbers_of_keras(self, name, options):
        import keras

        from rowwise.keras import Embedding

        start = np.random.default_rng(1).standard_normal((ROWS, DIM)).astype("float32")
        theirs, ours = keras.layers.Embedding(ROWS, DIM), Embedding(ROWS, DIM)
        for layer in (theirs, ours):
            self.trained(layer, getattr(keras.optimizers, name)(0.05, **options), start)
        np.testing.assert_allclose(
            ours.get_weights()[0], theirs.get_weights()[0], rtol=1e-4, atol=1e-5
        )

    def test_files_open_either_way_and_training_goes_on(self, tmp_path):
        import keras

        from rowwise.keras import Embedding, load_model

        start = np.random.default_rng(1).standard_normal((ROWS, DIM)).astype("float32")
        ours = self.trained(Embedding(ROWS, DIM), keras.optimizers.Adam(0.05), start)
        theirs = self.trained(keras.layers.Embedding(ROWS, DIM), "adam", start)
        ours.save_weights(tmp_path / "ours.weights.h5")
        theirs.load_weights(tmp_path / "ours.weights.h5")
        ours.save(tmp_path / "ours.keras")
        again = load_model(tmp_path / "ours.keras")
        ids = batches()[0]
        expected = ours.predict(ids, verbose=0)
        np.testing.assert_array_equal(theirs.predict(ids, verbose=0), expected)
        np.testing.assert_array_equal(again.predict(ids, verbose=0), expected)
        targets = np.ones((len(ids), LENGTH * DIM))
        for model in (ours, again):
            model.fit(ids, targets, batch_size=8, shuffle=False, verbose=0)
        np.testing.assert_allclose(
            again.predict(ids, verbose=0), ours.predict(ids, verbose=0), rtol=1e-5, atol=1e-6
        )
