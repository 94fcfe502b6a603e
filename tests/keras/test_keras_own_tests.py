"""Keras's own tests of its layer, as they are installed with Keras, run on ours.

None is left out. (Keras itself skips those of tensors that a backend does not have.)
"""

import importlib.util
import types
import warnings
from functools import partial

import keras.src.layers
import pytest

from rowwise.keras import Embedding

# What Keras warns of when its own layer is tested, too.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{warning}")
    for warning in (
        "`shuffle=True` was passed, but will be ignored",
        "You are saving a model that has not yet been built",
        "Skipping variable loading for optimizer",
        "The model does not have any trainable weights",
        "Layer InputLayer does not have a `quantize` method",
        "Explicitly requested dtype int64 requested in asarray is not available",
    )
]


def _with_our_layer():
    """A second copy of Keras's test module, in which `layers.Embedding` is ours."""
    spec = importlib.util.find_spec("keras.src.layers.core.embedding_test")
    copy = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)  # a mark of Keras's own
        spec.loader.exec_module(copy)
    copy.layers = types.SimpleNamespace(**{**vars(keras.src.layers), "Embedding": Embedding})
    return copy.EmbeddingTest


EmbeddingTest = _with_our_layer()


@pytest.fixture(autouse=True)
def _ids_are_whole(monkeypatch):
    """Two tests for TensorFlow take normal random numbers for ids, which Keras then truncates.

    Ours refuses them; it gets whole ones.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        whole = partial(tf.random.uniform, maxval=9, dtype="int32")
        monkeypatch.setattr(tf.random, "normal", lambda shape: tf.cast(whole(shape), "float32"))


def test_the_layer_under_test_is_ours_and_the_tests_are_all_there():
    assert EmbeddingTest.test_correctness.__globals__["layers"].Embedding is Embedding
    assert len([name for name in dir(EmbeddingTest) if name.startswith("test_")]) >= 50
