"""fastText's `.bin`: the model with its n-grams, in both versions of the header.

`_fasttext_file` has the layout.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from rowwise.errors import VectorsFileError
from rowwise.vectors._collector import Collector
from rowwise.vectors._fasttext_file import (
    ARGUMENTS,
    MAGIC,
    NEGATIVE_SAMPLING,
    SKIPGRAM,
    Header,
    read_entries,
    read_header,
    read_is_quantized,
    read_shape,
    unlikely,
)
from rowwise.vectors._options import Options
from rowwise.vectors._packed_strings import encode_word
from rowwise.vectors._reader import Reader, opened
from rowwise.vectors._subwords import Subwords
from rowwise.vectors._word_matrix import WordMatrix
from rowwise.vectors._writer import writing
from rowwise.vectors.formats._format import Confidence, Format, Sample

_AT_ONCE = 1 << 22
# Numbers of n-grams that are added for a byte of the file. fastText's own files have some 4.
_MOST_WORK_PER_BYTE = 1 << 12
_ALWAYS_DONE = 1 << 32
_NOT_QUANTIZED = (
    "take the .bin it was made from, or save its vectors as .vec; a classifier is read by "
    "rowwise.sklearn.FastTextClassifier"
)


def _sniff(sample: Sample) -> Confidence:
    head = sample.head
    if head[:4] == struct.pack("<i", MAGIC):
        return Confidence.CERTAIN
    if len(head) < 56:
        return Confidence.NO
    # The older header: dim, ws, epoch, min_count, neg, word_ngrams, loss, model...
    dim, *counts, loss, model = struct.unpack("<8i", head[:32])
    plausible = (
        0 < dim < 1 << 16
        and all(0 <= count < 1 << 16 for count in counts)
        and 1 <= loss <= 4
        and 1 <= model <= 3
    )
    return Confidence.LIKELY if plausible else Confidence.NO


def _read(path: str, options: Options) -> WordMatrix:
    """Read a fastText model: its words' vectors, and the n-grams for other words."""
    with opened(path) as reader:
        header = read_header(reader)
        words = _read_words(reader, header, options)
        if read_is_quantized(reader, header):
            raise VectorsFileError(path, found="a quantized model", fix=_NOT_QUANTIZED)
        rows, columns = read_shape(reader)
        if columns != header.dim or not len(words) <= rows <= len(words) + header.buckets + (
            1 << 31
        ):
            raise unlikely(path, f"a matrix of {rows} rows of {columns}", header)
        reader.check_holds(rows * columns * 4, f"a matrix of {rows} rows of {columns}")
        _check_work(reader, header, words)
        # The n-grams' rows come last; a supervised model's labels have none.
        buckets = rows - len(words) if header.max_length > 0 else 0
        collector = Collector(
            path, header.dim, options.in_float32(), expected=len(words),
            holds_expected=reader.is_plain, fraction=reader.fraction,
        )  # fmt: skip
        _read_rows(reader, collector, words, header.dim)
        subwords = _read_buckets(reader, header, buckets, path) if buckets else None
    found = collector.result()
    if subwords is not None:
        subwords.add_to(found.words, found.matrix)
    return WordMatrix(found.words, found.matrix.astype(options.dtype, copy=False), subwords)


def _read_words(reader: Reader, header: Header, options: Options) -> list[str]:
    entries, _, _, pruned = read_entries(reader, header)
    found = []
    for i, entry in enumerate(entries):
        if entry.is_label:
            continue
        try:
            found.append(options.decode(entry.text))
        except UnicodeDecodeError as error:
            raise VectorsFileError(
                reader.path,
                f"word {i}, byte {entry.at + error.start}",
                found=f"byte 0x{error.object[error.start]:02x} in {entry.text[:40]!r}",
                expected=f"UTF-8 ({error.reason})",
                fix="pass errors='ignore' or 'replace', as in bytes.decode, to read on",
            ) from error
    if pruned > 0:
        raise VectorsFileError(
            reader.path, found="a pruned, so quantized model", fix=_NOT_QUANTIZED
        )
    return found


def _check_work(reader: Reader, header: Header, words: list[str]) -> None:
    """Refuse words so long, and n-grams so many, that no file of this size is honest with them."""
    lengths = header.max_length - max(header.min_length, 1) + 1
    grams = sum(map(len, words)) * max(lengths, 0)
    if grams * header.dim > _MOST_WORK_PER_BYTE * reader.bound + _ALWAYS_DONE:
        raise unlikely(reader.path, f"{grams:,} n-grams", header)


def _read_rows(reader: Reader, collector: Collector, words: list[str], dim: int) -> None:
    step = max(1, _AT_ONCE // (dim * 4))
    for start in range(0, len(words), step):
        block = words[start : start + step]
        numbers = reader.read_array(len(block) * dim * 4, "the words' rows").view("<f4")
        if collector.done:
            continue  # the n-grams come after these rows
        block = block[: collector.left]
        collector.add(block, numbers.reshape(-1, dim)[: len(block)])


def _read_buckets(reader: Reader, header: Header, buckets: int, path: str) -> Subwords:
    raw = reader.read_array(buckets * header.dim * 4, "the n-grams' rows")
    rows: NDArray[np.float32] = raw.view("<f4").reshape(buckets, header.dim)
    return Subwords(rows, header.min_length, header.max_length)


def _write(vectors: WordMatrix, path: str) -> None:
    """Write a skip-gram model of version 12: counts of 1, and an output matrix of zeros.

    Vectors without n-grams become a model without, whose words have just their rows.
    """
    grams = vectors.subwords
    buckets, shortest, longest = (
        (len(grams.buckets), grams.min_length, grams.max_length) if grams else (0, 0, 0)
    )
    for word in vectors.words:
        if "\0" in word:
            raise ValueError(f"word {word!r} holds byte 0, which fastText's format cannot")
    count, dim = len(vectors), vectors.dim
    with writing(path) as file:
        file.write(struct.pack("<2i", MAGIC, 12))
        arguments = (dim, 5, 5, 1, 5, 1, NEGATIVE_SAMPLING, SKIPGRAM, buckets, shortest, longest)
        file.write(ARGUMENTS.pack(*arguments, 100, 1e-4))
        file.write(struct.pack("<3i2q", count, count, 0, count, -1))
        for word in vectors.words:
            file.write(encode_word(word) + struct.pack("<xqb", 1, 0))
        file.write(struct.pack("<?2q", False, count + buckets, dim))
        step = max(1, _AT_ONCE // (dim * 4))
        for start in range(0, count, step):
            rows = vectors.matrix[start : start + step].astype("<f4")
            if grams:
                grams.remove_from(vectors.words[start : start + step], rows)
            file.write(rows.tobytes())
        for start in range(0, buckets, step):
            assert grams is not None
            file.write(grams.buckets[start : start + step].astype("<f4", copy=False).tobytes())
        file.write(struct.pack("<?2q", False, count, dim))
        for start in range(0, count, step):
            file.write(bytes(min(step, count - start) * dim * 4))


FORMAT = Format(
    name="fasttext-bin",
    about=".bin: a model with its n-grams",
    suffixes=(".bin",),
    sniff=_sniff,
    read=_read,
    write=_write,
    is_compressed=True,
    holds_subwords=True,
)
