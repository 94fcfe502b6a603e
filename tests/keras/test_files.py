"""Files: ours open with Keras's layer, Keras's with ours, and training goes on where it was."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from side_by_side import BACKEND, LAYERS, ROWS, assert_equal, classifier, data

import rowwise.keras
from rowwise.keras import Embedding

OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.8, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.05),
}


def fit(model, epochs=2, **options):
    model.fit(*data(), batch_size=16, epochs=epochs, shuffle=False, verbose=0, **options)


def trained(layer, optimizer):
    keras.backend.clear_session(free_memory=False)
    model = classifier(layer)
    model.compile(OPTIMIZERS[optimizer](), "mse")
    fit(model)
    return model


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("reader", LAYERS)
@pytest.mark.parametrize("writer", LAYERS)
def test_training_resumed_from_a_file_equals_training_never_stopped(
    tmp_path, writer, reader, optimizer
):
    model = trained(writer, optimizer)
    model.save(tmp_path / "model.keras")
    again = rowwise.keras.load_model(tmp_path / "model.keras", embedding=reader)
    assert type(again.layers[0]) is reader
    assert_equal(again, model, rtol=0, atol=0, names=False)
    fit(model)
    fit(again)
    assert_equal(again, model, rtol=1e-5 if writer is reader else 1e-4, names=False)


@pytest.mark.parametrize("reader", LAYERS)
@pytest.mark.parametrize("writer", LAYERS)
def test_weights_files_go_both_ways(tmp_path, writer, reader):
    model = trained(writer, "adam")
    model.save_weights(tmp_path / "model.weights.h5")
    other = classifier(reader)
    other.load_weights(tmp_path / "model.weights.h5")
    for mine, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_checkpoints_written_while_training_change_nothing(tmp_path):
    plain = trained(Embedding, "adam")
    keras.backend.clear_session(free_memory=False)
    saved = classifier(Embedding)
    saved.compile(OPTIMIZERS["adam"](), "mse")
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras", save_freq=3)
    fit(saved, callbacks=[checkpoint])
    assert_equal(saved, plain)


_OPENS = """
import sys
import keras

path, layers = sys.argv[1], {"rowwise>Embedding": keras.layers.Embedding}
layer = keras.saving.load_model(path, custom_objects=layers).layers[0]
print(type(layer).__module__, layer.get_weights()[0].shape)
try:
    keras.saving.load_model(path)
except TypeError as error:
    print(" ".join(str(error).split()))
assert "rowwise" not in sys.modules
import rowwise.keras
print(type(keras.saving.load_model(path).layers[0]).__module__)
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """What a fresh process says of a file: of the layer as Keras's, of an error, of the layer."""
    path = tmp_path_factory.mktemp("opened") / "model.keras"
    trained(Embedding, "adam").save(path)
    command = [sys.executable, "-W", "ignore", "-c", _OPENS, str(path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-3:]


def test_a_process_without_rowwise_opens_the_file_with_keras_layer(opened):
    assert opened[0] == f"keras.src.layers.core.embedding ({ROWS}, 6)"


def test_a_process_opens_the_file_once_rowwise_is_imported(opened):
    # Keras opens nobody's layers unasked; its error names what is missing.
    assert "rowwise>Embedding" in opened[1]
    assert opened[2] == "rowwise.keras._embedding"


def test_keras_own_loader_gives_back_the_layer_that_was_saved(tmp_path):
    for layer in LAYERS:
        trained(layer, "adam").save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        assert type(again.layers[0]) is layer


def test_the_table_is_saved_with_its_history(tmp_path):
    pytest.importorskip("safetensors")
    table = trained(Embedding, "adam").layers[0].table
    table.save(tmp_path / "table.safetensors")
    again = rowwise.Table.load(tmp_path / "table.safetensors")
    np.testing.assert_array_equal(again.to_numpy(), table.to_numpy())
    np.testing.assert_array_equal(again.update_counts, table.update_counts)
    np.testing.assert_array_equal(again.slot("velocity"), table.slot("velocity"))


_TRAINS_ON = """
import sys
import numpy as np
from rowwise.keras import load_model

model = load_model(sys.argv[1])
ids, answers = np.load(sys.argv[2]).values()
fitted = model.fit(ids, answers, batch_size=16, epochs=1, shuffle=False, verbose=0)
print(model.jit_compile, model.layers[0].table.steps, *fitted.history["loss"])
"""


@pytest.mark.parametrize("backend", sorted({"torch", "jax", "tensorflow"} - {BACKEND}))
def test_a_file_trains_on_on_another_backend(backend, tmp_path):
    ids, answers = data()
    model = classifier(rowwise.keras.Embedding)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(ids, answers, batch_size=16, epochs=1, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", ids, answers)
    files = map(str, (tmp_path / "model.keras", tmp_path / "data.npz"))
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", _TRAINS_ON, *files],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    fitted = model.fit(ids, answers, batch_size=16, epochs=1, shuffle=False, verbose=0)
    compiled, steps, loss = run.stdout.split()[-3:]
    assert compiled == str(backend == "jax")
    assert int(steps) == model.layers[0].table.steps == 32
    assert float(loss) == pytest.approx(fitted.history["loss"][0], rel=1e-5)
