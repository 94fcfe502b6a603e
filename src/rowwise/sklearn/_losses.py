"""Losses of scores, and the probabilities that scores stand for; float32, an example a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def softmax(scores: Floats) -> Floats:
    """Return the probabilities (n, outputs) of scores, which sum to 1 in each row."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(scores: Floats) -> Floats:
    """Return the probabilities (n, outputs) of scores, each for itself."""
    return np.float32(0.5) * (1 + np.tanh(scores / 2))


def softmax_losses(scores: Floats, targets: Floats) -> Floats:
    """Return the cross-entropies (n,) of the softmax of scores with targets."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - (shifted * targets).sum(axis=1)


def sigmoid_losses(scores: Floats, targets: Floats) -> Floats:
    """Return the sums (n,) of the cross-entropies of each score's sigmoid with its target."""
    return (np.logaddexp(0, scores) - scores * targets).sum(axis=1)
