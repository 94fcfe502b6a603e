"""`TextClassifier`: labels of texts, by scikit-learn's conventions."""

from __future__ import annotations

import copy
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from rowwise.sklearn import _files
from rowwise.sklearn._features import Features, Reading
from rowwise.sklearn._labels import Ids, Labels, check_lengths, split
from rowwise.sklearn._losses import Floats
from rowwise.sklearn._model import BagModel
from rowwise.sklearn._recipe import KEPT_CASE, MORE_NGRAMS, Examples, Recipe
from rowwise.sklearn._training import AT_ONCE, Batches, OnEpoch, OnStep, Schedule, Training
from rowwise.sklearn._words import checked_texts, is_word, split_words
from rowwise.store import Bags
from rowwise.table import Table
from rowwise.text import Vocabulary
from rowwise.text._columns import cells
from rowwise.vectors import Vectors

_REFITTED = 2_000_000  # characters of texts that are trained on again as a whole, at most


class TextClassifier(ClassifierMixin, BaseEstimator):
    """Linear classifier of texts on trained rows of words, word n-grams and character n-grams.

    A text of any length is the weighted sum of the rows of its features (`_features.py` has the
    weights). A linear layer and a softmax make probabilities of labels of it; a sigmoid each, if
    texts have several labels. Rows and layer are trained by Adam, exactly
    and at the cost of each batch, on the cross-entropy. A part of the texts is held out, and the
    epoch with the lowest loss on it is kept; texts that are few are then trained on again, held-out
    ones too. Words are split as Unicode Standard Annex 29 says, after normalization (NFKC); in
    scripts written without spaces every character is a word.

    The idea of rows for n-grams is fastText's (Joulin et al., Bag of Tricks for Efficient Text
    Classification, 2017); here each n-gram that training saw has a row of its own.

    Args:
        dim: length of a row; 16 to 64, growing with the number of labels, unless given.
        word_ngrams: longest n-gram of words; 1: none.
        char_ngrams: length of the n-grams of characters within words, or (shortest, longest); 0:
            none; "auto": 4, or 2 to 5 if that pays.
        min_count: fewest training texts that a word must be in to have a row.
        min_ngram_count: the same for n-grams.
        max_features: most rows; the features of most texts have them.
        lowercase: whether texts are case folded; "auto": unless keeping case pays. What pays lowers
            the loss by more than its standard error, in a cross-validation in two folds on some of
            the texts that are not held out, of 300,000 characters at most. With fewer than 100 of
            them or none held out, and in `partial_fit`, "auto" is True and 4.
        max_epochs: most passes over the training texts.
        patience: training ends after so many epochs without a lower held-out loss.
        validation_fraction: part of the texts held out, of each label alike; 0: none, and all
            epochs are made.
        learning_rate: Adam's.
        batch_size: texts per step; 8 to 512, growing with the number of texts, unless given.
        class_weight: a weight per label in the loss, as a dict, or "balanced": in inverse
            proportion to the labels' frequencies; None: 1.
        init_from: `rowwise.Vectors` that rows of words start from. Their words have rows too.
        refit: whether the epochs up to the best are made again on all texts, held-out ones
            included, if they have 2 million characters or less. `history_` is that of before.
        random_state: seed of the split, the order of texts and the layer's start.
        verbose: 1 prints a line per epoch.

    Attributes:
        classes_: (K,) labels.
        lowercase_, char_ngrams_: what was chosen; (shortest, longest), (1, 0) for none.
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
        char_ngrams: int | tuple[int, int] | Literal["auto"] = "auto",
        min_count: int = 1,
        min_ngram_count: int = 1,
        max_features: int = 1_000_000,
        lowercase: bool | Literal["auto"] = "auto",
        max_epochs: int = 100,
        patience: int = 3,
        validation_fraction: float = 0.1,
        learning_rate: float = 0.001,
        batch_size: int | None = None,
        class_weight: dict[Any, float] | str | None = None,
        init_from: Vectors | None = None,
        refit: bool = True,
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
        self.refit = refit
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------ training

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on texts and their labels.

        An interrupt (Ctrl-C) ends training with a warning; the best epoch so far is kept. A fit
        that ends in an error, or is interrupted before the first epoch ends, changes nothing.

        Args:
            X: n texts; a list or a column (NumPy, pandas, polars, pyarrow).
            y: (n,) labels, or (n, K) of 0 and 1: which of K labels each text has.
            sample_weight: (n,) weights of texts in the loss.

        Raises:
            ValueError: fewer than two labels, not as many labels as texts, texts without words, a
                parameter out of its bounds.
            TypeError: a text that is not a string, or a label that is bytes.
        """
        interrupted = self._train(X, y, sample_weight)
        try:
            if not interrupted:
                self._refit(X, y, sample_weight)
        except KeyboardInterrupt:
            interrupted = True
        if interrupted:
            warnings.warn("training was interrupted; the best epoch so far is kept", stacklevel=2)
        return self

    def _train(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        validation: tuple[Any, Any] | None = None,
        on_step: OnStep | None = None,
        on_epoch: OnEpoch | None = None,
        on_try: Callable[[str], None] | None = None,
    ) -> bool:
        """Train on what is not held out, and return whether an interrupt ended it.

        Args:
            X, y, sample_weight: see `fit`.
            validation: held-out texts and labels, in place of a part of X.
            on_step, on_epoch: see `Training.run`.
            on_try: see `Recipe.choose`.
        """
        self._check_parameters()
        texts = list(checked_texts(cells(X, "X")))
        check_lengths(texts, y)
        labels = Labels.of(y)
        targets = labels.targets(y, len(texts))
        if validation is None:
            training, held_out = split(targets, self.validation_fraction, self.random_state)
        else:
            more = list(checked_texts(cells(validation[0], "validation texts")))
            check_lengths(more, validation[1])
            targets = np.concatenate([targets, labels.targets(validation[1], len(more))])
            training = np.arange(len(texts))
            held_out = np.arange(len(texts), len(texts) + len(more))
            texts += more
        weights = labels.weights(targets, self.class_weight, sample_weight, training)
        examples = Examples(texts, targets, weights, training, held_out)
        if self.verbose:
            on_epoch, on_try = on_epoch or print, on_try or print
        recipe, reading = self._recipe(labels.multilabel), self._first_reading()
        if len(held_out):
            reading = recipe.choose(reading, self._changes(), examples, on_try)
        made = recipe.train(reading, examples, on_step, on_epoch)
        names = ("loss", "val_loss", "val_accuracy")
        self._become(
            labels,
            reading,
            made.features,
            made.model,
            history_={name: [getattr(x, name) for x in made.rounds] for name in names},
            best_epoch_=made.best,
            n_iter_=len(made.rounds),
            training_=training,
            held_out_=held_out,
        )
        return made.interrupted

    def _refit(self, X: Any, y: Any, sample_weight: Any = None) -> bool:
        """Make the epochs up to the best on all texts, if they are few; return whether it did.

        Raises:
            KeyboardInterrupt: the model stays as it is.
        """
        texts = list(cells(X, "X"))
        held_out = len(self.held_out_)
        if not (self.refit and self.best_epoch_ and held_out):
            return False
        if held_out + len(self.training_) > len(texts) or sum(map(len, texts)) > _REFITTED:
            return False
        chosen = {
            "lowercase": self.lowercase_,
            "char_ngrams": self.char_ngrams_,
            "max_epochs": self.best_epoch_,
            "validation_fraction": 0,
            "verbose": 0,
        }
        whole = type(self)(**self.get_params() | chosen)
        if whole._train(texts, y, sample_weight):
            raise KeyboardInterrupt
        self.__dict__.update(_features=whole._features, _model=whole._model)
        return True

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train on more texts, one pass, with nothing held out; new words get rows of their own.

        Args:
            X, y, sample_weight: see `fit`.
            classes: all labels there will be; the first call needs them, unless y has them all.

        An error, or an interrupt, leaves the model as it was, or with some steps on the texts made.

        Raises:
            ValueError: a label that the first call did not name.
            TypeError: see `fit`.
        """
        self._check_parameters()
        texts = list(cells(X, "X"))
        check_lengths(texts, y)
        first = not hasattr(self, "_model")
        if first:
            labels, reading = Labels.of(y, classes), self._first_reading()
            features = self._recipe(labels.multilabel).features(reading)
        else:
            labels, reading = Labels(self.classes_, self.multilabel_), self._reading
            features = self._features.copy()
        targets = labels.targets(y, len(texts))
        everything = np.arange(len(texts))
        weights = labels.weights(targets, self.class_weight, sample_weight, everything)
        text = reading.text(texts)
        source_rows = features.learn(text, everything)
        if first:
            history: dict[str, list[float]] = {"loss": [], "val_loss": [], "val_accuracy": []}
            model = self._recipe(labels.multilabel).model(features, targets.shape[1])
            more = {"history_": history, "best_epoch_": 0, "n_iter_": 0}
        else:
            model, more = self._model.remapped(source_rows), {}
        self._become(labels, reading, features, model, **more)
        batches = Batches(self._features.encoder(text), targets, weights)
        order = np.random.default_rng((self.random_state, self.n_iter_)).permutation(everything)
        if len(order):
            training = Training(self._features, self._model)
            loss = training.epoch(
                batches, order, self.n_iter_ + 1, self._recipe(self.multilabel_).schedule
            )
            self.history_["loss"].append(loss)
            self.history_["val_loss"].append(math.nan)
            self.history_["val_accuracy"].append(math.nan)
        self.n_iter_ += 1
        self.best_epoch_ = self.n_iter_
        return self

    def _become(
        self, labels: Labels, reading: Reading, features: Features, model: BagModel, **more: Any
    ) -> None:
        """Take what was fitted, all of it or nothing: interrupts and threads see no part of it."""
        model.table.vocabulary = Vocabulary(features.words)
        self.__dict__.update(
            classes_=labels.classes,
            multilabel_=labels.multilabel,
            _reading=reading,
            _features=features,
            _model=model,
            **more,
        )

    # ------------------------------------------------------------------ predicting

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label (n,) of each text, or which labels (n, K) it has."""
        fitted = copy.copy(self)  # another thread may fit it meanwhile
        scores = fitted.decision_function(X)
        if fitted.multilabel_:
            return (scores > 0).astype(np.int64)
        return fitted.classes_[scores.argmax(axis=1)]

    def predict_proba(self, X: Any) -> Floats:
        """Return the probabilities (n, K) of labels, in the order of `classes_`."""
        fitted = copy.copy(self)
        return fitted._model.probabilities(fitted.decision_function(X))

    def decision_function(self, X: Any) -> Floats:
        """Return the scores (n, K) of labels, whose softmax, or sigmoid, is the probabilities."""
        check_is_fitted(self)
        fitted, texts = copy.copy(self), list(cells(X, "X"))
        none = np.zeros((0, len(fitted.classes_)), np.float32)
        return np.concatenate([none, *map(fitted._model.scores, fitted._bags(texts))])

    def _ranking(self, probabilities: Floats) -> Ids:
        """Return labels (n, K), the most probable first."""
        return np.argsort(-probabilities, axis=1, kind="stable")

    def transform(self, X: Any) -> Floats:
        """Return the weighted sums (n, dim) of the texts' rows, which the linear layer reads."""
        check_is_fitted(self)
        fitted, texts = copy.copy(self), list(cells(X, "X"))
        none = np.zeros((0, fitted.table_.dim), np.float32)
        return np.concatenate([none, *map(fitted._model.pooled, fitted._bags(texts))])

    def _bags(self, texts: list[str]) -> Iterator[Bags]:
        """Yield the texts as bags of rows, some texts at a time."""
        for start in range(0, len(texts), AT_ONCE):
            part = texts[start : start + AT_ONCE]
            yield self._features.encoder(self._reading.text(part)).bags(np.arange(len(part)))

    def explain(self, text: str) -> list[tuple[str, NDArray[np.float32]]]:
        """Return the words of a text, each with its share (K,) of the scores.

        A word's share is that of its own row, of its character n-grams, and of a half of each word
        pair it is in. The model is linear: the shares of all words and the bias, which are the
        scores of "", sum to the scores.

        Raises:
            TypeError: not a string.
        """
        check_is_fitted(self)
        fitted = copy.copy(self)
        return fitted._model.explain(fitted._features.encoder(fitted._reading.text([text])))

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that have no row of their own."""
        check_is_fitted(self)
        known = self.table_.vocabulary or ()
        words = split_words(text, lowercase=self.lowercase_)
        return [word for word in words if word not in known and is_word(word)]

    @property
    def table_(self) -> Table:
        """The rows, with a vocabulary of their words."""
        return self._model.table

    @property
    def vocabulary_(self) -> Vocabulary:
        """The words that have rows."""
        return Vocabulary(self._features.words)

    @property
    def lowercase_(self) -> bool:
        """Whether texts are case folded."""
        return self._reading.lowercase

    @property
    def char_ngrams_(self) -> tuple[int, int]:
        """Shortest and longest n-gram of characters; (1, 0): none."""
        return self._reading.char_ngrams

    # ------------------------------------------------------------------ files

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the fitted classifier, with all that `partial_fit` needs, into a folder.

        Labels and parameters must be such as JSON holds.

        Raises:
            OSError: there is no room, or no permission.
        """
        _files.save(copy.copy(self)._stored(), folder)

    def save_quantized(self, folder: str | os.PathLike[str], keep: float = 0.6) -> None:
        """Write a smaller classifier, of which nothing can be trained further, into a folder.

        Args:
            folder: made if it is not there.
            keep: part of the rows that stay, those that count most; as 8-bit integers.

        Raises:
            OSError: see `save`.
        """
        _files.save_quantized(copy.copy(self)._stored(), folder, keep)

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
            "lowercase": self.lowercase_,
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
        model._reading = Reading(bool(about["lowercase"]), stored.features.char_ngrams)
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

    def _first_reading(self) -> Reading:
        reading = Reading()
        if self.lowercase != "auto":
            reading = replace(reading, lowercase=bool(self.lowercase))
        if self.char_ngrams != "auto":
            reading = replace(reading, char_ngrams=self._lengths())
        return reading

    def _changes(self) -> list[dict[str, Any]]:
        """Return what may be changed in the first reading."""
        changes = ((self.lowercase, KEPT_CASE), (self.char_ngrams, MORE_NGRAMS))
        return [change for given, change in changes if given == "auto"]

    def _recipe(self, multilabel: bool) -> Recipe:
        return Recipe(
            self.word_ngrams,
            self.min_count,
            self.min_ngram_count,
            self.max_features,
            self.dim,
            self.init_from,
            multilabel,
            Schedule(
                self.max_epochs,
                self.patience,
                self.learning_rate,
                self.batch_size,
                self.random_state,
            ),
        )

    def _lengths(self) -> tuple[int, int]:
        given = self.char_ngrams
        if isinstance(given, tuple):
            return given
        return (int(given), int(given)) if given else (1, 0)

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
        if self.lowercase not in (True, False, "auto"):
            raise ValueError(f"lowercase={self.lowercase!r} is neither True, False nor 'auto'")
        if not self._are_lengths():
            raise ValueError(
                f"char_ngrams={self.char_ngrams!r} is neither 0, a length of 2 or more, "
                "(shortest, longest) nor 'auto'"
            )

    def _are_lengths(self) -> bool:
        if isinstance(self.char_ngrams, str):
            return self.char_ngrams == "auto"
        shortest, longest = self._lengths()
        return (shortest, longest) == (1, 0) or 2 <= shortest <= longest

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.classifier_tags.multi_label = True
        return tags
