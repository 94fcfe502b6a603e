"""How a text classifier is made of examples: how texts are read, and what is trained on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rowwise import rules
from rowwise.sklearn._features import Features, Reading, Text
from rowwise.sklearn._labels import Ids
from rowwise.sklearn._losses import Floats
from rowwise.sklearn._model import BagModel
from rowwise.sklearn._training import Batches, OnEpoch, OnStep, Schedule, Training
from rowwise.table import Table
from rowwise.vectors import Vectors, rows_for

_CHOSEN_ON = 300_000  # characters of texts that readings are compared on, at most
_FEWEST = 100  # texts that readings are compared on
_FOLDS = 2
_MOST_EPOCHS, _MOST_PATIENCE = 100, 3  # of a training that only compares


KEPT_CASE = {"lowercase": False}
MORE_NGRAMS = {"char_ngrams": (2, 5)}


@dataclass(frozen=True)
class Examples:
    """Texts, their targets (n, K), and their weights (n,) in the loss, or None.

    Attributes:
        training, held_out: which of them are trained on, and which are held out.
    """

    texts: list[str]
    targets: Floats
    weights: Floats | None
    training: Ids
    held_out: Ids

    def sample(self, seed: int) -> Examples:
        """Return some that are trained on, with as many characters as readings are compared on."""
        order = np.random.default_rng(seed).permutation(self.training)
        lengths = np.fromiter((len(self.texts[i]) for i in order), np.int64, len(order))
        which = np.sort(order[: int((np.cumsum(lengths) <= _CHOSEN_ON).sum())])
        weights = None if self.weights is None else self.weights[which]
        texts = [self.texts[i] for i in which]
        return Examples(texts, self.targets[which], weights, np.arange(len(which)), which[:0])

    def folds(self, count: int, seed: int) -> Iterator[Examples]:
        """Yield them with one part after the other held out, of texts of the same labels alike."""
        order = np.random.default_rng(seed).permutation(len(self.texts))
        _, kinds = np.unique(self.targets, axis=0, return_inverse=True)
        order = order[np.argsort(kinds.reshape(-1)[order], kind="stable")]
        fold = np.empty(len(order), np.int64)
        fold[order] = np.arange(len(order)) % count
        for i in range(count):
            training, held_out = np.flatnonzero(fold != i), np.flatnonzero(fold == i)
            yield replace(self, training=training, held_out=held_out)


@dataclass(frozen=True)
class Recipe:
    """Hold the parameters of `TextClassifier`, without those of how texts are read."""

    word_ngrams: int
    min_count: int
    min_ngram_count: int
    max_features: int
    dim: int | None
    init_from: Vectors | None
    multilabel: bool
    schedule: Schedule

    def features(self, reading: Reading) -> Features:
        """Return features without rows."""
        return Features(
            self.word_ngrams,
            reading.char_ngrams,
            self.min_count,
            self.min_ngram_count,
            self.max_features,
        )

    def model(self, features: Features, outputs: int) -> BagModel:
        """Return a new model of features that have rows."""
        return BagModel.create(
            self._table(features, outputs), outputs, self.multilabel, self.schedule.seed
        )

    def _table(self, features: Features, outputs: int) -> Table:
        rows, dim = features.rows, self.dim or min(16 * math.ceil(outputs / 16), 64)
        if self.init_from is None:
            return Table(rows, dim, rules.Adam(), init="zeros")
        dim = self.init_from.dim
        if self.dim not in (None, dim):
            raise ValueError(f"dim={self.dim}, and the vectors have {dim} numbers; leave dim out")
        values = np.zeros((rows, dim), np.float32)
        found, _, _ = rows_for(self.init_from, features.words, "zeros")
        values[: len(found)] = found
        return Table(rows, dim, rules.Adam(), init=lambda _: values)

    def train(
        self,
        reading: Reading,
        examples: Examples,
        on_step: OnStep | None = None,
        on_epoch: OnEpoch | None = None,
        text: Text | None = None,
    ) -> Training:
        """Train a new model.

        Args:
            reading: how texts become features.
            examples: what to train on, and what is held out.
            on_step, on_epoch: see `Training.run`.
            text: what the reading makes of the texts, if it is known.

        Raises:
            ValueError: the texts have no words, or the loss is not finite.
        """
        text = text or reading.text(examples.texts)
        features = self.features(reading)
        features.learn(text, examples.training)
        if self.init_from is not None:
            features.add_words(list(self.init_from.words))
        if not features.rows:
            raise ValueError(
                f"none of {len(examples.training)} texts has a word that is in "
                f"min_count={self.min_count} texts; give more text, or a smaller min_count"
            )
        made = Training(features, self.model(features, examples.targets.shape[1]))
        batches = Batches(features.encoder(text), examples.targets, examples.weights)
        made.run(batches, examples.training, examples.held_out, self.schedule, on_step, on_epoch)
        return made

    def choose(
        self,
        reading: Reading,
        changes: list[dict[str, Any]],
        examples: Examples,
        on_try: Callable[[str], None] | None = None,
    ) -> Reading:
        """Return a reading whose loss is low in a cross-validation on some of the texts.

        Args:
            reading: the first to be tried.
            changes: to it, each tried on top of those that were better: that lowered the loss by
                more than its standard error.
            examples: what will be trained on; the held-out ones have no part in this.
            on_try: called with a line about each reading that was tried.
        """
        some = examples.sample(self.schedule.seed)
        if all(text == text.lower() for text in some.texts):
            changes = [change for change in changes if change is not KEPT_CASE]
        if not changes or len(some.texts) < _FEWEST:
            return reading
        best: Floats | None = None
        for change in ({}, *changes):
            other = replace(reading, **change)
            try:
                losses = self._losses(other, some)
            except ValueError:  # the training on all texts will tell, if it has it too
                return reading
            if on_try is not None:
                on_try(f"tried {other}: loss {losses.mean():.4f}")
            if best is None or _are_lower(losses, best):
                best, reading = losses, other
        return reading

    def _losses(self, reading: Reading, examples: Examples) -> Floats:
        """Return the loss (n,) of each example, of a training that its fold is held out of."""
        most = min(self.schedule.max_epochs, _MOST_EPOCHS)
        patience = min(self.schedule.patience, _MOST_PATIENCE)
        quick = replace(self, schedule=replace(self.schedule, max_epochs=most, patience=patience))
        text = reading.text(examples.texts)
        losses = np.empty(len(examples.texts), np.float32)
        for fold in examples.folds(_FOLDS, self.schedule.seed):
            made = quick.train(reading, fold, text=text)
            if made.interrupted:
                raise KeyboardInterrupt
            losses[fold.held_out] = made.losses
        return losses


def _are_lower(losses: Floats, others: Floats) -> bool:
    """Return whether losses (n,) are lower than others of the same texts in the mean, by more than
    a standard error.
    """
    by = others.astype(np.float64) - losses
    return bool(by.mean() > by.std() / math.sqrt(len(by)))
