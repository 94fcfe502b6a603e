"""`TextClassifier`: labels of texts, by scikit-learn's conventions."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from rowwise import rules
from rowwise.sklearn import _files
from rowwise.sklearn._features import Encoder, Features, Text
from rowwise.sklearn._losses import Floats
from rowwise.sklearn._model import BagModel
from rowwise.sklearn._words import Words, is_word, ranges, split_words
from rowwise.store import Bags
from rowwise.table import Table
from rowwise.text import Vocabulary
from rowwise.text._columns import cells
from rowwise.vectors import Vectors, rows_for

Ids = NDArray[np.int64]

_AT_ONCE = 2048  # texts scored at once
_KEPT = 1 << 28  # features of a training set whose bags are kept between epochs


@dataclass(frozen=True)
class Round:
    """One epoch of training.

    Attributes:
        epoch: its number, counted from 1.
        loss: mean over the training texts, while they were trained on.
        val_loss, val_accuracy: on the held-out texts; NaN without any.
        best: whether no epoch before had a lower `val_loss`.
    """

    epoch: int
    loss: float
    val_loss: float
    val_accuracy: float
    best: bool


class TextClassifier(ClassifierMixin, BaseEstimator):
    """Linear classifier of texts on trained rows of words, word n-grams and character n-grams.

    A text of any length is the weighted sum of the rows of its features (`_features.py` has the
    weights). A linear layer and a softmax make probabilities of labels of it; a sigmoid each, if
    texts have several labels. Rows and layer are trained by Adam, exactly
    and at the cost of each batch, on the cross-entropy. A part of the texts is held out, and the
    epoch with the lowest loss on it is kept. Words are split as Unicode Standard Annex 29 says,
    after normalization (NFKC) and case folding; in scripts written without spaces every character
    is a word.

    The idea of rows for n-grams is fastText's (Joulin et al., Bag of Tricks for Efficient Text
    Classification, 2017); here each n-gram that training saw has a row of its own.

    Args:
        dim: length of a row; 16 to 64, growing with the number of labels, unless given.
        word_ngrams: longest n-gram of words; 1: none.
        char_ngrams: length of the n-grams of characters within words, or (shortest, longest); 0:
            none.
        min_count: fewest training texts that a word must be in to have a row.
        min_ngram_count: the same for n-grams.
        max_features: most rows; the features of most texts have them.
        lowercase: whether texts are case folded.
        max_epochs: most passes over the training texts.
        patience: training ends after so many epochs without a lower held-out loss.
        validation_fraction: part of the texts held out, of each label alike; 0: none, and all
            epochs are made.
        learning_rate: Adam's.
        batch_size: texts per step; 8 to 512, growing with the number of texts, unless given.
        class_weight: a weight per label in the loss, as a dict, or "balanced": in inverse
            proportion to the labels' frequencies; None: 1.
        init_from: `rowwise.Vectors` that rows of words start from. Their words have rows too.
        random_state: seed of the split, the order of texts and the layer's start.
        verbose: 1 prints a line per epoch.

    Attributes:
        classes_: (K,) labels.
        table_: the rows, with a vocabulary of their words.
        history_: dict of lists, one value per epoch: loss, val_loss, val_accuracy.
        best_epoch_: the epoch whose model is kept, counted from 1.
        n_iter_: number of epochs made.

    Example:
        >>> texts = ["black tea", "green tea", "a red car", "a fast car"] * 5
        >>> model = TextClassifier().fit(texts, ["drink", "drink", "ride", "ride"] * 5)
        >>> model.predict(["a cup of tea", "my car"]).tolist()
        ['drink', 'ride']
    """

    def __init__(
        self,
        *,
        dim: int | None = None,
        word_ngrams: int = 2,
        char_ngrams: int | tuple[int, int] = 4,
        min_count: int = 1,
        min_ngram_count: int = 1,
        max_features: int = 1_000_000,
        lowercase: bool = True,
        max_epochs: int = 100,
        patience: int = 3,
        validation_fraction: float = 0.1,
        learning_rate: float = 0.001,
        batch_size: int | None = None,
        class_weight: dict[Any, float] | str | None = None,
        init_from: Vectors | None = None,
        random_state: int = 0,
        verbose: int = 0,
    ) -> None:
        self.dim = dim
        self.word_ngrams = word_ngrams
        self.char_ngrams = char_ngrams
        self.min_count = min_count
        self.min_ngram_count = min_ngram_count
        self.max_features = max_features
        self.lowercase = lowercase
        self.max_epochs = max_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.class_weight = class_weight
        self.init_from = init_from
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------ training

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on texts and their labels.

        An interrupt (Ctrl-C) ends training with a warning; the best epoch so far is kept.

        Args:
            X: n texts; a list or a column (NumPy, pandas, polars, pyarrow).
            y: (n,) labels, or (n, K) of 0 and 1: which of K labels each text has.
            sample_weight: (n,) weights of texts in the loss.

        Raises:
            ValueError: fewer than two labels, not as many labels as texts, texts without words, a
                parameter out of its bounds.
            TypeError: a text that is not a string.
        """
        if self._train(X, y, sample_weight):
            warnings.warn("training was interrupted; the best epoch so far is kept", stacklevel=2)
        return self

    def _train(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        validation: tuple[Any, Any] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        on_epoch: Callable[[Round], None] | None = None,
    ) -> bool:
        """Train, and return whether an interrupt ended it.

        Args:
            X, y, sample_weight: see `fit`.
            validation: held-out texts and labels, in place of a part of X.
            on_step: called with an epoch and a number of texts just trained on.
            on_epoch: called after each epoch.
        """
        self._check_parameters()
        texts = list(cells(X, "X"))
        check_lengths(texts, y)
        self._set_classes(y)
        targets = self._targets(y, len(texts))
        if validation is None:
            training, held_out = split(targets, self.validation_fraction, self.random_state)
        else:
            more = list(cells(validation[0], "validation texts"))
            check_lengths(more, validation[1])
            targets = np.concatenate([targets, self._targets(validation[1], len(more))])
            training = np.arange(len(texts))
            held_out = np.arange(len(texts), len(texts) + len(more))
            texts += more
        weights = self._weights(targets, sample_weight, training)

        text = self._text(texts)
        self._features = self._new_features()
        self._features.learn(text, training)
        if self.init_from is not None:
            self._features.add_words(list(self.init_from.words))
        if not self._features.rows:
            raise ValueError(
                f"none of {len(training)} texts has a word that is in min_count={self.min_count} "
                "texts; give more text, or a smaller min_count"
            )
        self._model = BagModel.create(
            self._new_table(), targets.shape[1], self.multilabel_, self.random_state
        )
        self.training_, self.held_out_ = training, held_out
        batches = _Batches(self._features.encoder(text), targets, weights)
        interrupted = self._run_epochs(batches, training, held_out, on_step, on_epoch)
        self._name_rows()
        return interrupted

    def _run_epochs(
        self,
        batches: _Batches,
        training: Ids,
        held_out: Ids,
        on_step: Callable[[int, int], None] | None,
        on_epoch: Callable[[Round], None] | None,
    ) -> bool:
        names = ("loss", "val_loss", "val_accuracy")
        self.history_: dict[str, list[float]] = {name: [] for name in names}
        self.best_epoch_, best, interrupted = 0, None, False
        rng = np.random.default_rng(self.random_state)
        try:
            for epoch in range(1, self.max_epochs + 1):
                loss = self._epoch(batches, rng.permutation(training), epoch, on_step)
                made = self._round(batches, held_out, epoch, loss)
                for name in names:
                    self.history_[name].append(getattr(made, name))
                if made.best:
                    self.best_epoch_, best = epoch, self._model.copy()
                if self.verbose:
                    print(describe(made))
                if on_epoch is not None:
                    on_epoch(made)
                if epoch - self.best_epoch_ >= self.patience:
                    break
        except KeyboardInterrupt:
            interrupted = True
        self.n_iter_ = len(self.history_["loss"])
        if best is not None:
            self._model = best
        return interrupted

    def _epoch(
        self,
        batches: _Batches,
        order: Ids,
        epoch: int,
        on_step: Callable[[int, int], None] | None = None,
    ) -> float:
        size = self.batch_size or min(max(len(order) // 200, 8), 512)
        total = 0.0
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            total += self._model.step(*batches.of(batch), self.learning_rate)
            if on_step is not None:
                on_step(epoch, len(batch))
        return self._checked(total / len(order), epoch)

    def _checked(self, loss: float, epoch: int) -> float:
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss became {loss} in epoch {epoch} with learning_rate={self.learning_rate}; "
                "give a smaller one"
            )
        return loss

    def _round(self, batches: _Batches, held_out: Ids, epoch: int, loss: float) -> Round:
        if not len(held_out):
            return Round(epoch, loss, math.nan, math.nan, best=True)
        losses, right = 0.0, 0
        for part in _parts(held_out):
            bags, targets, _ = batches.of(part)
            scores = self._model.scores(bags)
            losses += float(self._model.losses(scores, targets).sum())
            right += int(self._right(scores, targets).sum())
        val_loss = self._checked(losses / len(held_out), epoch)
        best = val_loss < min(self.history_["val_loss"], default=math.inf)
        return Round(epoch, loss, val_loss, right / len(held_out), best)

    def _right(self, scores: Floats, targets: Floats) -> NDArray[np.bool_]:
        if self.multilabel_:
            return ((scores > 0) == (targets > 0)).all(axis=1)
        return scores.argmax(axis=1) == targets.argmax(axis=1)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train on more texts, one pass, with nothing held out; new words get rows of their own.

        Args:
            X, y, sample_weight: see `fit`.
            classes: all labels there will be; the first call needs them, unless y has them all.

        Raises:
            ValueError: a label that the first call did not name.
            TypeError: see `fit`.
        """
        self._check_parameters()
        texts = list(cells(X, "X"))
        check_lengths(texts, y)
        first = not hasattr(self, "_model")
        if first:
            self._set_classes(y, classes)
            self._features = self._new_features()
            self.history_ = {"loss": [], "val_loss": [], "val_accuracy": []}
            self.n_iter_ = 0
        targets = self._targets(y, len(texts))
        everything = np.arange(len(texts))
        weights = self._weights(targets, sample_weight, everything)
        text = self._text(texts)
        source_rows = self._features.learn(text, everything)
        if first:
            self._model = BagModel.create(
                self._new_table(), targets.shape[1], self.multilabel_, self.random_state
            )
        elif (source_rows < 0).any():
            self._model.table.remap(source_rows, init="zeros")
        batches = _Batches(self._features.encoder(text), targets, weights)
        order = np.random.default_rng((self.random_state, self.n_iter_)).permutation(everything)
        if len(order):
            self.history_["loss"].append(self._epoch(batches, order, self.n_iter_ + 1))
            self.history_["val_loss"].append(math.nan)
            self.history_["val_accuracy"].append(math.nan)
        self.n_iter_ += 1
        self.best_epoch_ = self.n_iter_
        self._name_rows()
        return self

    # ------------------------------------------------------------------ predicting

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label (n,) of each text, or which labels (n, K) it has."""
        scores = self.decision_function(X)
        if self.multilabel_:
            return (scores > 0).astype(np.int64)
        return self.classes_[scores.argmax(axis=1)]

    def predict_proba(self, X: Any) -> Floats:
        """Return the probabilities (n, K) of labels, in the order of `classes_`."""
        scores = self.decision_function(X)
        return self._model.probabilities(scores)

    def decision_function(self, X: Any) -> Floats:
        """Return the scores (n, K) of labels, whose softmax, or sigmoid, is the probabilities."""
        check_is_fitted(self)
        texts = list(cells(X, "X"))
        scores = np.empty((len(texts), len(self.classes_)), np.float32)
        for start in range(0, len(texts), _AT_ONCE):
            part = texts[start : start + _AT_ONCE]
            encoder = self._features.encoder(self._text(part))
            scores[start : start + _AT_ONCE] = self._model.scores(
                encoder.bags(np.arange(len(part)))
            )
        return scores

    def _ranking(self, probabilities: Floats) -> Ids:
        """Return labels (n, K), the most probable first."""
        return np.argsort(-probabilities, axis=1, kind="stable")

    def transform(self, X: Any) -> Floats:
        """Return the weighted sums (n, dim) of the texts' rows, which the linear layer reads."""
        check_is_fitted(self)
        texts = list(cells(X, "X"))
        parts = [np.zeros((0, self.table_.dim), np.float32)]
        for start in range(0, len(texts), _AT_ONCE):
            part = texts[start : start + _AT_ONCE]
            bags = self._features.encoder(self._text(part)).bags(np.arange(len(part)))
            parts.append(self._model.pooled(bags))
        return np.concatenate(parts)

    def explain(self, text: str) -> list[tuple[str, NDArray[np.float32]]]:
        """Return the words of a text, each with its share (K,) of the scores.

        A word's share is that of its own row, of its character n-grams, and of a half of each word
        pair it is in. The model is linear: the shares of all words and the bias, which are the
        scores of "", sum to the scores.

        Raises:
            TypeError: not a string.
        """
        check_is_fitted(self)
        return explain(self._features.encoder(self._text([text])), self._model)

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that have no row of their own."""
        check_is_fitted(self)
        known = self.table_.vocabulary or ()
        words = split_words(text, lowercase=self.lowercase)
        return [word for word in words if word not in known and is_word(word)]

    @property
    def table_(self) -> Table:
        """The rows, with a vocabulary of their words."""
        return self._model.table

    @property
    def vocabulary_(self) -> Vocabulary:
        """The words that have rows."""
        return Vocabulary(self._features.words)

    # ------------------------------------------------------------------ files

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the fitted classifier, with all that `partial_fit` needs, into a folder.

        Labels and parameters must be such as JSON holds.

        Raises:
            OSError: there is no room, or no permission.
        """
        _files.save(self._stored(), folder)

    def save_quantized(self, folder: str | os.PathLike[str], keep: float = 0.6) -> None:
        """Write a smaller classifier, of which nothing can be trained further, into a folder.

        Args:
            folder: made if it is not there.
            keep: part of the rows that stay, those that count most; as 8-bit integers.

        Raises:
            OSError: see `save`.
        """
        _files.save_quantized(self._stored(), folder, keep)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_model")

    def _stored(self) -> _files.Stored:
        check_is_fitted(self)
        parameters = {
            name: value for name, value in self.get_params().items() if name != "init_from"
        }
        history = {
            name: [None if math.isnan(value) else value for value in values]
            for name, values in self.history_.items()
        }
        about = {
            "parameters": parameters,
            "classes": self.classes_.tolist(),
            "history": history,
            "best_epoch": self.best_epoch_,
            "n_iter": self.n_iter_,
        }
        return _files.Stored(self._features, self._model, about)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> TextClassifier:
        """Read what `save` wrote, or `rowwise train` or `rowwise quantize`.

        Raises:
            FileNotFoundError: there is none.
            DamagedFileError: a file is not what was written. It is a ValueError.
            NotADirectoryError: a file.
        """
        if os.path.isfile(folder):
            raise NotADirectoryError(
                f"{os.fspath(folder)!r} is a file; FastTextClassifier.load reads those of fastText"
            )
        return _files.load(folder, cls._of_stored)

    @classmethod
    def _of_stored(cls, stored: _files.Stored) -> TextClassifier:
        about = stored.about
        parameters = about["parameters"]
        if isinstance(parameters["char_ngrams"], list):
            parameters["char_ngrams"] = tuple(parameters["char_ngrams"])
        if isinstance(parameters["class_weight"], dict):  # JSON's keys are strings
            labels = {c if isinstance(c, str) else json.dumps(c): c for c in about["classes"]}
            parameters["class_weight"] = {
                labels.get(key, key): weight for key, weight in parameters["class_weight"].items()
            }
        model = cls(**parameters)
        model._check_parameters()
        model._features, model._model = stored.features, stored.model
        model.classes_, model.multilabel_ = np.array(about["classes"]), stored.model.multilabel
        if model.classes_.shape != (stored.model.head.dim,):
            raise ValueError(
                f"its labels have shape {model.classes_.shape}, for {stored.model.head.dim} outputs"
            )
        model.best_epoch_, model.n_iter_ = about["best_epoch"], about["n_iter"]
        model.history_ = {
            name: [math.nan if value is None else float(value) for value in values]
            for name, values in dict(about["history"]).items()
        }
        return model

    # ------------------------------------------------------------------ labels and parameters

    def _set_classes(self, y: Any, classes: Any = None) -> None:
        y = np.asarray(y, dtype=None)
        self.multilabel_ = y.ndim == 2 and type_of_target(y) == "multilabel-indicator"
        if self.multilabel_:
            self.classes_ = np.arange(y.shape[1]) if classes is None else np.asarray(classes)
            if len(self.classes_) != y.shape[1]:
                raise ValueError(f"y has {y.shape[1]} columns and classes {len(self.classes_)}")
            return
        if y.ndim != 1:
            raise ValueError(f"y has shape {y.shape}; it must be (n,) labels, or (n, K) of 0 and 1")
        self.classes_ = np.unique(y if classes is None else np.asarray(classes))
        if len(self.classes_) < 2:
            raise ValueError(
                f"y has {len(self.classes_)} label{'s' * (len(self.classes_) != 1)}, "
                f"{', '.join(map(repr, self.classes_.tolist())) or 'no text'}; a classifier needs "
                "two or more"
            )

    def _targets(self, y: Any, count: int) -> Floats:
        y = np.asarray(y)
        if self.multilabel_:
            if y.ndim != 2 or y.shape[1] != len(self.classes_):
                raise ValueError(f"y has shape {y.shape}, not (n, {len(self.classes_)})")
            return y.astype(np.float32)
        which = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        unknown = np.flatnonzero(self.classes_[which] != y)
        if len(unknown):
            raise ValueError(
                f"label {y.tolist()[unknown[0]]!r} at position {unknown[0]} is not among the "
                f"classes {self.classes_.tolist()}"
            )
        targets = np.zeros((count, len(self.classes_)), np.float32)
        targets[np.arange(count), which] = 1
        return targets

    def _weights(self, targets: Floats, sample_weight: Any, training: Ids) -> Floats | None:
        weights = None
        if sample_weight is not None:
            weights = np.asarray(sample_weight, np.float32)
            if weights.shape != (len(targets),):
                raise ValueError(f"sample_weight has shape {weights.shape}, not ({len(targets)},)")
        if self.class_weight is not None:
            if self.multilabel_:
                raise ValueError("class_weight is for texts with one label each")
            which = targets.argmax(axis=1)
            present = np.unique(which[training])
            of_class = np.ones(len(self.classes_), np.float32)
            of_class[present] = compute_class_weight(
                self.class_weight, classes=self.classes_[present], y=self.classes_[which[training]]
            )
            weights = of_class[which] * (1 if weights is None else weights)
        return weights

    def _new_features(self) -> Features:
        return Features(
            self.word_ngrams,
            self._char_ngrams(),
            self.min_count,
            self.min_ngram_count,
            self.max_features,
        )

    def _new_table(self) -> Table:
        rows, dim = (
            self._features.rows,
            self.dim or min(16 * math.ceil(len(self.classes_) / 16), 64),
        )
        if self.init_from is None:
            return Table(rows, dim, rules.Adam(), init="zeros")
        dim = self.init_from.dim
        if self.dim not in (None, dim):
            raise ValueError(f"dim={self.dim}, and the vectors have {dim} numbers; leave dim out")
        values = np.zeros((rows, dim), np.float32)
        found, _, _ = rows_for(self.init_from, self._features.words, "zeros")
        values[: len(found)] = found
        return Table(rows, dim, rules.Adam(), init=lambda _: values)

    def _name_rows(self) -> None:
        self._model.table.vocabulary = self.vocabulary_

    def _text(self, texts: Iterable[str]) -> Text:
        return Text.of(Words.of(texts, self.lowercase), self._char_ngrams())

    def _char_ngrams(self) -> tuple[int, int]:
        if isinstance(self.char_ngrams, int):
            return (self.char_ngrams, self.char_ngrams) if self.char_ngrams else (1, 0)
        return self.char_ngrams

    def _check_parameters(self) -> None:
        for name, least in (
            ("word_ngrams", 1),
            ("min_count", 1),
            ("min_ngram_count", 1),
            ("max_features", 1),
            ("max_epochs", 1),
            ("patience", 1),
            ("dim", 1),
            ("batch_size", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} is below {least}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} must be at least 0 and below 1"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate} is not above 0")
        shortest, longest = self._char_ngrams()
        if self.char_ngrams and not 2 <= shortest <= longest:
            raise ValueError(
                f"char_ngrams={self.char_ngrams!r} is neither 0, a length of 2 or more, nor "
                "(shortest, longest)"
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.classifier_tags.multi_label = True
        return tags


def check_lengths(texts: list[str], y: Any) -> None:
    """Raise ValueError if there are not as many labels as texts."""
    if len(texts) != len(y):
        raise ValueError(f"there are {len(texts)} texts and {len(y)} labels; give one label a text")


class _Batches:
    """Bags, targets and weights of texts; bags are kept if they are few enough."""

    def __init__(self, encoder: Encoder, targets: Floats, weights: Floats | None) -> None:
        self.encoder, self.targets, self.weights = encoder, targets, weights
        words, offsets = encoder.text.words, encoder.text.lexicon.offsets
        features = int((np.diff(offsets)[words.indices] + 2).sum())
        self.kept = self._all() if features <= _KEPT else None

    def of(self, texts: Ids) -> tuple[Bags, Floats, Floats | None]:
        """Return the bags of texts, their targets and weights."""
        weights = None if self.weights is None else self.weights[texts]
        bags = self.encoder.bags(texts) if self.kept is None else _select(self.kept, texts)
        return bags, self.targets[texts], weights

    def _all(self) -> Bags:
        parts = [self.encoder.bags(part) for part in _parts(np.arange(len(self.targets)))]
        ids = [part.ids.astype(np.int32) for part in parts]
        lengths = [np.diff(part.offsets) for part in parts]
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        return Bags(np.concatenate(ids), offsets, np.concatenate([part.weights for part in parts]))


def _select(bags: Bags, which: Ids) -> Bags:
    assert bags.weights is not None
    lengths = bags.offsets[which + 1] - bags.offsets[which]
    inside = ranges(bags.offsets[which], lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Bags(bags.ids[inside].astype(np.int64), offsets, bags.weights[inside])


def _parts(texts: Ids) -> Sequence[Ids]:
    return np.split(texts, range(_AT_ONCE, len(texts), _AT_ONCE))


def split(targets: Floats, part: float, seed: int) -> tuple[Ids, Ids]:
    """Return indices to train on and indices held out, ascending.

    Held out is a part of each set of texts that have the same labels, but never all of it, and at
    least one text in all.
    """
    rng = np.random.default_rng(seed)
    count = len(targets)
    if not part or count < 2:
        return np.arange(count), np.zeros(0, np.int64)
    held_out: list[int] = []
    _, kinds = np.unique(targets, axis=0, return_inverse=True)
    for kind in range(int(kinds.max()) + 1):
        members = rng.permutation(np.flatnonzero(kinds == kind))
        held_out.extend(members[: min(round(part * len(members)), len(members) - 1)].tolist())
    if not held_out:
        held_out.append(int(rng.integers(count)))
    chosen = np.zeros(count, dtype=bool)
    chosen[held_out] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def explain(encoder: Encoder, model: BagModel) -> list[tuple[str, Floats]]:
    """Return the words of an encoder's only text, each with its share (K,) of the scores."""
    words = encoder.text.words
    bags = encoder.bags(np.zeros(1, np.int64))
    assert bags.weights is not None
    values = model.table.lookup(bags.ids) @ model.head.to_numpy()[:-1] * bags.weights[:, None]
    rows, positions, parts = encoder.occurrences()
    # A row's share goes to the words it occurs at, in equal parts.
    index = np.searchsorted(bags.ids, rows)
    whole = np.bincount(index, parts, len(bags.ids))
    shares = np.zeros((len(words.indices), values.shape[1]))
    np.add.at(shares, positions, values[index] * (parts / whole[index])[:, None])
    names = [words.distinct[i] for i in words.indices]
    return list(zip(names, shares.astype(np.float32), strict=True))


def describe(made: Round) -> str:
    """Return a line about an epoch."""
    held = (
        ""
        if math.isnan(made.val_loss)
        else f"  held out: loss {made.val_loss:.4f}  accuracy {made.val_accuracy:.3f}"
    )
    return f"epoch {made.epoch:>3}  loss {made.loss:.4f}{held}"
