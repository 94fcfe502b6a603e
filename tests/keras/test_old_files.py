"""Files that rowwise 0.1.0 wrote open with the same meaning; data/README.md says how."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from side_by_side import BACKEND

import rowwise.keras

DATA = Path(__file__).parent / "data"
IDS = np.arange(9).reshape(3, 3)


@pytest.fixture
def arrays():
    with np.load(DATA / "model-1.npz") as file:
        return dict(file)


def test_an_old_model_opens_predicts_and_trains_on(arrays):
    model = rowwise.keras.load_model(DATA / "model-1.keras")
    layer = model.get_layer("embedding")
    assert layer.untrained == "zeros"
    exact = np.testing.assert_array_equal if BACKEND == "torch" else _close
    exact(model.predict(IDS, verbose=0), arrays["before"])
    model.fit(arrays["x"], arrays["y"], epochs=1, shuffle=False, verbose=0)
    exact(model.predict(IDS, verbose=0), arrays["after"])
    assert layer._embeddings.binding.mode == "sparse"


def test_the_counts_in_an_old_model_are_those_of_its_training(arrays):
    table = rowwise.keras.load_model(DATA / "model-1.keras").get_layer("embedding").table
    assert table.steps == 2
    trained = np.unique(arrays["x"])
    assert np.flatnonzero(table.is_trained()).tolist() == trained.tolist()
    assert set(table.update_counts[trained]) <= {1, 2}


def test_every_old_value_of_the_option_has_its_new_name(tmp_path):
    new = {"as-is": "as-is", "zero": "zeros", "mean": "mean", "error": "error"}
    for old, name in new.items():
        config = rowwise.keras.Embedding(9, 4).get_config()
        assert rowwise.keras.Embedding.from_config({**config, "unseen": old}).untrained == name


def test_a_file_written_now_names_the_option_anew(tmp_path):
    rowwise.keras.load_model(DATA / "model-1.keras").save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        config = json.dumps(json.loads(file.read("config.json")))
    assert '"untrained": "zeros"' in config
    assert "unseen" not in config


def _close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
