"""Two sentences, seven words: the example of docs/worked-example.md."""

import keras
import numpy as np
from keras import ops
from side_by_side import gradients_of, numpy_of

from rowwise import Vocabulary
from rowwise.keras import Embedding

SENTENCES = ["Hope to see you soon", "Nice to see you again"]


def test_the_second_sentence_is_rows_5_1_2_3_6_of_the_table():
    vocabulary = Vocabulary.from_texts(SENTENCES)
    ids = vocabulary.encode_batch(SENTENCES)
    assert ids.tolist() == [[0, 1, 2, 3, 4], [5, 1, 2, 3, 6]]

    keras.utils.set_random_seed(0)
    embed = Embedding(7, 2, input_length=5)
    model = keras.Sequential([embed, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    history = model.fit(ids, np.array([[0.0], [1.0]]), epochs=200, verbose=0)
    assert history.history["loss"][-1] < 0.01 * history.history["loss"][0]

    table = embed.get_weights()[0]
    assert table.shape == (7, 2)
    np.testing.assert_array_equal(numpy_of(embed(ids))[1], table[[5, 1, 2, 3, 6]])


def test_a_lookup_and_its_gradient_are_those_of_a_one_hot_product():
    ids = np.array([[0, 1, 2, 3, 4], [5, 1, 2, 3, 6]])
    embed = Embedding(7, 2)
    embed.build()
    (weights,) = embed.get_weights()
    one_hot = np.eye(7, dtype="float32")[ids]
    np.testing.assert_array_equal(numpy_of(embed(ids)), one_hot @ weights)

    towards = np.arange(20.0, dtype="float32").reshape(2, 5, 2)
    (gradient,) = gradients_of(
        lambda: ops.sum(ops.multiply(embed(ids), towards)), embed.trainable_variables
    )
    (expected,) = gradients_of(
        lambda weights: ops.sum(ops.multiply(ops.matmul(one_hot, weights), towards)), [], weights
    )
    np.testing.assert_array_equal(numpy_of(gradient), numpy_of(expected))
