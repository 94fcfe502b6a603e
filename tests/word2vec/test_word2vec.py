"""word2vec: draw for draw beside a plain program, and what it learns."""

import gzip
import subprocess
import sys

import numpy as np
import pytest

from rowwise import _native
from rowwise.word2vec import Corpus, Word2Vec
from rowwise.word2vec._sampling import alias_table, keep_thresholds


class Draws:
    """splitmix64, as a sentence draws it."""

    def __init__(self, seed, place):
        self.state = seed
        self.state = self.next() ^ (place * 0xD1342543DE82EF95 & (2**64 - 1))

    def next(self):
        self.state = self.state + 0x9E3779B97F4A7C15 & (2**64 - 1)
        z = self.state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        z = (z ^ z >> 27) * 0x94D049BB133111EB & (2**64 - 1)
        return z ^ z >> 31

    def below(self, bound):
        return (self.next() >> 32) * bound >> 32


def plain(model):
    """The formulas in float64, one prediction after the other: vectors, contexts, updates."""
    text = model.corpus
    h, u = model.table.to_numpy().astype(float), model.context.to_numpy().astype(float)
    updates = np.zeros(len(h), int)
    whole = model.epochs * len(text.ids)
    keep = keep_thresholds(text.counts, SAMPLE)
    accept, alias = alias_table(text.counts, 0.75)

    def predict(near, word, rate, draws):
        noise = []
        for _ in range(model.negative):
            bits = draws.next()
            slot = (bits >> 32) * len(h) >> 32
            noise.append(slot if bits & 0xFFFFFFFF < accept[slot] else alias[slot])
        mean, error = h[near].mean(axis=0), 0.0
        for target in [word, *(other for other in noise if other != word)]:
            g = ((target == word) - 1 / (1 + np.exp(-mean @ u[target]))) * rate
            error = error + g * u[target]
            u[target] += g * mean
        for other in near:  # a word that stands there twice is moved twice
            h[other] += error

    for epoch in range(model.epochs):
        start = 0
        for end in text.ends:
            place = epoch * len(text.ids) + int(start)
            draws = Draws(model.seed, place)
            kept = [i for i in text.ids[start:end] if draws.next() >> 32 <= keep[i]]
            fall = (model.learning_rate - model.min_learning_rate) * place / whole
            rate = max(model.min_learning_rate, model.learning_rate - fall)
            start = end
            for at, word in enumerate(kept if len(kept) > 1 else []):
                updates[word] += 1
                reach = 1 + draws.below(model.window)
                near = kept[max(0, at - reach) : at] + kept[at + 1 : at + reach + 1]
                for group in [near] if model.objective == "cbow" else [[one] for one in near]:
                    if group:
                        predict(group, word, rate, draws)
    return h, u, updates


SAMPLE = 0.02


def sentences(count=60, words=30, seed=0):
    rng = np.random.default_rng(seed)
    return [
        " ".join(f"w{i}" for i in (words * rng.random(rng.integers(0, 15)) ** 2).astype(int))
        for _ in range(count)
    ]


