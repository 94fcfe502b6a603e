"""Few labels, much text: what rows that were trained without labels bring to a classifier.

    python examples/few_labels.py clickbait_data.gz non_clickbait_data.gz

Each file holds texts of one kind, one a line; the file is the label. A fifth is held out. Of the
rest, word2vec reads all texts and no label; the classifier gets the labels of a few, and starts
once with rows of zeros and once with word2vec's. Printed is the accuracy on the held-out texts.
VECTORS, a file of vectors from elsewhere, replaces word2vec.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np

from rowwise.sklearn import TextClassifier
from rowwise.vectors import load
from rowwise.word2vec import Corpus, Word2Vec

DIM = 100


def read(path):
    """Return the lines of a file, plain or gzip, that are not blank."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]


def main():
    """Read, split, train both ways for each number of labels and seed, print."""
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

    print(f"{'labels':>6}  {'rows of zeros':<22}  rows started from vectors")
    started = {count: ([], []) for count in options.labels}
    for seed in range(options.seeds):
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
                model = TextClassifier(init_from=start, random_state=seed)
                model.fit(texts[few], labels[few])
                scores.append(model.score(texts[held_out], labels[held_out]))
    for count, scores in started.items():
        plain, better = (
            f"{np.mean(score):.3f} ({min(score):.3f} to {max(score):.3f})" for score in scores
        )
        print(f"{count:>6}  {plain}  {better}")


if __name__ == "__main__":
    main()
