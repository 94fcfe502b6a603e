"""Read fastText's `.bin` and `.ftz`, part by part.

All numbers are little-endian. Files since 2017 start with a magic number and a version, and say
whether a matrix is quantized; older ones start with the arguments.

    [magic i32 = 793712314, version i32 = 11 or 12]
    dim, ws, epoch, min_count, neg, word_ngrams, loss, model, bucket, minn, maxn, rate i32; t f64
    entries, words, labels i32; tokens i64; [pruned i64]
    entries times: text, byte 0, count i64, kind i8 (0 a word, 1 a label)
    [pruned times: bucket i32, row i32]
    [quantized u8]   input (words + bucket, dim)
    [quantized u8]   output

A matrix is its rows i64, columns i64 and numbers f32. A quantized one (Jegou, Douze and Schmid,
Product Quantization for Nearest Neighbor Search, 2011) has, for each part of a row, the number of
one of 256 centroids:

    norms u8, rows i64, columns i64, codes i32, codes times u8, quantizer
    [rows times u8, quantizer of norms]   if norms
    a quantizer: dim, parts, length of a part, of the last part i32; 256 dim numbers f32
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rowwise.errors import VectorsFileError
from rowwise.vectors._reader import Reader

MAGIC = 793712314
SUPERVISED, SKIPGRAM = 3, 2
HIERARCHICAL_SOFTMAX, NEGATIVE_SAMPLING, SOFTMAX, ONE_VS_ALL = 1, 2, 3, 4
ARGUMENTS = struct.Struct("<12id")
_AFTER_TEXT = 10  # byte 0, count, kind
_MOST_WORD = 1 << 16
_MOST_LENGTH = 64  # of an n-gram; fastText's own files have 6
_CENTROIDS = 256

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Header:
    """The arguments that a model was trained with.

    Attributes:
        dim: length of a row.
        word_ngrams: longest n-gram of words; 1: none.
        loss, model: see the constants above.
        buckets: number of hashes of n-grams.
        min_length, max_length: of n-grams of characters; a largest length of 0: none.
        new: whether the file is of 2017 or later.
    """

    dim: int
    word_ngrams: int
    loss: int
    model: int
    buckets: int
    min_length: int
    max_length: int
    new: bool


@dataclass(frozen=True)
class Entry:
    """A word or a label.

    Attributes:
        text: as it stands in the file.
        count: how often it occurred in training.
        is_label: whether it is a label.
        at: where in the file it stands.
    """

    text: bytes
    count: int
    is_label: bool
    at: int


class Matrix(Protocol):
    """Rows of numbers, however they are stored."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        ...

    def __getitem__(self, rows: NDArray[np.int64]) -> Floats:
        """Return rows (n, columns)."""
        ...


def read_header(reader: Reader) -> Header:
    """Read the arguments, from the start of the file.

    Raises:
        VectorsFileError: they are none of a fastText model.
    """
    start = reader.read(8, "fastText's header")
    magic, version = struct.unpack("<2i", start)
    new = magic == MAGIC
    if new and version not in (11, 12):
        raise VectorsFileError(
            reader.path, "byte 4", found=f"version {version}", expected="version 11 or 12"
        )
    size = ARGUMENTS.size if new else ARGUMENTS.size - 8
    rest = reader.read(size, "fastText's arguments")
    values = ARGUMENTS.unpack(rest if new else start + rest)
    dim, words, loss, model, buckets, shortest, longest = (
        values[i] for i in (0, 5, 6, 7, 8, 9, 10)
    )
    header = Header(dim, words, loss, model, buckets, shortest, longest, new)
    if (
        dim < 1
        or buckets < 0
        or not (-1 <= shortest <= _MOST_LENGTH and -1 <= longest <= _MOST_LENGTH)
    ):
        raise unlikely(reader.path, "such arguments", header)
    if new and version == 11 and model == SUPERVISED:  # these had no n-grams, whatever they say
        header = Header(dim, words, loss, model, buckets, 0, 0, new)
    return header


def read_entries(reader: Reader, header: Header) -> tuple[Iterator[Entry], int, int, int]:
    """Read the counts of entries.

    Returns:
        the entries, words first, to be read to their end; how many words and labels there are; how
        many pairs of pruned n-grams follow, -1 for a model whose n-grams were not pruned.

    Raises:
        VectorsFileError: the counts do not fit each other or the file.
    """
    entries, words, labels, _ = struct.unpack("<3iq", reader.read(20, "the counts of words"))
    if min(entries, words, labels) < 0 or words + labels != entries:
        raise unlikely(reader.path, f"{entries} entries, {words} words, {labels} labels", header)
    pruned = struct.unpack("<q", reader.read(8, "the pruned entries"))[0] if header.new else -1
    reader.check_holds(entries * _AFTER_TEXT, f"{entries} words")
    return _entries(reader, header, entries, words), words, labels, pruned


def _entries(reader: Reader, header: Header, count: int, words: int) -> Iterator[Entry]:
    """Yield the entries, and read no further than the last."""
    held, at, start = bytearray(), 0, reader.at
    for i in range(count):
        left = count - i
        while (end := held.find(0, at)) < 0 or len(held) < end + _AFTER_TEXT:
            start, held, at, end = start + at, held[at:], 0, end - at
            if len(held) > _MOST_WORD:
                raise VectorsFileError(
                    reader.path,
                    f"byte {start}",
                    found=f"a word of more than {_MOST_WORD:,} bytes",
                    fix="the file is damaged, or in another format",
                )
            # What the entries left take at least: their counts and kinds.
            least = _AFTER_TEXT * left if end < 0 else _AFTER_TEXT * left + end - len(held)
            held += reader.read(min(least, 1 << 16), "the words")
        occurrences, kind = struct.unpack_from("<qb", held, end + 1)
        if kind != (i >= words):
            raise unlikely(reader.path, f"kind {kind} of entry {i}", header)
        yield Entry(bytes(held[at:end]), occurrences, bool(kind), start + at)
        at = end + _AFTER_TEXT


