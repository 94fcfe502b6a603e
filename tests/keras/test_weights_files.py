"""`.weights.h5` files carry the optimizer too."""

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


def test_a_quantized_model_is_saved_and_opened(tmp_path):
    model = classifier(Embedding)
    model.layers[0].quantize("int8")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    ids = data()[0][:4]
    assert (again.predict(ids, verbose=0) == model.predict(ids, verbose=0)).all()
