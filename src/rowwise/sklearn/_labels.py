"""Labels of texts: as targets of a loss, as weights in it, and split for holding some out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import type_of_target

from rowwise.sklearn._losses import Floats

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Labels:
    """The labels that a classifier tells apart.

    Attributes:
        classes: (K,) labels.
        multilabel: whether a text may have any number of them.
    """

    classes: NDArray[Any]
    multilabel: bool

    @classmethod
    def of(cls, y: Any, classes: Any = None) -> Labels:
        """Find the labels in (n,) labels, or in (n, K) of 0 and 1.

        Raises:
            ValueError: they are neither, fewer than two, not as many as `classes`, or one is None
                or NaN.
            TypeError: bytes.
        """
        y = np.asarray(y, dtype=None)
        if y.ndim == 2 and type_of_target(y) == "multilabel-indicator":
            found = np.arange(y.shape[1]) if classes is None else np.asarray(classes)
            if len(found) != y.shape[1]:
                raise ValueError(f"y has {y.shape[1]} columns and classes {len(found)}")
            return cls(found, multilabel=True)
        if y.ndim != 1:
            raise ValueError(f"y has shape {y.shape}; it must be (n,) labels, or (n, K) of 0 and 1")
        given = y if classes is None else np.asarray(classes)
        _check_values(given)
        found = np.unique(given)
        if len(found) < 2:
            raise ValueError(
                f"y has {len(found)} label{'s' * (len(found) != 1)}, "
                f"{', '.join(map(repr, found.tolist())) or 'no text'}; a classifier needs "
                "two or more"
            )
        return cls(found, multilabel=False)

    def targets(self, y: Any, count: int) -> Floats:
        """Return the probabilities (count, K) that texts' labels stand for: 0 or 1.

        Raises:
            ValueError: a label that is not among `classes`; of several labels, a number other than
                0 and 1.
        """
        y = np.asarray(y)
        if self.multilabel:
            if y.ndim != 2 or y.shape[1] != len(self.classes):
                raise ValueError(f"y has shape {y.shape}, not (n, {len(self.classes)})")
            wrong = np.argwhere((y != 0) & (y != 1))
            if len(wrong):
                row, column = wrong[0].tolist()
                raise ValueError(
                    f"y has {y.tolist()[row][column]!r} at position ({row}, {column}); give 1 for "
                    "a label that the text has, 0 for one that it has not"
                )
            return y.astype(np.float32)
        which = np.minimum(np.searchsorted(self.classes, y), len(self.classes) - 1)
        unknown = np.flatnonzero(self.classes[which] != y)
        if len(unknown):
            raise ValueError(
                f"label {y.tolist()[unknown[0]]!r} at position {unknown[0]} is not among the "
                f"classes {self.classes.tolist()}"
            )
        targets = np.zeros((count, len(self.classes)), np.float32)
        targets[np.arange(count), which] = 1
        return targets

    def weights(
        self, targets: Floats, class_weight: Any, sample_weight: Any, training: Ids
    ) -> Floats | None:
        """Return the weights (n,) of texts in the loss, or None: all are 1.

        Args:
            targets: see `targets`.
            class_weight, sample_weight: see `TextClassifier`.
            training: the texts whose labels "balanced" counts.
        """
        weights = None
        if sample_weight is not None:
            weights = np.asarray(sample_weight, np.float32)
            if weights.shape != (len(targets),):
                raise ValueError(f"sample_weight has shape {weights.shape}, not ({len(targets)},)")
        if class_weight is not None:
            if self.multilabel:
                raise ValueError("class_weight is for texts with one label each")
            which = targets.argmax(axis=1)
            present = np.unique(which[training])
            of_class = np.ones(len(self.classes), np.float32)
            of_class[present] = compute_class_weight(
                class_weight, classes=self.classes[present], y=self.classes[which[training]]
            )
            weights = of_class[which] * (1 if weights is None else weights)
        return weights


def _check_values(labels: NDArray[Any]) -> None:
    """Refuse labels that no file can hold, that stand for none or that equal nothing."""
    for position, label in enumerate(labels.tolist() if labels.dtype.kind in "SfO" else ()):
        if isinstance(label, bytes):
            raise TypeError(
                f"label {label!r} at position {position} is bytes; give strings: "
                "[label.decode() for label in y]"
            )
        if label is None or (isinstance(label, float) and math.isnan(label)):
            raise ValueError(
                f"label {label} at position {position}: labels must not be None or NaN; leave such "
                "texts out, or give them a label of their own"
            )


def check_lengths(texts: list[str], y: Any) -> None:
    """Raise ValueError if there are not as many labels as texts."""
    if len(texts) != len(y):
        raise ValueError(f"there are {len(texts)} texts and {len(y)} labels; give one label a text")


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