def read_shape(reader: Reader) -> tuple[int, int]:
    """Read the rows and columns of a matrix."""
    rows, columns = struct.unpack("<2q", reader.read(16, "the matrix's shape"))
    return rows, columns


def read_is_quantized(reader: Reader, header: Header) -> bool:
    """Read whether the next matrix is quantized; older files have no mark and no such matrix."""
    return header.new and bool(reader.read(1, "the mark of a quantized matrix")[0])


def unlikely(path: str, found: str, header: Header) -> VectorsFileError:
    """Return an error about numbers that no fastText model has."""
    return VectorsFileError(
        path,
        found=f"{found} (dim {header.dim}, {header.buckets} buckets, n-grams of "
        f"{header.min_length} to {header.max_length})",
        expected="a fastText model",
        fix="the file is damaged, or in another format: pass format='word2vec-binary' if so",
    )


def read_matrix(reader: Reader, header: Header) -> Matrix:
    """Read a matrix, quantized or not.

    Raises:
        VectorsFileError: it does not fit the file or the header.
    """
    if read_is_quantized(reader, header):
        return _read_quantized(reader, header)
    rows, columns = read_shape(reader)
    if columns != header.dim or rows < 0:
        raise unlikely(reader.path, f"a matrix of {rows} rows of {columns}", header)
    numbers = reader.read_array(rows * columns * 4, f"a matrix of {rows} rows of {columns}")
    return numbers.view("<f4").reshape(rows, columns)


@dataclass(frozen=True)
class _Quantizer:
    """Centroids of the parts of a vector.

    Attributes:
        centroids: one array (256, length) for each part.
    """

    centroids: list[Floats]

    @classmethod
    def read(cls, reader: Reader, header: Header) -> _Quantizer:
        dim, parts, length, last = struct.unpack("<4i", reader.read(16, "a quantizer"))
        if parts < 1 or min(length, last) < 1 or (parts - 1) * length + last != dim:
            raise unlikely(reader.path, f"a quantizer of {parts} parts of {length}", header)
        numbers = reader.read_array(_CENTROIDS * dim * 4, "the centroids").view("<f4")
        whole = (parts - 1) * length * _CENTROIDS
        found = list(numbers[:whole].reshape(parts - 1, _CENTROIDS, length))
        return cls([*found, numbers[whole:].reshape(_CENTROIDS, last)])

    @property
    def dim(self) -> int:
        return sum(part.shape[1] for part in self.centroids)

    def __call__(self, codes: NDArray[np.uint8]) -> Floats:
        """Return the vectors (n, dim) of codes (n, parts)."""
        parts = [part[codes[:, i]] for i, part in enumerate(self.centroids)]
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class _QuantizedMatrix:
    codes: NDArray[np.uint8]  # (rows, parts)
    quantizer: _Quantizer
    norm_codes: NDArray[np.uint8] | None  # (rows, 1)
    norm_quantizer: _Quantizer | None

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.codes), self.quantizer.dim

    def __getitem__(self, rows: NDArray[np.int64]) -> Floats:
        found, norms = unscaled(self, rows)
        return found if norms is None else found * norms[:, None]


def unscaled(matrix: Matrix, rows: NDArray[np.int64]) -> tuple[Floats, Floats | None]:
    """Return rows (n, columns), and what each is yet to be multiplied by (n,); None: nothing."""
    if not isinstance(matrix, _QuantizedMatrix):
        return matrix[rows], None
    norms = None
    if matrix.norm_codes is not None and matrix.norm_quantizer is not None:
        norms = matrix.norm_quantizer(matrix.norm_codes[rows])[:, 0]
    return matrix.quantizer(matrix.codes[rows]), norms


def _read_quantized(reader: Reader, header: Header) -> _QuantizedMatrix:
    has_norms = reader.read(1, "the mark of norms")[0]
    rows, columns = read_shape(reader)
    (size,) = struct.unpack("<i", reader.read(4, "the number of codes"))
    if columns != header.dim or rows < 0 or size < 0 or (rows and size % rows):
        raise unlikely(reader.path, f"{size} codes of {rows} rows of {columns}", header)
    codes = reader.read_array(size, f"{size} codes").reshape(rows, -1 if rows else 0)
    quantizer = _Quantizer.read(reader, header)
    if quantizer.dim != columns or (rows and codes.shape[1] != len(quantizer.centroids)):
        raise unlikely(reader.path, f"a quantizer of {quantizer.dim} numbers", header)
    if not has_norms:
        return _QuantizedMatrix(codes, quantizer, None, None)
    norms = reader.read_array(rows, "the norms").reshape(rows, 1)
    norm_quantizer = _Quantizer.read(reader, header)
    if norm_quantizer.dim != 1:
        raise unlikely(reader.path, f"norms of {norm_quantizer.dim} numbers", header)
    return _QuantizedMatrix(codes, quantizer, norms, norm_quantizer)
