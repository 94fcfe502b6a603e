"""Embeddings of categorical columns under a small network: what `CategoryEmbedder` trains.

    x = the rows of an example's categories, one a column, side by side
    h = max(0, x W1 + b1)
    scores = h W2 + b2

The loss is the cross-entropy of the softmax of the scores, of the sigmoid of each, or half the
squared error of the scores themselves.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rowwise import rules
from rowwise._untrained import Untrained
from rowwise.sklearn._losses import Floats, sigmoid, sigmoid_losses, softmax, softmax_losses
from rowwise.table import Table

Ids = NDArray[np.int64]
Loss = Literal["softmax", "sigmoid", "squared"]


@dataclass
class CategoryModel:
    """Tables and layers, each with the state of its Adam.

    Attributes:
        tables: one a column, (categories + 1, dim); the last row is of categories not seen.
        hidden: (sum of dims + 1, width), W1 with b1 as its last row.
        head: (width + 1, outputs), W2 with b2 as its last row.
        loss: see the module.
    """

    tables: list[Table]
    hidden: Table
    head: Table
    loss: Loss

    @classmethod
    def create(
        cls, sizes: list[tuple[int, int]], width: int, outputs: int, loss: Loss, seed: int
    ) -> CategoryModel:
        """Return a model whose layers start as He et al. say (Delving Deep into Rectifiers, 2015).

        Args:
            sizes: rows and length of a row, of each column's table.
        """
        seeds = np.random.default_rng(seed).integers(2**63, size=len(sizes) + 2)
        tables = [
            Table(rows, dim, rules.Adam(), seed=int(own))
            for (rows, dim), own in zip(sizes, seeds, strict=False)
        ]
        inputs = sum(dim for _, dim in sizes)
        hidden = _layer(inputs, width, int(seeds[-2]))
        return cls(tables, hidden, _layer(width, outputs, int(seeds[-1])), loss)

    def copy(self) -> CategoryModel:
        """Return a copy that further steps do not change."""
        return copy.deepcopy(self)

    def rows(self, ids: Ids, untrained: Untrained = "as-is") -> Floats:
        """Return the rows (n, sum of dims) of categories (n, columns), side by side.

        Args:
            ids: of the categories.
            untrained: what those give that were not trained on, see `Table.lookup`.
        """
        parts = [t.lookup(ids[:, j], untrained=untrained) for j, t in enumerate(self.tables)]
        return np.concatenate(parts, axis=1)

    def scores(self, ids: Ids) -> Floats:
        """Return the scores (n, outputs)."""
        _, _, scores = self._forward(ids, self.hidden.to_numpy(), self.head.to_numpy())
        return scores

    @np.errstate(over="ignore", invalid="ignore")  # the caller checks the loss
    def step(self, ids: Ids, targets: Floats, rate: float) -> float:
        """Make one step on the mean loss, and return the sum of the losses before it."""
        hidden, head = self.hidden.to_numpy(), self.head.to_numpy()
        x, h, scores = self._forward(ids, hidden, head)
        of_scores = (self._predicted(scores) - targets) / np.float32(len(ids))
        of_h = np.where(h > 0, of_scores @ head[:-1].T, np.float32(0))
        of_x = of_h @ hidden[:-1].T
        _update(self.head, h, of_scores, rate)
        _update(self.hidden, x, of_h, rate)
        ends = np.cumsum([table.dim for table in self.tables])
        for j, part in enumerate(np.split(of_x, ends[:-1], axis=1)):
            self.tables[j].update(ids[:, j], part, rate, check_finite=False)
        return float(self.losses(scores, targets).sum())

    @np.errstate(over="ignore", invalid="ignore")
    def losses(self, scores: Floats, targets: Floats) -> Floats:
        """Return the losses (n,) of scores."""
        if self.loss == "squared":
            return np.square(scores - targets).sum(axis=1) / 2
        return (sigmoid_losses if self.loss == "sigmoid" else softmax_losses)(scores, targets)

    def _forward(self, ids: Ids, hidden: Floats, head: Floats) -> tuple[Floats, Floats, Floats]:
        x = self.rows(ids)
        h = np.maximum(x @ hidden[:-1] + hidden[-1], 0)
        return x, h, h @ head[:-1] + head[-1]

    def _predicted(self, scores: Floats) -> Floats:
        if self.loss == "squared":
            return scores
        return sigmoid(scores) if self.loss == "sigmoid" else softmax(scores)


def _layer(inputs: int, outputs: int, seed: int) -> Table:
    weights = np.random.default_rng(seed).standard_normal((inputs + 1, outputs))
    weights *= np.sqrt(2 / inputs)
    weights[-1] = 0
    return Table(inputs + 1, outputs, rules.Adam(), init=weights.astype(np.float32))


def _update(layer: Table, inputs: Floats, of_outputs: Floats, rate: float) -> None:
    gradient = np.concatenate([inputs.T @ of_outputs, of_outputs.sum(axis=0, keepdims=True)])
    layer.update(np.arange(len(gradient)), gradient, rate, check_finite=False)
