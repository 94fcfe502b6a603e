"""The probabilities that fastText makes of a text's vector, by its own arithmetic.

fastText works with the logarithms of p + 0.00001 instead of p, and prints their powers. Of softmax,
negative sampling and one-vs-all, p is a label's probability; of hierarchical softmax, each factor
of it. The sigmoid of negative sampling and one-vs-all comes from a table with 512 steps between -8
and 8. The side of a step on which a score falls depends on its last bit, so these scores are summed
in fastText's order, one product after the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rowwise.sklearn._losses import Floats, softmax
from rowwise.vectors import _fasttext_file as parts

MOST_COUNT = 10**15  # of labels in the training texts; fastText's own bound
_ADDED = 1e-5
_LIMIT, _STEPS = 8, 512
_SIGMOID = (1 / (1 + np.exp(-np.linspace(-_LIMIT, _LIMIT, _STEPS + 1)))).astype(np.float32)


class Output:
    """The output layer of a model.

    Args:
        matrix: (K, dim), of K labels; of hierarchical softmax, of the inner nodes of its tree.
        loss: that it was trained with.
        counts: how many training texts had each label, descending.

    Attributes:
        preferred: (K,) labels; of equally probable ones fastText names the one that stands first
            here.
    """

    def __init__(self, matrix: parts.Matrix, loss: int, counts: list[int]) -> None:
        labels = np.arange(len(counts))
        self._matrix, self._scale = parts.unscaled(matrix, labels)
        self._loss = loss
        self.preferred = labels[::-1]
        if loss == parts.HIERARCHICAL_SOFTMAX:
            self._children = _huffman(counts)
            self.preferred = _leaves_from_the_right(self._children)

    def scores(self, vectors: Floats) -> Floats:
        """Return the scores (n, K) of vectors (n, dim).

        Those of hierarchical softmax are the logarithms of probabilities.
        """
        if self._loss in (parts.NEGATIVE_SAMPLING, parts.ONE_VS_ALL):
            scores = np.zeros((len(vectors), len(self._matrix)), np.float32)
            for of_vectors, of_labels in zip(vectors.T, self._matrix.T, strict=True):
                scores += of_vectors[:, None] * of_labels
        else:
            scores = vectors @ self._matrix.T
        if self._scale is not None:
            scores *= self._scale
        return self._of_leaves(scores) if self._loss == parts.HIERARCHICAL_SOFTMAX else scores

    def probabilities(self, scores: Floats) -> Floats:
        """Return the probabilities (n, K) that fastText prints."""
        if self._loss == parts.HIERARCHICAL_SOFTMAX:
            return np.exp(scores)
        found = softmax(scores) if self._loss == parts.SOFTMAX else _table_sigmoid(scores)
        return np.exp(_log(found))

    def _of_leaves(self, scores: Floats) -> Floats:
        """Return the sums (n, K) of the logarithms of the turns from the root to each leaf.

        Args:
            scores: (n, K), of the inner nodes; the last is not used.
        """
        labels = len(self.preferred)
        found = np.zeros((len(scores), labels), np.float32)
        with np.errstate(over="ignore"):
            right: Floats = (1 / (1 + np.exp(-scores))).astype(np.float32, copy=False)
        # From the root down: the sum of a node is what its leaves have in common.
        sums = {2 * labels - 2: np.zeros(len(scores), np.float32)}
        for node in range(2 * labels - 2, labels - 1, -1):
            above, turn = sums.pop(node), right[:, node - labels]
            for child, factor in zip(self._children[node - labels], (1 - turn, turn), strict=True):
                sums[child] = above + _log(factor)
        for label, value in sums.items():
            found[:, label] = value
        return found


def _log(probabilities: Floats) -> Floats:
    return np.log(probabilities.astype(np.float64) + _ADDED).astype(np.float32)


def _table_sigmoid(scores: Floats) -> Floats:
    """Return the sigmoid of scores rounded down to a step; 0 or 1 beyond the table's ends."""
    inside = np.clip(np.nan_to_num(scores), -_LIMIT, _LIMIT)
    step = (inside + np.float32(_LIMIT)) * np.float32(_STEPS / _LIMIT / 2)
    found = _SIGMOID[step.astype(np.int64)]
    found[scores < -_LIMIT] = 0
    found[scores > _LIMIT] = 1
    return found


def _huffman(counts: list[int]) -> list[tuple[int, int]]:
    """Return the left and right child of each inner node; leaves are numbered first."""
    labels = len(counts)
    weights = [*counts, *[MOST_COUNT] * (labels - 1)]
    leaf, node = labels - 1, labels
    children = []
    for inner in range(labels, 2 * labels - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        weights[inner] = weights[pair[0]] + weights[pair[1]]
        children.append((pair[0], pair[1]))
    return children


def _leaves_from_the_right(children: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the leaves of a tree, the rightmost first."""
    labels = len(children) + 1
    found, left = [], [2 * labels - 2]
    while left:
        node = left.pop()
        if node < labels:
            found.append(node)
        else:
            left.extend(children[node - labels])
    return np.array(found)
