"""`rowwise.vectors.load`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rowwise.vectors._collector import WordList, collect
from rowwise.vectors._options import Options
from rowwise.vectors._reader import refuse_tar
from rowwise.vectors._vectors import Vectors
from rowwise.vectors.formats import format_named, format_of
from rowwise.vectors.formats._format import Sample


def load(
    path: Any,
    *,
    format: str | None = None,
    limit: int | None = None,
    dtype: Any = "float32",
    words: Iterable[str] | None = None,
    errors: str = "strict",
    finite: bool = True,
) -> Vectors:
    """Read pretrained vectors.

    Files may be compressed by gz, bz2 or xz, or be in a zip archive; one of several in an archive
    is named as if the archive were a folder, "glove.6B.zip/glove.6B.100d.txt". No pickle is ever
    opened. Beside the result a few megabytes are needed, however large the file.

    Args:
        path: a file or folder; or a gensim `KeyedVectors` that gensim has loaded.
        format: a name of `rowwise.vectors.FORMATS`; found out from the content unless given.
        limit: the first rows alone; files have frequent words first.
        dtype: "float32", "float64" or "float16".
        words: only the vectors of these words, e.g. a `rowwise.Vocabulary`. Rows of others are
            passed over, which is faster than to read them.
        errors: what becomes of words that are no UTF-8, as in `bytes.decode`.
        finite: whether a NaN or an infinity is an error.

    Returns:
        words and matrix (V, D) in the order of the file. Of equal words the first stays, and one
        warning counts the others.

    Raises:
        FileNotFoundError: there is no such file.
        VectorsFileError: a `ValueError` that says in which file and line something was found,
            what was expected, and what to do.
        MemoryError: the result would not fit.

    Example:
        >>> import tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "tiny.txt")
        >>> with open(path, "w") as file:
        ...     _ = file.write("tea 1.0 2.5\\nnew york 3.0 4.0\\n")
        >>> vectors = load(path)
        >>> vectors.words, vectors["new york"].tolist()
        (['tea', 'new york'], [3.0, 4.0])
        >>> load(path, words=["new york", "pot"]).words
        ['new york']
    """
    options = Options.validated(limit, words, dtype, errors, finite)
    if not isinstance(path, str | os.PathLike):
        return part_of(Vectors.from_gensim(path), options)
    sample = Sample(os.fsdecode(path))
    refuse_tar(sample.path, sample.head)
    chosen = format_of(sample) if format is None else format_named(format)
    found = chosen.read(sample.path, options)
    return Vectors(found.words, found.matrix, subwords=found.subwords)


def part_of(vectors: Vectors, options: Options) -> Vectors:
    """Return the part of vectors in memory that options ask for."""
    shape = vectors.matrix.shape
    part = collect("KeyedVectors", WordList(vectors.words), vectors.matrix, shape, options)
    return Vectors(part.words, part.matrix, subwords=vectors.subwords)
