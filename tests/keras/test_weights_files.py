"""`.weights.h5` files carry the optimizer too; and a process that does not know rowwise says so."""

import subprocess
import sys

import keras
import pytest
from side_by_side import LAYERS, assert_equal, classifier, data

from rowwise.keras import Embedding


def compiled(layer):
    keras.backend.clear_session(free_memory=False)
    model = classifier(layer)
    model.compile("adam", "mse")
    return model


def fit(model):
    model.fit(*data(), batch_size=16, epochs=2, shuffle=False, verbose=0)


@pytest.mark.parametrize("reader", LAYERS)
@pytest.mark.parametrize("writer", LAYERS)
def test_training_resumed_from_a_weights_file_equals_training_never_stopped(
    tmp_path, writer, reader
):
    model = compiled(writer)
    fit(model)
    model.save_weights(tmp_path / "model.weights.h5")
    again = compiled(reader)
    again.optimizer.build(again.trainable_variables)
    again.load_weights(tmp_path / "model.weights.h5")
    assert_equal(again, model, rtol=0, atol=0)
    fit(model)
    fit(again)
    assert_equal(again, model, rtol=1e-4)


def test_training_backed_up_after_each_epoch_equals_plain_training(tmp_path):
    plain = compiled(Embedding)
    fit(plain)
    backed_up = compiled(Embedding)
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    backed_up.fit(*data(), batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=[backup])
    assert_equal(backed_up, plain)


def open_elsewhere(path, first):
    code = f"{first}\nimport keras\nprint(type(keras.saving.load_model({str(path)!r}).layers[0]))"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )


def test_a_fresh_process_opens_the_file_once_rowwise_is_imported(tmp_path):
    model = compiled(Embedding)
    fit(model)
    model.save(tmp_path / "model.keras")
    assert "rowwise" in open_elsewhere(tmp_path / "model.keras", "import rowwise.keras").stdout
    # Keras opens nobody's layers unasked; its error names what is missing.
    refused = open_elsewhere(tmp_path / "model.keras", "")
    assert refused.returncode == 1
    assert "rowwise>Embedding" in refused.stderr


def test_a_quantized_model_is_saved_and_opened(tmp_path):
    model = classifier(Embedding)
    model.layers[0].quantize("int8")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    ids = data()[0][:4]
    assert (again.predict(ids, verbose=0) == model.predict(ids, verbose=0)).all()
