"""Vectors from text alone: `rowwise.word2vec.Word2Vec` beside gensim's, at the same settings.

Both read the same words in the same order, with the same vocabulary, in one process on 2 threads,
by turns, once per seed. Speed: words of the text per second of training, without reading the text
and counting its words. gensim trains from sentences in memory, as ours does, and from a file.

Quality is asked on a planted text, whose answers are known: groups of words, of which each has a
word of its own per kind ("g17.k2"), written among words of the group and words of the kind.
Analogies: g1.k1 is to g1.k2 as g2.k1 is to what? Part that is right. Likeness: Spearman's
correlation of cosines with what a pair has in common: the group, the kind, or nothing.
With CORPUS, a file in UTF-8 with a sentence a line: WordSim-353 (Finkelstein et al., 2002) and
SimLex-999 (Hill et al., 2015), Spearman's correlation, and Google's analogies (Mikolov et al.,
2013), which come with gensim; words that the corpus lacks are left out.

    pip install gensim==4.4.0
    python benchmarks/word2vec.py [CORPUS] [--seeds 3] [--words 1000000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gensim
import numpy as np
from gensim.models import KeyedVectors
from gensim.test.utils import datapath
from scipy.stats import spearmanr

import rowwise
from rowwise.word2vec import Corpus, Word2Vec

DIM, EPOCHS, THREADS = 100, 5, 2
GROUPS, KINDS, ALL_WORDS = 200, 4, 5000
OBJECTIVES = {"skipgram": 0.025, "cbow": 0.05}  # and word2vec's own rates for them


def planted(words: int) -> Iterator[str]:
    """Sentences of 20 words: one of a group and a kind, words of both, and words of any."""
    rng = np.random.default_rng(0)
    frequent = 1 / np.arange(1, ALL_WORDS + 1)  # Zipf's law
    for _ in range(words // 20):
        group, kind = rng.integers(GROUPS), rng.integers(KINDS)
        sentence = [f"g{group}.k{kind}"]
        sentence += [f"g{group}.w{i}" for i in rng.integers(10, size=4)]
        sentence += [f"k{kind}.w{i}" for i in rng.integers(40, size=4)]
        chosen = rng.choice(ALL_WORDS, size=11, p=frequent / frequent.sum())
        sentence += [f"w{i}" for i in chosen]
        rng.shuffle(sentence)
        yield " ".join(sentence)


def planted_scores(vectors: KeyedVectors) -> dict[str, float]:
    """Analogies and likeness of the planted words."""
    rng = np.random.default_rng(1)
    matrix = np.stack(
        [[vectors[f"g{g}.k{k}"] for k in range(KINDS)] for g in range(GROUPS)]
    ).reshape(GROUPS * KINDS, -1)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    right, asked = 0, 2000
    for _ in range(asked):
        g, h = rng.choice(GROUPS, 2, replace=False)
        k, m = rng.choice(KINDS, 2, replace=False)
        a, b, c, d = g * KINDS + k, g * KINDS + m, h * KINDS + k, h * KINDS + m
        near = matrix @ (matrix[b] - matrix[a] + matrix[c])
        near[[a, b, c]] = -np.inf
        right += int(near.argmax() == d)
    pairs = rng.integers(GROUPS * KINDS, size=(20_000, 2))
    pairs[:10_000, 1] = pairs[:10_000, 0] // KINDS * KINDS + pairs[:10_000, 1] % KINDS
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    i, j = pairs.T
    common = 2.0 * (i // KINDS == j // KINDS) + 1.0 * (i % KINDS == j % KINDS)
    cosines = (matrix[i] * matrix[j]).sum(axis=1)
    return {"analogies": right / asked, "likeness": spearmanr(cosines, common).statistic}


def human_scores(vectors: KeyedVectors) -> dict[str, float]:
    """Return what people answered."""
    return {
        "WordSim-353": vectors.evaluate_word_pairs(datapath("wordsim353.tsv"))[1].statistic,
        "SimLex-999": vectors.evaluate_word_pairs(datapath("simlex999.txt"))[1].statistic,
        "analogies": vectors.evaluate_word_analogies(datapath("questions-words.txt"))[0],
    }


def ours(corpus: Corpus, objective: str, seed: int) -> tuple[KeyedVectors, float]:
    """Vectors and seconds."""
    rate = OBJECTIVES[objective]
    model = Word2Vec(corpus, objective, dim=DIM, epochs=EPOCHS, learning_rate=rate, seed=seed)
    begin = time.perf_counter()
    model.train()
    seconds = time.perf_counter() - begin
    vectors = KeyedVectors(DIM)
    vectors.add_vectors(model.vectors.words, model.vectors.matrix)
    return vectors, seconds


def theirs(
    text: dict[str, Any], corpus: Corpus, objective: str, seed: int
) -> tuple[KeyedVectors, float]:
    """Vectors and seconds; `text` is gensim's own argument."""
    model = gensim.models.Word2Vec(
        vector_size=DIM,
        sg=int(objective == "skipgram"),
        alpha=OBJECTIVES[objective],
        min_count=1,  # rarer words are not in the text
        workers=THREADS,
        seed=seed + 1,
    )
    model.build_vocab(**text)
    total = {"total_words": len(corpus.ids), "total_examples": len(corpus.ends)}
    begin = time.perf_counter()
    model.train(**text, **total, epochs=EPOCHS)
    return model.wv, time.perf_counter() - begin


