"""A vocabulary that grows: a classifier trained day after day on texts with new words.

Each day brings longer texts of the documentation inside Python's standard library (see
python_docs.py), and with them new words. These become new rows; the rows that are there keep their
vectors and the moments of Adam, and the compiled model trains on as it is. Printed each morning:
how well the model that knows the days before labels the texts of the new day, while rows that it
never trained give the mean of those it did.

    python examples/day_after_day.py [DAYS]
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from python_docs import documents

from rowwise import Vocabulary
from rowwise.keras import Embedding

LENGTH = 60


def days(number: int) -> list[list[tuple[str, str]]]:
    """Return the texts sorted by length: labels mix, and words come bit by bit."""
    texts = sorted(documents(), key=lambda pair: len(pair[0]))
    return [[texts[i] for i in part] for part in np.array_split(np.arange(len(texts)), number)]


def model_for(vocabulary: Vocabulary, classes: int) -> tuple[keras.Model, Embedding]:
    """Embedding -> mean over words -> Dense."""
    layer = Embedding(len(vocabulary), 32, mask_zero=True, untrained="mean")
    pooled = keras.layers.GlobalAveragePooling1D()
    dense = keras.layers.Dense(classes, activation="softmax")
    model = keras.Sequential([keras.Input((LENGTH,), dtype="int32"), layer, pooled, dense])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model, layer


def main() -> None:
    """Trains day after day."""
    keras.utils.set_random_seed(0)
    all_days = days(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
    labels = sorted({label for day in all_days for _, label in day})
    vocabulary = Vocabulary([], mask_token="", oov_token="[UNK]", num_oov_indices=8)
    model, layer = model_for(vocabulary, len(labels))
    print("day  texts  new words   rows  never trained  accuracy on the new texts")
    for number, day in enumerate(all_days, 1):
        texts, answers = zip(*day, strict=True)
        answers = np.array([labels.index(label) for label in answers])
        known = len(vocabulary)
        vocabulary = vocabulary.with_texts(texts, min_count=2)
        layer.grow(len(vocabulary))
        ids = vocabulary.encode_batch(texts, LENGTH)
        before = "      -"
        if number > 1:
            before = f"{model.evaluate(ids, answers, verbose=0)[1]:7.1%}"
        untrained = len(layer.table.untrained())
        print(
            f"{number:3}  {len(texts):5}  {len(vocabulary) - known:9}  {len(vocabulary):5}  "
            f"{untrained:13}  {before}"
        )
        model.fit(ids, answers, epochs=5, batch_size=64, verbose=0)
    untrained = len(layer.table.untrained())
    print(f"never trained: {untrained}, words that only stand beyond a text's first {LENGTH}")


if __name__ == "__main__":
    main()
