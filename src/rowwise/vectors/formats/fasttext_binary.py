"""fastText's `.bin`: the model with its n-grams, in both versions of the header.

All numbers are little-endian. Files since 2017 start with a magic number and a version, and say
whether a matrix is quantized; older ones start with the arguments.

    [magic i32 = 793712314, version i32 = 11 or 12]
    dim, ws, epoch, min_count, neg, word_ngrams, loss, model, bucket, minn, maxn, rate i32; t f64
    entries, words, labels i32; tokens i64; [pruned i64]
    entries times: text, byte 0, count i64, kind i8 (0 a word, 1 a label)
    [quantized u8]   rows i64, columns i64, input (words + bucket, dim) f32
    [quantized u8]   rows i64, columns i64, output f32
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rowwise.errors import VectorsFileError
from rowwise.vectors._collector import Collector
from rowwise.vectors._options import Options
from rowwise.vectors._packed_strings import encode_word
from rowwise.vectors._reader import Reader, opened
from rowwise.vectors._subwords import Subwords
from rowwise.vectors._word_matrix import WordMatrix
from rowwise.vectors._writer import writing
from rowwise.vectors.formats._format import Confidence, Format, Sample

_MAGIC = 793712314
_SUPERVISED, _SKIPGRAM, _NEGATIVE_SAMPLING = 3, 2, 2
_ARGUMENTS = struct.Struct("<12id")
_AT_ONCE = 1 << 22
_AFTER_TEXT = 10  # byte 0, count, kind
_MOST_WORD = 1 << 16
_MOST_LENGTH = 64  # of an n-gram; fastText's own files have 6
# Numbers of n-grams that are added for a byte of the file. fastText's own files have some 4.
_MOST_WORK_PER_BYTE = 1 << 12
_ALWAYS_DONE = 1 << 32


@dataclass(frozen=True)
class _Header:
    dim: int
    model: int
    buckets: int
    min_length: int
    max_length: int
    new: bool


def _sniff(sample: Sample) -> Confidence:
    head = sample.head
    if head[:4] == struct.pack("<i", _MAGIC):
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
        header = _read_header(reader)
        words = _read_words(reader, header, options)
        if header.new and reader.read(1, "the mark of a quantized model")[0]:
            raise VectorsFileError(
                path,
                found="a quantized model",
                fix="take the .bin it was made from, or save its vectors as .vec",
            )
        rows, columns = struct.unpack("<2q", reader.read(16, "the matrix's shape"))
        if columns != header.dim or not len(words) <= rows <= len(words) + header.buckets + (
            1 << 31
        ):
            raise _unlikely(path, f"a matrix of {rows} rows of {columns}", header)
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


def _read_header(reader: Reader) -> _Header:
    start = reader.read(8, "fastText's header")
    magic, version = struct.unpack("<2i", start)
    new = magic == _MAGIC
    if new and version not in (11, 12):
        raise VectorsFileError(
            reader.path, "byte 4", found=f"version {version}", expected="version 11 or 12"
        )
    size = _ARGUMENTS.size if new else _ARGUMENTS.size - 8
    rest = reader.read(size, "fastText's arguments")
    values = _ARGUMENTS.unpack(rest if new else start + rest)
    dim, model, buckets, shortest, longest = (values[i] for i in (0, 7, 8, 9, 10))
    header = _Header(dim, model, buckets, shortest, longest, new)
    if (
        dim < 1
        or buckets < 0
        or not (-1 <= shortest <= _MOST_LENGTH and -1 <= longest <= _MOST_LENGTH)
    ):
        raise _unlikely(reader.path, "such arguments", header)
    if new and version == 11 and model == _SUPERVISED:  # these had no n-grams, whatever they say
        header = _Header(dim, model, buckets, 0, 0, new)
    return header


def _read_words(reader: Reader, header: _Header, options: Options) -> list[str]:
    entries, words, labels, _ = struct.unpack("<3iq", reader.read(20, "the counts of words"))
    if min(entries, words, labels) < 0 or words + labels != entries:
        raise _unlikely(reader.path, f"{entries} entries, {words} words, {labels} labels", header)
    pruned = struct.unpack("<q", reader.read(8, "the pruned entries"))[0] if header.new else -1
    reader.check_holds(entries * _AFTER_TEXT, f"{entries} words")
    found = []
    for i, (raw, kind, at) in enumerate(_entries(reader, entries)):
        if kind != (i >= words):
            raise _unlikely(reader.path, f"kind {kind} of entry {i}", header)
        if kind:
            continue
        try:
            found.append(options.decode(raw))
        except UnicodeDecodeError as error:
            raise VectorsFileError(
                reader.path,
                f"word {i}, byte {at + error.start}",
                found=f"byte 0x{error.object[error.start]:02x} in {raw[:40]!r}",
                expected=f"UTF-8 ({error.reason})",
                fix="pass errors='ignore' or 'replace', as in bytes.decode, to read on",
            ) from error
    if pruned > 0:
        raise VectorsFileError(
            reader.path, found="a pruned, so quantized model", fix="take the .bin it was made from"
        )
    return found


def _check_work(reader: Reader, header: _Header, words: list[str]) -> None:
    """Refuse words so long, and n-grams so many, that no file of this size is honest with them."""
    lengths = header.max_length - max(header.min_length, 1) + 1
    grams = sum(map(len, words)) * max(lengths, 0)
    if grams * header.dim > _MOST_WORK_PER_BYTE * reader.bound + _ALWAYS_DONE:
        raise _unlikely(reader.path, f"{grams:,} n-grams", header)


def _entries(reader: Reader, count: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (text, kind, where in the content), and read no further than the last entry."""
    held, at, start = bytearray(), 0, reader.at
    for left in range(count, 0, -1):
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
        yield bytes(held[at:end]), held[end + 9], start + at
        at = end + _AFTER_TEXT


def _read_rows(reader: Reader, collector: Collector, words: list[str], dim: int) -> None:
    step = max(1, _AT_ONCE // (dim * 4))
    for start in range(0, len(words), step):
        block = words[start : start + step]
        numbers = reader.read_array(len(block) * dim * 4, "the words' rows").view("<f4")
        if collector.done:
            continue  # the n-grams come after these rows
        block = block[: collector.left]
        collector.add(block, numbers.reshape(-1, dim)[: len(block)])


def _read_buckets(reader: Reader, header: _Header, buckets: int, path: str) -> Subwords:
    raw = reader.read_array(buckets * header.dim * 4, "the n-grams' rows")
    rows: NDArray[np.float32] = raw.view("<f4").reshape(buckets, header.dim)
    return Subwords(rows, header.min_length, header.max_length)


def _unlikely(path: str, found: str, header: _Header) -> VectorsFileError:
    return VectorsFileError(
        path,
        found=f"{found} (dim {header.dim}, {header.buckets} buckets, n-grams of "
        f"{header.min_length} to {header.max_length})",
        expected="a fastText model",
        fix="the file is damaged, or in another format: pass format='word2vec-binary' if so",
    )


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
        file.write(struct.pack("<2i", _MAGIC, 12))
        arguments = (dim, 5, 5, 1, 5, 1, _NEGATIVE_SAMPLING, _SKIPGRAM, buckets, shortest, longest)
        file.write(_ARGUMENTS.pack(*arguments, 100, 1e-4))
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
