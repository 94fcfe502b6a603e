"""Two sentences, seven words: the example of docs/worked-example.md."""

import keras
import numpy as np
import torch

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
    np.testing.assert_array_equal(embed(ids)[1].detach(), table[[5, 1, 2, 3, 6]])


def test_a_lookup_and_its_gradient_are_those_of_a_one_hot_product():
    ids = np.array([[0, 1, 2, 3, 4], [5, 1, 2, 3, 6]])
    embed = Embedding(7, 2)
    looked_up = embed(ids)
    weights = torch.tensor(embed.get_weights()[0], requires_grad=True)
    product = torch.nn.functional.one_hot(torch.from_numpy(ids), 7).float() @ weights
    np.testing.assert_array_equal(looked_up.detach(), product.detach())

    towards = torch.arange(20.0).reshape(2, 5, 2)
    (looked_up * towards).sum().backward()
    (product * towards).sum().backward()
    gradient = embed.embeddings.value.grad
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    np.testing.assert_array_equal(gradient, weights.grad)
