"""A classifier that gives its reasons: the known cases that are nearest to a new one.

    python examples/explaining_classifier.py clickbait_data.gz non_clickbait_data.gz

Each file holds texts of one kind, one a line; the file is the label. A text's vector is the mean of
its words' rows. The rows are trained so that a text lies nearer to texts of its own kind than to
others (metric learning, with the loss of Goldberger et al., Neighbourhood Components Analysis,
2004, on cosines), but not all on one heap: that some are near is enough, and those tend to speak of
the same things. A new text is judged by a vote of its nearest known texts (case-based reasoning),
which are shown as the reason. Whoever disagrees adds a case: it counts at once, without training.

Beside it, on the same split, the plain classifier: the same mean, then Dense and softmax.
"""

import argparse
import gzip
import os
import random
from pathlib import Path

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras
from keras import layers, ops

from rowwise import Vocabulary
from rowwise.keras import EmbedReduce

LENGTH = 24  # words of a text that are read
NEIGHBORS = 15
TEMPERATURE = 0.05


def read(path):
    """Return the lines of a file, plain or gzip, that are not blank."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]


def split(texts, labels, held_out, seed):
    """Training texts and labels, held-out texts and labels."""
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    cut = round(held_out * len(order))
    parts = order[cut:], order[:cut]
    return [
        part for p in parts for part in ([texts[i] for i in p], np.array([labels[i] for i in p]))
    ]


def text_to_vector(words, dim):
    """Ids (n, LENGTH), 0 for padding -> vectors (n, dim), the mean of the words' rows."""
    ids = keras.Input((LENGTH,), dtype="int64")
    return ids, EmbedReduce(words, dim, combiner="mean", mask_zero=True)(ids)


def neighborhood_loss(labels, vectors):
    """Return the vote's own loss (n,): -log of the share that a text's own kind has in its vote.

    labels (n, 1), vectors (n, dim) of length 1. All other texts of the batch vote, each with the
    weight exp(cosine / TEMPERATURE).
    """
    likeness = ops.matmul(vectors, ops.transpose(vectors)) / TEMPERATURE
    likeness = likeness - 1e9 * ops.eye(ops.shape(vectors)[0])  # no text votes on itself
    alike = ops.equal(labels, ops.transpose(labels))
    own_kind = ops.logsumexp(ops.where(alike, likeness, -1e9), axis=1)
    return ops.logsumexp(likeness, axis=1) - own_kind


class Cases:
    """Known texts and their labels, found by the direction of their vectors."""

    def __init__(self, encode, model):
        self.encode, self.model = encode, model
        self.texts, self.labels = [], []
        self.vectors = np.zeros((0, model.output_shape[-1]), np.float32)

    def add(self, texts, labels):
        """Learns cases. Nothing is trained."""
        self.texts += list(texts)
        self.labels += list(labels)
        self.vectors = np.concatenate(
            [self.vectors, self.model.predict(self.encode(texts), verbose=0)]
        )

    def judge(self, texts, k=NEIGHBORS):
        """For each text its label, the share of the vote for it, and the cases that voted.

        A case's vote weighs more the nearer it is: exp(cosine / TEMPERATURE), as in the loss.
        """
        likeness = self.model.predict(self.encode(texts), verbose=0) @ self.vectors.T
        k = min(k, len(self.texts))
        near = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
        answers = []
        for line, places in zip(likeness, near, strict=True):
            places = places[np.argsort(-line[places], kind="stable")]
            votes = {}
            for place in places:
                label = self.labels[place]
                votes[label] = votes.get(label, 0.0) + np.exp((line[place] - 1) / TEMPERATURE)
            label = max(votes, key=votes.get)
            reasons = [(float(line[p]), self.labels[p], self.texts[p]) for p in places]
            answers.append((label, votes[label] / sum(votes.values()), reasons))
        return answers


def main(files, dim, epochs, seed, held_out, show):
    """Trains both, prints their accuracy, some judgements with reasons, and a case learned."""
    keras.utils.set_random_seed(seed)
    names = [path.name.split(".")[0] for path in files]
    texts, labels = [], []
    for place, path in enumerate(files):
        lines = read(path)
        texts += lines
        labels += [place] * len(lines)
    known, known_labels, new, new_labels = split(texts, labels, held_out, seed)
    vocabulary = Vocabulary.from_texts(known, min_count=2, mask_token="", oov_token="[UNK]")

    def encode(some):
        ids = vocabulary.encode_batch(some, LENGTH)
        ids[(ids == 0).all(axis=1), 0] = 1  # the mean over no words would be none
        return ids

    print(f"{len(known)} known texts, {len(new)} new ones, {len(vocabulary)} words")

    ids, vector = text_to_vector(len(vocabulary), dim)
    plain = keras.Model(ids, layers.Dense(len(files), activation="softmax")(vector))
    plain.compile("adam", "sparse_categorical_crossentropy")
    plain.fit(encode(known), known_labels, batch_size=256, epochs=epochs, verbose=0)
    guesses = plain.predict(encode(new), verbose=0).argmax(axis=1)
    print(f"plain classifier:      accuracy {np.mean(guesses == new_labels):.4f}")

    ids, vector = text_to_vector(len(vocabulary), dim)
    metric = keras.Model(ids, layers.UnitNormalization()(vector))
    metric.compile("adam", neighborhood_loss)
    metric.fit(encode(known), known_labels[:, None], batch_size=1024, epochs=epochs, verbose=0)
    cases = Cases(encode, metric)
    cases.add(known, known_labels.tolist())
    answers = cases.judge(new)
    right = np.array([label for label, _, _ in answers]) == new_labels
    print(f"by its nearest cases:  accuracy {np.mean(right):.4f}")

    sure = np.array([share for _, share, _ in answers])
    print(f"where all {NEIGHBORS} cases agree ({np.mean(sure > 0.999):.0%}): "
          f"accuracy {np.mean(right[sure > 0.999]):.4f}")  # fmt: skip

    wrong = np.flatnonzero(~right)
    chosen = [*np.flatnonzero(right)[:show], *wrong[:show]]
    for place in chosen:
        label, share, reasons = answers[place]
        truth = "" if right[place] else f"; in truth {names[new_labels[place]]}"
        print(f"\n{new[place]}\n  {names[label]} ({share:.0%} of the vote{truth}), because of")
        for cosine, kind, text in reasons[:3]:
            print(f"    {cosine:.3f} {names[kind]}: {text}")

    # Half of the mistakes become cases. What does that do to the others, and to the rest?
    if len(wrong) > 1:
        taught, others = wrong[::2], wrong[1::2]
        cases.add([new[i] for i in taught], new_labels[taught].tolist())
        again = np.array([label for label, _, _ in cases.judge(new)]) == new_labels
        rest = np.setdiff1d(np.arange(len(new)), taught)
        print(
            f"\n{len(taught)} mistakes learned as cases, without training: {again[taught].sum()} "
            f"of them are judged right now, and {again[others].sum()} of the {len(others)} others. "
            f"Accuracy on all but those learned: {np.mean(right[rest]):.4f} before, "
            f"{np.mean(again[rest]):.4f} after"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", help="texts of one kind each, a line a text")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=float, default=0.2)
    parser.add_argument("--show", type=int, default=2, help="judgements to print, right and wrong")
    main(**vars(parser.parse_args()))
