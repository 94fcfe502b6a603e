"""NumPy's .npz: one archive with the words and the numbers."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.errors import VectorsFileError
from rowwise.files._atomic import replacing
from rowwise.vectors._array_stream import ArrayStream
from rowwise.vectors._collector import Words, collect
from rowwise.vectors._options import Options
from rowwise.vectors._packed_strings import PackedStrings, pack_any
from rowwise.vectors._reader import archive_of, member_of
from rowwise.vectors._word_matrix import WordMatrix
from rowwise.vectors._writer import refuse_folder
from rowwise.vectors.formats._format import Confidence, Format, Sample

_MOST_PADDING = 1 << 26
_MOST_ARRAYS = 1000


def _sniff(sample: Sample) -> Confidence:
    holds_arrays = any(name.endswith(".npy") for name in sample.members)
    return Confidence.CERTAIN if holds_arrays else Confidence.NO


class _WordArray:
    """Read words from an array of strings or bytes."""

    def __init__(self, array: ArrayStream, options: Options) -> None:
        self.count, self._array, self._read, self._options = array.shape[0], array, 0, options

    def take(self, count: int) -> list[str]:
        """Return the next words, `count` or as many as there are."""
        stop = min(self.count, self._read + count)
        block = self._array[self._read : stop]
        self._read = stop
        try:
            raw = block.tolist()
            return [self._options.decode(w) if isinstance(w, bytes) else str(w) for w in raw]
        except (ValueError, SystemError) as error:  # NumPy's about what is beyond Unicode
            raise VectorsFileError(
                self._array.path,
                found=f"a word that is not text ({error})",
                fix="pass errors='replace' or 'ignore', as in bytes.decode, to read on",
            ) from error


def _read(path: str, options: Options) -> WordMatrix:
    """Read an archive with an array of words, and a matrix with a row for each."""
    with ExitStack() as stack:
        raw = stack.enter_context(open(path, "rb"))
        archive = stack.enter_context(archive_of(path, raw))
        infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if len(infos) > _MOST_ARRAYS:
            raise VectorsFileError(path, found=f"{len(infos):,} arrays", expected="two or three")
        size = Path(path).stat().st_size
        arrays = {}
        for info in infos:
            reader = stack.enter_context(member_of(path, archive, info, size))
            arrays[info.filename[:-4]] = ArrayStream(reader, info.filename)
        words, table = _words_in(path, arrays, options), _table_in(arrays)
        if words is None or table is None:
            found = ", ".join(f"{n} {a.dtype} {a.shape}" for n, a in list(arrays.items())[:8])
            raise VectorsFileError(
                path,
                found=f"arrays {found or 'none'}",
                expected="'words', strings (V,), and 'vectors', numbers (V, D)",
                fix="np.savez(path, words=np.array(words), vectors=matrix) makes such a file",
            )
        return collect(path, words, table, table.shape, options, are_there=table.is_plain)


def _table_in(arrays: dict[str, ArrayStream]) -> ArrayStream | None:
    tables = {n: a for n, a in arrays.items() if len(a.shape) == 2 and a.dtype.kind in "fi"}
    if "vectors" in tables:
        return tables["vectors"]
    return next(iter(tables.values())) if len(tables) == 1 else None


def _words_in(path: str, arrays: dict[str, ArrayStream], options: Options) -> Words | None:
    if {"words", "word_ends"} <= arrays.keys():
        return PackedStrings(path, arrays["words"], arrays["word_ends"])
    texts = {n: a for n, a in arrays.items() if len(a.shape) == 1 and a.dtype.kind in "US"}
    if "words" in texts:
        return _WordArray(texts["words"], options)
    return _WordArray(next(iter(texts.values())), options) if len(texts) == 1 else None


def _write(vectors: WordMatrix, path: str) -> None:
    """Write arrays `vectors` (V, D) and `words` (V,), strings that np.load gives back.

    Where NumPy's strings of one width would lose something or waste much, `words` are bytes (n,)
    and `word_ends` (V,) says where each ends.
    """
    words: dict[str, NDArray[Any]] = {"words": np.empty(0, "U1")}
    widest = max(map(len, vectors.words), default=0)
    if widest * 4 * len(vectors) > _MOST_PADDING + vectors.matrix.nbytes or any(
        word.endswith("\0") for word in vectors.words
    ):
        words["words"], words["word_ends"] = pack_any(vectors.words)
    elif vectors.words:
        words["words"] = np.array(vectors.words)
    refuse_folder(Path(path))
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, vectors=vectors.matrix, **words)  # type: ignore[arg-type]


FORMAT = Format(
    name="npz",
    about="arrays 'words' and 'vectors'",
    suffixes=(".npz",),
    sniff=_sniff,
    read=_read,
    write=_write,
)
