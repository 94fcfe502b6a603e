"""A Keras model on click logs, day after day: ids are hashes that nobody numbered.

    KERAS_BACKEND=torch python examples/click_log_in_keras.py [--days 8] [--clicks 20000]

Every batch is predicted before it is trained on. `rowwise.keras.DynamicEmbedding` gives rows to
hashes that come twice, and takes them back from items that nobody clicks any more; beside it the
hashing trick, into as many rows. The file that is written at the end holds ids and counts, too.
"""

from __future__ import annotations

import argparse
import os
import tempfile

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from click_log import log

from rowwise.keras import DynamicEmbedding, Embedding, encode_ids


def model_of(layer: keras.Layer, shape: tuple[int, ...]) -> keras.Model:
    """Return a factorization model of pairs (user, item): a bias each, and 8 factors."""
    pair = keras.Input(shape, dtype="int32")
    vectors = layer(pair)
    factors = keras.ops.sum(vectors[:, 0, 1:] * vectors[:, 1, 1:], axis=1, keepdims=True)
    biases = vectors[:, 0, :1] + vectors[:, 1, :1]
    model = keras.Model(pair, keras.ops.sigmoid(factors + biases - 0.5))
    model.compile(
        keras.optimizers.Adagrad(0.1, initial_accumulator_value=1e-8), "binary_crossentropy"
    )
    return model


def main() -> None:
    """Train both, and print a line a day."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument("--clicks", type=int, default=20_000, help="Lines of the log a day.")
    parser.add_argument("--rows", type=int, default=8192, help="Rows of each layer.")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)

    gone: list[int] = []  # what a cache of served vectors would drop
    rows = DynamicEmbedding(
        options.rows,
        9,
        encoded=True,  # hashes have 64 bits; every backend holds them as two halves
        admit_after=2,
        on_evict=lambda ids, vectors: gone.extend(ids.tolist()),
    )
    dynamic = model_of(rows, (2, 2))
    hashing = model_of(Embedding(options.rows, 9), (2,))

    print(f"{'day':>4}{'dynamic':>10}{'hashing':>10}{'ids':>8}{'evicted':>9}")
    for day, (ids, clicked) in enumerate(log(options.days, options.clicks)):
        losses = []
        for model, given in (
            (dynamic, encode_ids(ids)),
            (hashing, (ids % options.rows).astype(np.int32)),
        ):
            day_losses = []
            for start in range(0, len(ids), 512):
                x, y = given[start : start + 512], clicked[start : start + 512, None]
                day_losses.append(float(model.test_on_batch(x, y)))  # counts no id
                model.train_on_batch(x, y)
            losses.append(np.mean(day_losses))
        print(f"{day:>4}{losses[0]:>10.4f}{losses[1]:>10.4f}{len(rows.dynamic):>8}{len(gone):>9}")
        gone.clear()

    with tempfile.TemporaryDirectory() as folder:  # the next process goes on from here
        dynamic.save(f"{folder}/model.keras")
        again = keras.saving.load_model(f"{folder}/model.keras")
    known = rows.dynamic.index.ids()[:3]
    [layer] = [one for one in again.layers if isinstance(one, DynamicEmbedding)]
    print(f"after load_model: {layer.has_row(known).all()}, {len(layer.dynamic)} ids")


if __name__ == "__main__":
    main()