@pytest.mark.parametrize("kernels", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("objective", ["skipgram", "cbow"])
@pytest.mark.parametrize("dim", [3, 16, 50])
def test_numbers_are_those_of_the_formulas(objective, dim, kernels):
    corpus = Corpus.from_texts(sentences(), min_count=2)
    best = _native.kernels()
    if not _native.select_kernels(kernels):
        pytest.skip(f"this processor has no {kernels}")
    try:
        options = {"dim": dim, "window": 3, "sample": SAMPLE, "epochs": 2, "learning_rate": 0.2}
        model = Word2Vec(corpus, objective, seed=5, reproducible=True, **options)
        vectors, contexts, updates = plain(model)
        model.train()
    finally:
        _native.select_kernels(best)
    np.testing.assert_allclose(model.table.to_numpy(), vectors, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(model.context.to_numpy(), contexts, rtol=1e-4, atol=2e-6)
    np.testing.assert_array_equal(model.table.update_counts, updates)
    assert model.table.steps == 2 * len(corpus.ids)
    assert np.abs(contexts).max() > 0.05  # it did train


def test_one_thread_gives_the_same_bits_and_another_seed_others():
    corpus = Corpus.from_texts(sentences(), min_count=1)
    first, again, other = (
        Word2Vec(corpus, dim=8, reproducible=True, seed=seed).train().table.to_numpy()
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("objective", ["skipgram", "cbow"])
def test_an_interrupt_loses_nothing(monkeypatch, objective):
    monkeypatch.setattr("rowwise.word2vec._model._CHUNK", 40)
    corpus = Corpus.from_texts(sentences(), min_count=1)
    straight = Word2Vec(corpus, objective, dim=8, reproducible=True, epochs=2).train()
    stopped = Word2Vec(corpus, objective, dim=8, reproducible=True, epochs=2)
    calls = []

    def interrupt(words):
        calls.append(words)
        if len(calls) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.train(interrupt)
    assert 0 < stopped.fraction_done < 1
    assert stopped.table.steps == sum(calls)
    stopped.train(calls.append)
    assert stopped.fraction_done == 1
    assert sum(calls) == 2 * len(corpus.ids)
    np.testing.assert_array_equal(stopped.table.to_numpy(), straight.table.to_numpy())
    np.testing.assert_array_equal(stopped.context.to_numpy(), straight.context.to_numpy())


INTERRUPTED_AGAIN_AND_AGAIN = """
import os, signal, threading
import numpy as np
from rowwise.word2vec import Corpus, Word2Vec

rng = np.random.default_rng(0)
texts = [" ".join(map(str, line)) for line in rng.integers(300, size=(20_000, 10))]
corpus = Corpus.from_texts(texts, min_count=1)
straight = Word2Vec(corpus, dim=16, epochs=3, sample=0, reproducible=True).train()
stopped, times = Word2Vec(corpus, dim=16, epochs=3, sample=0, reproducible=True), 0
while stopped.fraction_done < 1:
    alarm = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    try:
        alarm.start()
        stopped.train()
        alarm.join()  # the last one may come too late
    except KeyboardInterrupt:
        times += 1
assert stopped.table.steps == 3 * len(corpus.ids)
assert np.array_equal(stopped.table.to_numpy(), straight.table.to_numpy())
print(times, "interrupts")
"""


def test_an_interrupt_while_the_kernel_works_is_not_counted_twice():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AGAIN_AND_AGAIN], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 1


def planted(count=4000, seed=0):
    """Pairs of words that stand in the same places: twins a0 and b0, a1 and b1, ..."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        kind = rng.integers(10)
        near = rng.integers(5, size=4)
        yield " ".join([f"{'ab'[rng.integers(2)]}{kind}", *(f"near{kind}-{i}" for i in near)])


@pytest.mark.parametrize("objective", ["skipgram", "cbow"])
@pytest.mark.parametrize("reproducible", [True, False])
def test_words_that_stand_in_the_same_places_come_to_lie_together(objective, reproducible):
    corpus = Corpus.from_texts(planted(), split="whitespace")
    options = {"dim": 16, "epochs": 15, "learning_rate": 0.05, "reproducible": reproducible}
    vectors = Word2Vec(corpus, objective, **options).train().vectors
    assert len(corpus.vocabulary) == 70
    for kind in range(10):
        near = vectors.nearest(vectors.vector_of(f"a{kind}"), 6, without=[f"a{kind}"])
        assert f"b{kind}" in [word for word, _ in near]


def test_frequent_words_are_left_out_as_the_formula_says():
    counts = np.array([9000, 900, 100])
    keep = keep_thresholds(counts, 1e-2) / 2**32
    share = 1e-2 / (counts / 10_000)
    np.testing.assert_allclose(keep, np.minimum(1, np.sqrt(share) + share), atol=1e-6)
    assert (keep_thresholds(counts, 0) == 2**32 - 1).all()


@pytest.mark.parametrize("counts", [[5], [3, 3, 3], [1000, 7, 1, 1, 20]])
def test_the_alias_table_holds_the_probabilities(counts):
    counts = np.array(counts)
    accept, alias = alias_table(counts, 0.75)
    own = accept / 2**32
    drawn = own + np.bincount(alias, weights=1 - own, minlength=len(counts))
    np.testing.assert_allclose(drawn / len(counts), counts**0.75 / (counts**0.75).sum(), atol=1e-8)


def test_a_corpus_is_read_from_files_a_sentence_a_line(tmp_path):
    lines = ["The tea, the cup", "", "a cup of tea", "rare"]
    (tmp_path / "c.txt").write_text("\n".join(lines))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    for path in (tmp_path / "c.txt", tmp_path / "c.txt.gz"):
        corpus = Corpus.from_file(path, min_count=2)
        assert list(corpus.vocabulary) == ["the", "tea", "cup"]
        assert corpus.counts.tolist() == [2, 2, 2]
        assert corpus.ids.tolist() == [0, 1, 0, 2, 2, 1]
        assert corpus.ends.tolist() == [4, 4, 6, 6]
    assert list(Corpus.from_file(path, min_count=1, max_size=2).vocabulary) == ["the", "tea"]


def test_a_line_that_is_no_text_is_named(tmp_path):
    (tmp_path / "c.txt").write_bytes(b"tea\nc\xffp\n")
    with pytest.raises(ValueError, match=r"c.txt', line 2: byte 2 \(0xff\) is no UTF-8"):
        Corpus.from_file(tmp_path / "c.txt")
    with pytest.raises(FileNotFoundError):
        Corpus.from_file(tmp_path / "absent.txt")


def test_a_damaged_gzip_is_named(tmp_path):
    whole = gzip.compress(b"tea cup\n" * 200)
    for content in (whole[:-9], whole[:10] + b"\xff" + whole[11:], whole[:-6] + b"123456"):
        (tmp_path / "c.txt.gz").write_bytes(content)
        with pytest.raises(ValueError, match=r"c.txt.gz' cannot be read after line \d+: "):
            Corpus.from_file(tmp_path / "c.txt.gz")


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["tea cup", "tea"], {"min_count": 3}, "no word occurs 3 times: the most frequent of 2"),
        ([], {}, "no word occurs 5 times"),
        (["tea"], {"min_count": 0}, "min_count=0"),
        (["tea"], {"min_count": 1, "max_size": 0}, "max_size=0"),
    ],
)
def test_a_text_without_frequent_words_is_refused(texts, options, message):
    with pytest.raises(ValueError, match=message):
        Corpus.from_texts(texts, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "glove"}, "objective='glove' is not 'skipgram' or 'cbow'"),
        ({"sample": 1.0}, "sample=1.0"),
        ({"sample": float("nan")}, "sample=nan"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"min_learning_rate": 0.1}, "min_learning_rate=0.1"),
        ({"window": 0}, "window=0 is not in 1..65536"),
        ({"negative": 0}, "negative=0 is not in 1..65536"),
        ({"epochs": 0}, "epochs=0"),
        ({"dim": 0}, "dim=0"),
        ({"seed": -1}, "seed=-1"),
        ({"ns_exponent": float("nan")}, "ns_exponent=nan"),
    ],
)
def test_bad_arguments_are_named(options, message):
    corpus = Corpus.from_texts(["tea cup"], min_count=1)
    with pytest.raises(ValueError, match=message):
        Word2Vec(corpus, **options)


def test_the_kernel_refuses_what_would_read_outside_its_memory():
    corpus = Corpus.from_texts(["tea cup tea"], min_count=1)
    good = Word2Vec(corpus, dim=4)
    bad = Corpus(corpus.vocabulary, corpus.counts, corpus.ids + 5, corpus.ends)
    before = good.table.to_numpy()
    good.corpus = bad
    with pytest.raises(ValueError, match="ids must be of the words"):
        good.train()
    good.corpus = Corpus(corpus.vocabulary, corpus.counts, corpus.ids, corpus.ends + 5)
    with pytest.raises(ValueError, match="ends must ascend within the text"):
        good.train()
    np.testing.assert_array_equal(good.table.to_numpy(), before)
