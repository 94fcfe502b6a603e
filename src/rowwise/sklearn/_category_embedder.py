"""`CategoryEmbedder`: trained vectors of categories, by scikit-learn's conventions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from rowwise._untrained import Untrained, check_untrained
from rowwise.errors import UntrainedError
from rowwise.sklearn._category_model import CategoryModel, Ids, Loss
from rowwise.sklearn._losses import Floats
from rowwise.table import Table

_TARGET_TYPES = ("auto", "continuous", "multiclass")
_AT_ONCE = 1 << 14  # examples
_LEAST_GAIN = 1e-4  # of the held-out loss; with less, a model that is right goes on to be surer


class CategoryEmbedder(TransformerMixin, BaseEstimator):
    """Turn each categorical column into the rows of a table, trained to predict y.

    Every category of a column has a row. An example's rows, side by side, go through a hidden
    layer to the prediction (Guo and Berkhahn, Entity Embeddings of Categorical Variables, 2016).
    Rows and layers are trained by Adam, exactly and at the cost of each batch. A part of the
    examples is held out, and the epoch with the lowest loss on it is kept. `transform` returns the
    rows alone, for another estimator of a pipeline; categories with similar effects have similar
    rows.

    Numbers, strings, or both in a column are categories; None, NaN and the like are one more.
    All columns are taken for categorical: choose them with a `ColumnTransformer`.

    Rows of categories with few examples remember the y of those examples. An estimator behind them
    must not learn to trust that, so `fit_transform`, which pipelines call, cross-fits as
    scikit-learn's `TargetEncoder` does: an example's rows come from a training without it. Only the
    number of epochs is chosen with all examples.

    So `fit_transform` trains `cv` times more than `fit`, each time for `best_epoch_` epochs: six
    trainings of up to 100 epochs by default. `cv=1` and a smaller `max_epochs` make it cheaper.

    Args:
        dim: length of a row, for all columns, or one number a column; the fourth root of the number
            of the column's categories, and at least 2, unless given.
        hidden: width of the hidden layer.
        target_type: what y is: "multiclass" (labels), "continuous" (numbers; each column of y is
            brought to mean 0 and deviation 1), or "auto", which takes whole numbers and strings for
            labels. Several columns of 0 and 1 are a label each.
        untrained: what a category gives that was not in the examples trained on: "mean" (of its
            column's rows), "zeros", "as-is" (a random row, the same for all of them), or "error".
        max_epochs: most passes over the examples.
        patience: training ends after so many epochs that did not lower the held-out loss by 0.0001.
        validation_fraction: part of the examples held out; 0: none, and all epochs are made.
        learning_rate: Adam's.
        batch_size: examples per step; 16 to 1024, growing with their number, unless given.
        cv: number of parts of the examples, each encoded by a training on the others, in
            `fit_transform`; 1: no such trainings, and `fit_transform` is `fit` and `transform`.
        random_state: seed of the split, the order of examples and the start.

    Attributes:
        categories_: list of each column's categories, in the order of the rows; None stands for
            missing values.
        tables_: list of each column's `rowwise.Table`; the last row is of categories not seen.
        history_: dict of lists, one value per epoch: loss, val_loss.
        best_epoch_: the epoch whose model is kept, counted from 1.
        n_iter_: number of epochs made.
        n_features_in_, feature_names_in_: see scikit-learn.

    Example:
        >>> drinks = np.array([["tea"], ["coffee"], ["beer"], ["wine"]] * 25)
        >>> embedder = CategoryEmbedder(dim=2).fit(drinks, [0, 0, 1, 1] * 25)
        >>> embedder.transform([["tea"], ["cider"]]).shape
        (2, 2)
        >>> embedder.get_feature_names_out().tolist()
        ['x0_0', 'x0_1']
    """

    def __init__(
        self,
        *,
        dim: int | list[int] | None = None,
        hidden: int = 128,
        target_type: str = "auto",
        untrained: Untrained = "mean",
        max_epochs: int = 100,
        patience: int = 5,
        validation_fraction: float = 0.1,
        learning_rate: float = 0.002,
        batch_size: int | None = None,
        cv: int = 5,
        random_state: int = 0,
    ) -> None:
        self.dim = dim
        self.hidden = hidden
        self.target_type = target_type
        self.untrained = untrained
        self.max_epochs = max_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.cv = cv
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Train the rows of categories.

        Args:
            X: (n, columns) of NumPy, pandas or polars.
            y: (n,) labels or numbers, or several columns of either.

        Raises:
            ValueError: fewer than two examples, y of another length or with one value alone, a
                parameter out of its bounds.
        """
        self._fit(X, y)
        return self

    def fit_transform(self, X: Any, y: Any) -> Floats:
        """Train the rows of categories, and return rows (n, sum of dims) of X.

        An example's rows are not those that `transform` returns, but of a training on the other
        parts of X and y, with the same start. Its y has a part only in the number of epochs, which
        is `best_epoch_` for all.

        Args:
            X, y: see `fit`.

        Raises:
            ValueError: see `fit`.
        """
        ids, targets = self._fit(X, y)
        folds = min(self.cv, len(ids))
        if folds < 2:
            return self.transform(X)
        rows = np.empty((len(ids), sum(table.dim for table in self.tables_)), np.float32)
        order = np.random.default_rng(self.random_state).permutation(len(ids))
        for part in np.array_split(order, folds):
            others = np.setdiff1d(order, part)
            model = self._new_model(targets, self._model.loss)
            scaled = _scaled(targets, self._model.loss, others)
            for _ in self._epochs(model, ids, scaled, others, self.best_epoch_):
                pass
            untrained: Untrained = "mean" if self.untrained == "error" else self.untrained
            rows[part] = model.rows(ids[part], untrained)
        return rows

    def _fit(self, X: Any, y: Any) -> tuple[Ids, NDArray[np.float64]]:
        """Fit, and return the rows (n, columns) of examples' categories and `_targets`."""
        self._check_parameters()
        self.__dict__.pop("_model", None)  # if this fails, nothing counts as fitted
        X, y = validate_data(
            self, X, y, dtype=None, ensure_all_finite=False, multi_output=True, ensure_min_samples=2
        )
        targets, loss = self._targets(y)
        columns = [_values(X[:, j]) for j in range(X.shape[1])]
        self.categories_ = [_distinct(values) for values in columns]
        self._index = [{value: i for i, value in enumerate(c)} for c in self.categories_]
        ids = self._ids(columns)
        scaled = _scaled(targets, loss, np.arange(len(ids)))
        self._model = self._best_of_epochs(self._new_model(targets, loss), ids, scaled)
        return ids, targets

    def transform(self, X: Any) -> Floats:
        """Return the rows (n, sum of dims) of categories, column after column.

        Raises:
            UntrainedError: a category that was not trained on, and untrained="error".
            ValueError: another number of columns, or other names, than `fit` was given.
        """
        check_is_fitted(self)
        check_untrained(self.untrained)
        X = validate_data(self, X, dtype=None, ensure_all_finite=False, reset=False)
        columns = [_values(X[:, j]) for j in range(X.shape[1])]
        ids = self._ids(columns)
        parts = []
        for j, table in enumerate(self.tables_):
            if self.untrained == "error":
                self._refuse_untrained(j, table, ids[:, j], columns[j])
            parts.append(table.lookup(ids[:, j], untrained=self.untrained))
        return np.concatenate(parts, axis=1)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Return the names of `transform`'s columns: that of the column, _ and a number.

        Raises:
            ValueError: input_features that are not the columns' names.
        """
        check_is_fitted(self)
        own = getattr(self, "feature_names_in_", None)
        names = own if input_features is None else np.asarray(input_features, dtype=object)
        if names is None:
            names = [f"x{j}" for j in range(self.n_features_in_)]
        elif own is not None and not np.array_equal(names, own):
            raise ValueError("input_features is not equal to feature_names_in_")
        elif len(names) != self.n_features_in_:
            raise ValueError(
                "input_features should have length equal to number of features "
                f"({self.n_features_in_}), got {len(names)}"
            )
        pairs = zip(names, self.tables_, strict=True)
        return np.array([f"{name}_{i}" for name, table in pairs for i in range(table.dim)], object)

    @property
    def tables_(self) -> list[Table]:
        """Each column's table."""
        return self._model.tables

    # ------------------------------------------------------------------ training

    def _best_of_epochs(self, model: CategoryModel, ids: Ids, targets: Floats) -> CategoryModel:
        """Train a model, and return it as it was after the epoch with the lowest held-out loss."""
        training, held_out = self._split(targets)
        self.history_: dict[str, list[float]] = {"loss": [], "val_loss": []}
        self.best_epoch_, best, lowest = 0, model, math.inf
        gained, bar = 0, math.inf  # the last epoch that lowered the loss enough, and to what
        epochs = self._epochs(model, ids, targets, training, self.max_epochs)
        for epoch, total in enumerate(epochs, 1):
            self.history_["loss"].append(self._checked(total / len(training), epoch))
            loss = _mean_loss(model, ids[held_out], targets[held_out])
            self.history_["val_loss"].append(loss)
            if not len(held_out) or self._checked(loss, epoch) < lowest:
                self.best_epoch_, lowest = epoch, loss
                best = model.copy() if len(held_out) else model
            if not len(held_out) or loss < bar - _LEAST_GAIN:
                gained, bar = epoch, loss
            if epoch - gained >= self.patience:
                break
        self.n_iter_ = len(self.history_["loss"])
        return best

    def _new_model(self, targets: NDArray[Any], loss: Loss) -> CategoryModel:
        sizes = list(zip((len(c) + 1 for c in self.categories_), self._dims(), strict=True))
        return CategoryModel.create(sizes, self.hidden, targets.shape[1], loss, self.random_state)

    def _epochs(
        self, model: CategoryModel, ids: Ids, targets: Floats, training: Ids, count: int
    ) -> Iterator[float]:
        """Make epochs; yield the sum of the examples' losses in each."""
        rng = np.random.default_rng(self.random_state)
        size = self.batch_size or min(max(len(training) // 100, 16), 1024)
        for _ in range(count):
            order, total = rng.permutation(training), 0.0
            for start in range(0, len(order), size):
                batch = order[start : start + size]
                total += model.step(ids[batch], targets[batch], self.learning_rate)
            yield total

    def _checked(self, loss: float, epoch: int) -> float:
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss became {loss} in epoch {epoch} with learning_rate={self.learning_rate}; "
                "give a smaller one"
            )
        return loss

    def _split(self, targets: Floats) -> tuple[Ids, Ids]:
        """Return the examples to train on and those held out: one at least, if any."""
        order = np.random.default_rng(self.random_state).permutation(len(targets))
        count = 0
        if self.validation_fraction:
            count = min(max(round(self.validation_fraction * len(order)), 1), len(order) - 1)
        return np.sort(order[count:]), np.sort(order[:count])

    def _targets(self, y: Any) -> tuple[NDArray[np.float64], Loss]:
        """Return the targets (n, K) as they are given, or 0 and 1 for labels, and their loss."""
        kind = type_of_target(y, input_name="y", raise_unknown=True)
        if self.target_type == "continuous" or (
            self.target_type == "auto" and kind.startswith("continuous")
        ):
            return np.asarray(y, np.float64).reshape(len(y), -1), "squared"
        if kind == "multilabel-indicator":
            return np.asarray(y, np.float64), "sigmoid"
        if np.ndim(y) != 1 or kind not in ("binary", "multiclass"):
            raise ValueError(
                f"y is {kind}, which target_type={self.target_type!r} does not take; give one "
                "label an example, or target_type='continuous'"
            )
        labels, which = np.unique(y, return_inverse=True)
        if len(labels) < 2:
            raise ValueError(
                f"y has one label alone, {labels.tolist()[0]!r}; two or more are needed"
            )
        return np.eye(len(labels))[which], "softmax"

    # ------------------------------------------------------------------ categories

    def _ids(self, columns: list[list[Any]]) -> Ids:
        """Return the row (n, columns) of each category; the last row for those not seen."""
        ids = np.empty((len(columns[0]), len(columns)), np.int64)
        for j, (values, index) in enumerate(zip(columns, self._index, strict=True)):
            unseen = len(index)
            ids[:, j] = [index.get(value, unseen) for value in values]
        return ids

    def _refuse_untrained(self, column: int, table: Table, ids: Ids, values: list[Any]) -> None:
        untrained = np.flatnonzero(~table.is_trained(ids))
        if len(untrained):
            names = getattr(self, "feature_names_in_", [f"x{j}" for j in range(len(self.tables_))])
            raise UntrainedError(
                f"category {values[untrained[0]]!r} of column {names[column]!r} at position "
                f"{untrained[0]} was not trained on; untrained='mean', 'zeros' or 'as-is' gives "
                "something for it"
            )

    def _dims(self) -> list[int]:
        if self.dim is None:
            return [max(math.ceil(len(c) ** 0.25), 2) for c in self.categories_]
        count = len(self.categories_)
        dims = [self.dim] * count if isinstance(self.dim, int) else list(self.dim)
        if len(dims) != count:
            raise ValueError(f"dim={self.dim} has {len(dims)} numbers for {count} columns")
        return dims

    def _check_parameters(self) -> None:
        check_untrained(self.untrained)
        dims = [1] if self.dim is None else [self.dim] if isinstance(self.dim, int) else self.dim
        if min(dims, default=1) < 1:
            raise ValueError(f"dim={self.dim} is below 1")
        for name in ("hidden", "max_epochs", "patience", "batch_size", "cv"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is below 1")
        if self.target_type not in _TARGET_TYPES:
            raise ValueError(
                f"target_type={self.target_type!r} is not one of "
                f"{', '.join(map(repr, _TARGET_TYPES))}"
            )
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} must be at least 0 and below 1"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate} is not above 0")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_model")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _scaled(targets: NDArray[np.float64], loss: Loss, examples: Ids) -> Floats:
    """Return targets (n, K) for a loss: numbers with mean 0 and deviation 1 among examples."""
    if loss == "squared":
        mean, deviation = targets[examples].mean(axis=0), targets[examples].std(axis=0)
        targets = (targets - mean) / np.where(deviation, deviation, 1)
    return targets.astype(np.float32)


def _mean_loss(model: CategoryModel, ids: Ids, targets: Floats) -> float:
    """Return the mean loss of examples, NaN if there are none."""
    total = 0.0
    for start in range(0, len(ids), _AT_ONCE):
        scores = model.scores(ids[start : start + _AT_ONCE])
        total += float(model.losses(scores, targets[start : start + _AT_ONCE]).sum())
    return total / len(ids) if len(ids) else math.nan


def _values(column: NDArray[Any]) -> list[Any]:
    """Return the values of a column as Python objects; None for missing ones."""
    return [None if _is_missing(value) else value for value in column.tolist()]


def _is_missing(value: Any) -> bool:
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # pandas.NA is neither equal nor unequal
        return True


def _distinct(values: list[Any]) -> list[Any]:
    """Return the distinct values: numbers ascending, then strings, others as they appear, None."""
    found = dict.fromkeys(values)
    missing = None in found
    found.pop(None, None)
    try:
        ordered = sorted(found)
    except TypeError:  # numbers and strings have no order between them
        ordered = sorted(found, key=lambda value: (isinstance(value, str), str(value)))
    return [*ordered, None] if missing else ordered
