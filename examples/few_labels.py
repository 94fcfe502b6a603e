"""Few labels, much text: what rows that were trained without labels bring to a classifier.

    python examples/few_labels.py clickbait_data.gz non_clickbait_data.gz

Each file holds texts of one kind, one a line; the file is the label. A fifth is held out. Of the
rest, word2vec reads all texts and no label; the classifier (Embedding -> mean over words -> Dense)
gets the labels of a few texts, and starts once with random rows and once with word2vec's. Printed
is the accuracy on the held-out texts. VECTORS, a file of vectors from elsewhere, replaces word2vec.
"""

import argparse
import gzip
import os
from pathlib import Path

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras

from rowwise import Vocabulary
from rowwise.keras import Embedding
from rowwise.vectors import load
from rowwise.word2vec import Corpus, Word2Vec

LENGTH = 24  # words of a text that are read
STEPS = 300  # of 32 texts, however few there are
DIM = 100


def read(path):
    """The lines of a file, plain or gzip, that are not blank."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]


def accuracy(training, held_out, vectors, kinds):
    """Accuracy of a classifier on the held-out texts; `vectors` or None is what it starts from."""
    texts, labels = training
    vocabulary = Vocabulary.from_texts(texts, mask_token="", oov_token="[UNK]")
    if vectors is None:
        embedding = Embedding(len(vocabulary), DIM, mask_zero=True)
    else:  # the words of the vectors too: they say something of texts to come
        vocabulary = vocabulary.with_tokens(vectors.words)
        embedding = Embedding.from_pretrained(vectors, vocabulary, mask_zero=True, verbose=False)
    model = keras.Sequential(
        [
            embedding,
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(kinds, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    order = np.resize(np.random.default_rng(0).permutation(len(texts)), 32 * STEPS)
    words = vocabulary.encode_batch(texts, LENGTH)
    model.fit(words[order], labels[order], batch_size=32, shuffle=False, verbose=0)
    texts, labels = held_out
    words = vocabulary.encode_batch(texts, LENGTH)
    return model.evaluate(words, labels, batch_size=1024, verbose=0)[1]


def main():
    """Reads, splits, trains both ways for each number of labels and seed, prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("kinds", nargs="+", type=Path, help="a file of texts per kind")
    parser.add_argument("--vectors", type=Path, help="start from these")
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 200, 1000, 5000])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    texts, labels = [], []
    for kind, path in enumerate(options.kinds):
        found = read(path)
        texts += found
        labels += [kind] * len(found)
    texts, labels = np.array(texts, dtype=object), np.array(labels)

    print(f"{'labels':>6}  {'random rows':<22}  started rows")
    started = {count: ([], []) for count in options.labels}
    for seed in range(options.seeds):
        keras.utils.set_random_seed(seed)
        order = np.random.default_rng(seed).permutation(len(texts))
        held_out, rest = order[: len(order) // 5], order[len(order) // 5 :]
        if options.vectors:
            vectors = load(options.vectors)
        else:
            corpus = Corpus.from_texts(texts[rest], min_count=2)
            vectors = Word2Vec(corpus, dim=DIM, epochs=20, seed=seed).train().vectors
        for count in options.labels:
            few = rest[:count]
            for start, scores in zip((None, vectors), started[count], strict=True):
                known, unknown = ((texts[part], labels[part]) for part in (few, held_out))
                scores.append(accuracy(known, unknown, start, len(options.kinds)))
    for count, scores in started.items():
        plain, better = (
            f"{np.mean(score):.3f} ({min(score):.3f} to {max(score):.3f})" for score in scores
        )
        print(f"{count:>6}  {plain}  {better}")


if __name__ == "__main__":
    main()
