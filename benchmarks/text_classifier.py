"""Text classifiers at their defaults: ours beside fastText and TF-IDF with logistic regression.

    pip install 'rowwise[cli]' fasttext-numpy2-wheel
    python benchmarks/text_classifier.py headlines=headlines/ news=train.csv:test.csv ...

Each set is a name and a file of texts with labels (any that `rowwise train` reads; columns are text
and label), or two, to train and to test on; of one, a fifth is held out to test on. A folder of
`NAME.gz` files, a text a line, is a set too: the file is the label. All use the same two cores.

fastText gets lower-cased texts with punctuation marks apart, as its own examples have them.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")

import fasttext
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from rowwise.cli._labelled import Columns, read_labelled
from rowwise.sklearn import TextClassifier

SEEDS = 3
TRIES = 5
Split = tuple[list[str], list[str], list[str], list[str]]


def read(path: Path) -> tuple[list[str], list[str]]:
    """Return the texts of a set, and their labels."""
    if path.is_dir() and any(path.glob("*.gz")):
        texts, labels = [], []
        for file in sorted(path.glob("*.gz")):
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                found = [line.strip() for line in lines if line.strip()]
            texts += found
            labels += [file.name.split(".")[0]] * len(found)
        return texts, labels
    found = read_labelled(path, Columns())
    return found.texts, [label for (label,) in found.labels]


def split(paths: list[Path]) -> Split:
    """Return texts and labels to train on, and to test on."""
    texts, labels = read(paths[0])
    if len(paths) > 1:
        return texts, labels, *read(paths[1])
    order = np.random.default_rng(0).permutation(len(texts))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    return (
        [texts[i] for i in train],
        [labels[i] for i in train],
        [texts[i] for i in test],
        [labels[i] for i in test],
    )


class FastText:
    """fastText by scikit-learn's convention."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def fit(self, texts: list[str], labels: list[str]) -> FastText:
        """Write the texts to a file and train on it."""
        self.names = {f"__label__{i}": label for i, label in enumerate(sorted(set(labels)))}
        prefix = {label: name for name, label in self.names.items()}
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            for text, label in zip(texts, labels, strict=True):
                file.write(f"{prefix[label]} {self._prepared(text)}\n")
            file.flush()
            self.model = fasttext.train_supervised(file.name, thread=2, verbose=0, **self.options)
        return self

    def predict(self, texts: list[str]) -> list[str]:
        """Return labels."""
        found, _ = self.model.predict([self._prepared(text) for text in texts])
        return [self.names[names[0]] for names in found]

    def _prepared(self, text: str) -> str:
        return " ".join(re.sub(r"([^\w\s])", r" \1 ", text.lower()).split())


def contenders(seed: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield names, and what makes a classifier."""
    yield "rowwise", lambda: TextClassifier(random_state=seed)
    if seed:
        return
    yield "fastText", FastText
    yield "fastText, pairs, 25 epochs", lambda: FastText(wordNgrams=2, epoch=25)
    yield "TF-IDF, words", lambda: make_pipeline(TfidfVectorizer(), _regression())
    yield (
        "TF-IDF, characters",
        lambda: make_pipeline(
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5)), _regression()
        ),
    )


def _regression() -> LogisticRegression:
    return LogisticRegression(max_iter=1000)


def measure(make: Callable[[], Any], sets: Split) -> tuple[float, float, float]:
    """Return accuracy, seconds of training, and seconds of prediction."""
    train, labels, test, answers = sets
    for _ in range(TRIES):
        begin = time.perf_counter()
        model = make()
        try:
            model.fit(train, labels)
            break
        except RuntimeError as error:  # fastText's own, now and then
            print(f"  {error}")
    else:
        return float("nan"), float("nan"), float("nan")
    trained = time.perf_counter()
    right = np.mean([a == b for a, b in zip(model.predict(test), answers, strict=True)])
    return float(right), trained - begin, time.perf_counter() - trained


def main() -> None:
    """Measure and print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=TRAIN[:TEST]")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of ours")
    parser.add_argument("--ours", action="store_true", help="leave the others out")
    options = parser.parse_args()
    for described in options.sets:
        name, _, paths = described.partition("=")
        sets = split([Path(path) for path in paths.split(":")])
        words = sum(len(text.split()) for text in sets[0])
        print(f"\n{name}: {len(sets[0]):,} texts to train on, {len(sets[2]):,} to test on, "
              f"{words:,} words, {len(set(sets[1]))} labels")  # fmt: skip
        print(f"{'':28}{'accuracy':>9} {'train, s':>9} {'predict, texts/s':>17}")
        found: dict[str, list[tuple[float, float, float]]] = {}
        for seed in range(options.seeds):
            for contender, make in contenders(seed):
                if options.ours and contender != "rowwise":
                    continue
                found.setdefault(contender, []).append(measure(make, sets))
        for contender, runs in found.items():
            accuracy, train, predict = np.mean(runs, axis=0)
            spread = ""
            if len(runs) > 1:
                spread = f"  ({min(r[0] for r in runs):.4f} to {max(r[0] for r in runs):.4f})"
            figures = f"{accuracy:9.4f} {train:9.1f} {len(sets[2]) / predict:17,.0f}"
            print(f"{contender:28}{figures}{spread}", flush=True)


if __name__ == "__main__":
    main()
