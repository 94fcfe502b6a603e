"""`Word2Vec`: a table trained to predict which words occur near each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise._checks import positive
from rowwise.store import in_memory
from rowwise.table import Table
from rowwise.vectors import Vectors
from rowwise.word2vec._corpus import Corpus
from rowwise.word2vec._sampling import alias_table, keep_thresholds

_CHUNK = 200_000  # words between two checks for an interrupt


class Word2Vec:
    """Vectors of words from text alone, by skip-gram or CBOW with negative sampling.

    For a word w near a word c, and n words drawn at random, the loss is

        -log sigmoid(v_c . u_w) - sum over the n words r of log sigmoid(-v_c . u_r)

    where v are the rows of `table`, the vectors, and u those of `context`. "cbow" has the mean of
    the v of all words near w in place of v_c. The rate falls linearly to `min_learning_rate`, and
    the window of each word is drawn from 1 to `window`. Both tables are trained by plain SGD, which
    does not change rows outside the batch.

    Mikolov et al., Efficient Estimation of Word Representations in Vector Space, 2013, and
    Distributed Representations of Words and Phrases and their Compositionality, 2013.

    Args:
        corpus: the text.
        objective: "skipgram" or "cbow".
        dim: length of the vectors.
        window: how far away a word may be and still be near.
        negative: words drawn at random for each near one.
        sample: frequent words are left out at random above this frequency; 0: none.
        epochs: passes over the text.
        learning_rate: at the start.
        min_learning_rate: at the end.
        ns_exponent: noise is drawn in proportion to count ** ns_exponent.
        seed: of start and draws.
        reproducible: one thread, and the same bits each time. Otherwise the threads share the
            tables without locks, as in word2vec (Recht et al., Hogwild, 2011),
            and the vectors differ a little each time.

    Raises:
        ValueError: an argument is out of its bounds.

    Example:
        >>> corpus = Corpus.from_texts(["black tea", "green tea"] * 50, min_count=1)
        >>> model = Word2Vec(corpus, dim=8, sample=0, reproducible=True).train()
        >>> model.table  # doctest: +ELLIPSIS
        Table(rows=3, dim=8, rule=None, steps=1000, untrained=0, vocabulary=...)
        >>> model.vectors.words
        ['tea', 'black', 'green']
    """

    def __init__(
        self,
        corpus: Corpus,
        objective: str = "skipgram",
        *,
        dim: int = 100,
        window: int = 5,
        negative: int = 5,
        sample: float = 1e-3,
        epochs: int = 5,
        learning_rate: float = 0.025,
        min_learning_rate: float = 1e-4,
        ns_exponent: float = 0.75,
        seed: int = 0,
        reproducible: bool = False,
    ) -> None:
        if objective not in ("skipgram", "cbow"):
            raise ValueError(f"objective={objective!r} is not 'skipgram' or 'cbow'")
        if not 0 <= sample < 1:
            raise ValueError(f"sample={sample} must be at least 0 and below 1; word2vec's is 0.001")
        if not 0 < min_learning_rate <= learning_rate < math.inf:
            raise ValueError(
                f"learning_rate={learning_rate} and min_learning_rate={min_learning_rate}: "
                "the rate falls from the first to the second, which is above 0"
            )
        for name, value in (("window", window), ("negative", negative)):
            if not 1 <= value <= 65_536:
                raise ValueError(f"{name}={value} is not in 1..65536")
        if not math.isfinite(ns_exponent):
            raise ValueError(f"ns_exponent={ns_exponent} must be finite; word2vec's is 0.75")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed={seed} is not in 0..2**63-1")
        self.corpus, self.objective = corpus, objective
        self.window, self.negative, self.seed = window, negative, seed
        self.epochs = positive("epochs", epochs)
        self.reproducible = reproducible
        self.learning_rate, self.min_learning_rate = learning_rate, min_learning_rate
        self._keep = keep_thresholds(corpus.counts, sample)
        self._accept, self._alias = alias_table(corpus.counts, ns_exponent)

        rows, dim = len(corpus.vocabulary), positive("dim", dim)
        rng = np.random.default_rng(seed)
        # Twice as far from 0 as word2vec, like gensim: a short text leaves the start behind sooner.
        start = (rng.random((rows, dim), dtype=np.float32) * 2 - 1) / np.float32(dim)
        self.table = Table(rows, dim, init=lambda _: start)
        self.table.vocabulary = corpus.vocabulary
        self.context = Table(rows, dim, init="zeros")
        self._sentences_done = np.zeros(
            1, np.int64
        )  # sentences in all passes, counted by the kernel

    @property
    def vectors(self) -> Vectors:
        """The words and their vectors, a copy."""
        return Vectors(list(self.corpus.vocabulary.tokens), self.table.to_numpy())

    @property
    def fraction_done(self) -> float:
        """Part of the training that is finished, 0..1."""
        return self._words_done() / (self.epochs * len(self.corpus.ids))

    def train(self, progress: Callable[[int], None] | None = None) -> Self:
        """Train to the end.

        After an interrupt the tables are whole, and `train` continues where it stopped.

        Args:
            progress: called with the number of words trained since, several times a second.
        """
        try:
            while self._sentences_done[0] < self.epochs * len(self.corpus.ends):
                before = self._words_done()
                self._train_chunk()
                if progress is not None:
                    progress(self._words_done() - before)
        finally:
            in_memory(self.table.store).steps = self._words_done()
        return self

    def _train_chunk(self) -> None:
        epoch, sentence = divmod(int(self._sentences_done[0]), len(self.corpus.ends))

        def train(vectors: NDArray[np.float32], states: NDArray[np.uint8]) -> None:
            in_memory(self.context.store).train_in_place(
                lambda context, _: self._run_kernel(vectors, context, states, epoch, sentence)
            )

        in_memory(self.table.store).train_in_place(train)

    def _run_kernel(
        self,
        vectors: NDArray[np.float32],
        context: NDArray[np.float32],
        states: NDArray[np.uint8],
        epoch: int,
        sentence: int,
    ) -> None:
        text = self.corpus
        whole = self.epochs * len(text.ids)
        _native.train_word2vec(
            input=vectors,
            output=context,
            states=states,
            keep=self._keep,
            accept=self._accept,
            alias=self._alias,
            ids=text.ids,
            ends=text.ends,
            begin=sentence,
            end=self._next_stop(sentence),
            window=self.window,
            negative=self.negative,
            cbow=self.objective == "cbow",
            seed=self.seed,
            words_done=epoch * len(text.ids),
            lr=self.learning_rate,
            lr_slope=(self.learning_rate - self.min_learning_rate) / whole,
            min_lr=self.min_learning_rate,
            single_thread=self.reproducible,
            sentences_done=self._sentences_done,
        )

    def _next_stop(self, sentence: int) -> int:
        """Return the sentence at which to check for an interrupt next."""
        at = self._words_before(sentence) + _CHUNK
        return max(int(np.searchsorted(self.corpus.ends, at, side="right")), sentence + 1)

    def _words_done(self) -> int:
        epoch, sentence = divmod(int(self._sentences_done[0]), len(self.corpus.ends))
        return epoch * len(self.corpus.ids) + self._words_before(sentence)

    def _words_before(self, sentence: int) -> int:
        return int(self.corpus.ends[sentence - 1]) if sentence > 0 else 0