def compare(corpus: Corpus, seeds: int, scores: Callable[[KeyedVectors], dict[str, float]]) -> None:
    """Print a table: a line per objective and trainer, with mean and range over the seeds."""
    words = np.array(corpus.vocabulary.tokens, dtype=object)
    sentences = [list(part) for part in np.split(words[corpus.ids], corpus.ends[:-1])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.txt"
        path.write_text("".join(" ".join(sentence) + "\n" for sentence in sentences))
        trainers = {
            "gensim": partial(theirs, {"corpus_iterable": sentences}),
            "gensim, corpus_file": partial(theirs, {"corpus_file": str(path)}),
            "rowwise": ours,
        }
        print(f"\n{len(corpus.ids):,} words, {len(words):,} different\n")
        for objective in OBJECTIVES:
            speeds: dict[str, list[float]] = {name: [] for name in trainers}
            found: dict[str, list[dict[str, float]]] = {name: [] for name in trainers}
            for seed in range(seeds):
                for name, train in trainers.items():
                    vectors, seconds = train(corpus, objective, seed)
                    speeds[name].append(EPOCHS * len(corpus.ids) / seconds)
                    found[name].append(scores(vectors))
            show(objective, speeds, found)


def show(
    objective: str, speeds: dict[str, list[float]], found: dict[str, list[dict[str, float]]]
) -> None:
    """Print a table with a line per trainer."""
    names = list(found["rowwise"][0])
    print(f"| {objective} | words/s | of gensim's best | {' | '.join(names)} |")
    print(f"|---|---|---|{'---|' * len(names)}")
    typical = {name: float(np.median(speed)) for name, speed in speeds.items()}
    best = max(speed for name, speed in typical.items() if name != "rowwise")
    for name, speed in typical.items():
        cells = [spread([one[score] for one in found[name]]) for score in names]
        print(f"| {name} | {speed:,.0f} | {speed / best:.2f}x | {' | '.join(cells)} |")
    print(flush=True)


def spread(values: list[float]) -> str:
    """Mean, and from where to where."""
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", nargs="?", help="UTF-8, a sentence a line, plain or gzip")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--words", type=int, default=1_000_000, help="of the planted text")
    options = parser.parse_args()
    rowwise.set_num_threads(THREADS)
    if options.corpus:
        compare(Corpus.from_file(options.corpus), options.seeds, human_scores)
    else:
        text = Corpus.from_texts(planted(options.words), split="whitespace")
        compare(text, options.seeds, planted_scores)
