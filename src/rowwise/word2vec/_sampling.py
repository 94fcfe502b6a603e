"""Subsampling of frequent words, and the distribution of noise words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ALWAYS = 2**32 - 1


def keep_thresholds(counts: NDArray[np.int64], sample: float) -> NDArray[np.uint32]:
    """Return thresholds (V,): an occurrence of a word is kept if 32 random bits are at most this.

    A word of frequency f, of all words, is kept with probability min(1, sqrt(s/f) + s/f), s the
    sample: the formula of word2vec's program, which keeps some more than the paper's sqrt(s/f).
    """
    if sample == 0:
        return np.full(len(counts), _ALWAYS, np.uint32)
    part = sample / (counts / counts.sum())
    return (np.minimum(np.sqrt(part) + part, 1.0) * _ALWAYS).astype(np.uint32)


def alias_table(
    counts: NDArray[np.int64], exponent: float
) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    """Return a table to draw words from, in proportion to count ** exponent, in constant time.

    Walker's alias method (An Efficient Method for Generating Discrete Random Variables with General
    Distributions, 1977): each of V equal slots is shared by the word itself and one other.

    Returns:
        accept (V,): the slot's own word is drawn if 32 random bits are below this.
        alias (V,): the other word.
    """
    weights = counts.astype(np.float64) ** exponent
    shares = weights * (len(weights) / weights.sum())
    accept = np.full(len(shares), _ALWAYS, np.uint32)
    alias = np.arange(len(shares), dtype=np.int32)
    small = np.flatnonzero(shares < 1).tolist()
    large = np.flatnonzero(shares >= 1).tolist()
    left = shares.tolist()
    while small and large:
        low, high = small.pop(), large[-1]
        accept[low], alias[low] = int(left[low] * _ALWAYS), high
        left[high] -= 1 - left[low]
        if left[high] < 1:
            small.append(large.pop())
    return accept, alias
