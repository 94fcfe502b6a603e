"""Write fastText's `supervised` models from their parts, and predict with the parts one by one.

Written from the description of the format and of the model, without the code under test.
"""

import math
import re
import struct
from dataclasses import dataclass, field

import numpy as np

ADDED = 1e-5  # to what is printed; with hierarchical softmax, to each factor of it
LOSSES = {"hs": 1, "ns": 2, "softmax": 3, "ova": 4}


@dataclass
class Model:
    """A model's parts; `quantized` writes input and output as product quantizers."""

    words: list[str]
    labels: list[str]
    counts: list[int]  # of the labels, descending
    loss: str = "softmax"
    word_ngrams: int = 1
    lengths: tuple[int, int] = (0, 0)
    buckets: int = 0
    pruned: dict[int, int] | None = None
    dim: int = 5
    seed: int = 0
    scale: float = 1.0
    quantized: bool = False
    norms: bool = False
    given: list[np.ndarray] | None = None  # matrices in place of random ones
    matrices: list[np.ndarray] = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        grams = self.buckets if self.pruned is None else len(self.pruned)
        shapes = [len(self.words) + grams, len(self.labels)]
        if self.given is None:
            self._parts = [self._matrix(rng, rows) for rows in shapes]
        else:
            self._parts = [(self._plain(matrix), matrix) for matrix in self.given]
        self.matrices = [matrix for _, matrix in self._parts]

    def _matrix(self, rng, rows):
        """Return a matrix as bytes and as numbers."""
        if not self.quantized:
            matrix = (self.scale * rng.standard_normal((rows, self.dim))).astype("<f4")
            return self._plain(matrix), matrix
        widths = [2] * ((self.dim - 1) // 2) + [self.dim - (self.dim - 1) // 2 * 2]
        codes = rng.integers(256, size=(rows, len(widths)), dtype=np.uint8)
        centroids = [rng.standard_normal((256, width)).astype("<f4") for width in widths]
        matrix = np.concatenate([c[codes[:, i]] for i, c in enumerate(centroids)], axis=1)
        raw = struct.pack("<2?2qi", True, self.norms, rows, self.dim, codes.size) + codes.tobytes()
        raw += struct.pack("<4i", self.dim, len(widths), 2, widths[-1])
        raw += b"".join(c.tobytes() for c in centroids)
        if self.norms:
            norms, sizes = rng.integers(256, size=rows, dtype=np.uint8), rng.random(256, "f4")
            raw += norms.tobytes() + struct.pack("<4i", 1, 1, 1, 1) + sizes.tobytes()
            matrix = matrix * sizes[norms][:, None]
        return raw, matrix

    def _plain(self, matrix):
        return struct.pack("<?2q", False, *matrix.shape) + matrix.astype("<f4").tobytes()

    def to_bytes(self, model=3):
        """Return the file's content."""
        arguments = (self.dim, 5, 5, 1, 5, self.word_ngrams, LOSSES[self.loss], model, self.buckets)
        raw = struct.pack("<2i", 793712314, 12)
        raw += struct.pack("<12id", *arguments, *self.lengths, 100, 1e-4)
        words, labels = len(self.words), len(self.labels)
        pruned = -1 if self.pruned is None else len(self.pruned)
        raw += struct.pack("<3i2q", words + labels, words, labels, 100, pruned)
        for word in self.words:
            raw += word.encode() + struct.pack("<xqb", 9, 0)
        for label, count in zip(self.labels, self.counts, strict=True):
            raw += label.encode() + struct.pack("<xqb", count, 1)
        for bucket, row in (self.pruned or {}).items():
            raw += struct.pack("<2i", bucket, row)
        return raw + b"".join(part for part, _ in self._parts)

    def probabilities(self, text):
        """Return what fastText prints as each label's probability of a text, by its definition."""
        given, output = (matrix.astype(np.float64) for matrix in self.matrices)
        rows = self.rows_of(text)
        hidden = given[rows].mean(axis=0) if rows else np.zeros(self.dim)
        scores = output @ hidden
        if self.loss == "softmax":
            powers = np.exp(scores - scores.max())
            return powers / powers.sum() + ADDED
        if self.loss == "hs":
            return np.array([self._leaf(leaf, scores) for leaf in range(len(self.labels))])
        return np.array([0.0 if x < -8 else 1.0 if x > 8 else _sigmoid(math.floor(x * 32) / 32)
                         for x in scores]) + ADDED  # fmt: skip

    def rows_of(self, text):
        """Return the rows of a text: words with their n-grams of characters, then of words."""
        rows, hashes = [], []
        for token in [*re.split("[ \n\t]+", text), "</s>"]:
            if not token or token in self.labels or token.startswith("__label__"):
                continue
            hashes.append(fnv(token))
            if token in self.words:
                rows.append(self.words.index(token))
            if self.lengths[1] and token != "</s>":
                framed = f"<{token}>"
                for i in range(len(framed)):
                    for n in range(self.lengths[0], self.lengths[1] + 1):
                        gram = framed[i : i + n]
                        if len(gram) == n and not (n == 1 and i in (0, len(framed) - 1)):
                            rows += self._bucket(fnv(gram))
        for i in range(len(hashes)):
            total = _signed(hashes[i])
            for other in hashes[i + 1 : i + self.word_ngrams]:
                total = (total * 116049371 + _signed(other)) % 2**64
                rows += self._bucket(total)
        return rows

    def _bucket(self, value):
        bucket = value % self.buckets
        if self.pruned is None:
            return [len(self.words) + bucket]
        return [len(self.words) + self.pruned[bucket]] if bucket in self.pruned else []

    def _leaf(self, leaf, scores):
        """Return the product of the turns from the root of Huffman's tree to a leaf."""
        open_nodes = [(count, -i, i) for i, count in enumerate(self.counts)]
        parent = {}
        for inner in range(len(self.labels) - 1):
            open_nodes.sort()
            (left, _, a), (right, _, b) = open_nodes[:2]
            node = len(self.labels) + inner
            parent[a], parent[b] = (inner, False), (inner, True)
            open_nodes = [*open_nodes[2:], (left + right, 1e9 + inner, node)]
            parent[("node", inner)] = node
        product, at = 1.0, leaf
        while at in parent:
            inner, is_right = parent[at]
            up = _sigmoid(scores[inner])
            product *= (up if is_right else 1 - up) + ADDED
            at = parent[("node", inner)]
        return product


def fnv(token):
    """Return FNV-1a's hash of a token whose bytes are taken as signed numbers."""
    value = 2166136261
    for byte in token.encode():
        value = ((value ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) % 2**32
    return value


def _signed(value):
    return (value if value < 2**31 else value - 2**32) % 2**64


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))
