"""Weighted sums of a table's rows, and a linear layer on top: what classifiers train."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rowwise import rules
from rowwise.sklearn._features import Encoder
from rowwise.sklearn._losses import Floats, sigmoid, sigmoid_losses, softmax, softmax_losses
from rowwise.store import Bags
from rowwise.table import Table

_HEAD_RATE = 3.0  # times the rate of rows
_COLUMN_NORM = 2.0  # of the head's start: scores then move twice as fast as rows


@dataclass
class BagModel:
    """Scores of bags: the weighted sum of a bag's rows, times a matrix, plus a bias.

    Attributes:
        table: (rows, dim).
        head: (dim + 1, outputs), the matrix, and the bias as its last row.
        multilabel: whether each output is a probability of its own (sigmoid), instead of all being
            one distribution (softmax).
    """

    table: Table
    head: Table
    multilabel: bool = False

    @classmethod
    def create(cls, table: Table, outputs: int, multilabel: bool, seed: int) -> BagModel:
        """Return a model whose matrix has random columns of one length, and whose bias is 0."""
        matrix = np.random.default_rng(seed).standard_normal((table.dim + 1, outputs))
        matrix *= _COLUMN_NORM / np.linalg.norm(matrix[:-1], axis=0)
        matrix[-1] = 0
        head = Table(table.dim + 1, outputs, rules.Adam(), init=matrix.astype(np.float32))
        return cls(table, head, multilabel)

    def copy(self) -> BagModel:
        """Return a copy that further steps do not change."""
        return copy.deepcopy(self)

    def remapped(self, source_rows: NDArray[np.int64]) -> BagModel:
        """Return the model with the rows that `Table.remap` makes; itself where none is new."""
        if (source_rows >= 0).all():
            return self
        table = copy.deepcopy(self.table)
        table.remap(source_rows, init="zeros")
        return BagModel(table, self.head, self.multilabel)

    def pooled(self, bags: Bags) -> Floats:
        """Return the weighted sums (bags, dim) of rows."""
        pooled = np.empty((len(bags.offsets) - 1, self.table.dim), np.float32)
        self.table.store.gather_bags(bags, pooled)
        return pooled

    def scores(self, bags: Bags) -> Floats:
        """Return the scores (bags, outputs)."""
        head = self.head.to_numpy()
        return self.pooled(bags) @ head[:-1] + head[-1]

    @np.errstate(over="ignore", invalid="ignore")  # the caller checks the loss
    def step(self, bags: Bags, targets: Floats, weights: Floats | None, rate: float) -> float:
        """Make one step on the mean loss of bags.

        Args:
            bags: the batch.
            targets: (bags, outputs) probabilities.
            weights: (bags,) of the bags in the loss, or None: all are 1.
            rate: learning rate.

        Returns:
            the sum of the bags' losses before the step.
        """
        pooled, head = self.pooled(bags), self.head.to_numpy()
        scores = pooled @ head[:-1] + head[-1]
        losses = self.losses(scores, targets)
        gradient = (self.probabilities(scores) - targets) / np.float32(len(targets))
        if weights is not None:
            losses, gradient = losses * weights, gradient * weights[:, None]
        of_pooled = np.ascontiguousarray(gradient @ head[:-1].T, dtype=np.float32)
        of_head = np.concatenate([pooled.T @ gradient, gradient.sum(axis=0, keepdims=True)])
        self.table.apply(self.table.store.bag_gradient(bags, of_pooled), rate)
        self.head.update(np.arange(len(of_head)), of_head, rate * _HEAD_RATE, check_finite=False)
        return float(losses.sum())

    def probabilities(self, scores: Floats) -> Floats:
        """Return the probabilities (n, outputs) of scores."""
        return sigmoid(scores) if self.multilabel else softmax(scores)

    @np.errstate(over="ignore", invalid="ignore")
    def losses(self, scores: Floats, targets: Floats) -> Floats:
        """Return the cross-entropies (n,) of scores with targets."""
        return (sigmoid_losses if self.multilabel else softmax_losses)(scores, targets)

    def right(self, scores: Floats, targets: Floats) -> NDArray[np.bool_]:
        """Return of which bags (n,) the most probable outputs are the targets."""
        if self.multilabel:
            return ((scores > 0) == (targets > 0)).all(axis=1)
        return scores.argmax(axis=1) == targets.argmax(axis=1)

    def explain(self, encoder: Encoder) -> list[tuple[str, Floats]]:
        """Return the words of an encoder's only text, with their shares (outputs,) in scores."""
        words = encoder.text.words
        bags = encoder.bags(np.zeros(1, np.int64))
        assert bags.weights is not None
        values = self.table.lookup(bags.ids) @ self.head.to_numpy()[:-1] * bags.weights[:, None]
        rows, positions, parts = encoder.occurrences()
        # A row's share goes to the words it occurs at, in equal parts.
        index = np.searchsorted(bags.ids, rows)
        whole = np.bincount(index, parts, len(bags.ids))
        shares = np.zeros((len(words.indices), values.shape[1]))
        np.add.at(shares, positions, values[index] * (parts / whole[index])[:, None])
        names = [words.distinct[i] for i in words.indices]
        return list(zip(names, shares.astype(np.float32), strict=True))
