"""`rowwise.vectors.load`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rowwise.vectors.formats import format_of, named
from rowwise.vectors.options import Options
from rowwise.vectors.source import split_member
from rowwise.vectors.text import read_text
from rowwise.vectors.vectors import Vectors


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
    """Reads pretrained vectors.

    Text and word2vec files may be gzip or zip; a file in an archive of several is named as if the
    archive were a folder, "glove.6B.zip/glove.6B.100d.txt". No pickle is ever opened. Beside the
    result a few megabytes are needed, however large the file.

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
    options = Options.checked(limit, words, dtype, errors, finite)
    if not isinstance(path, str | os.PathLike):
        return _part_of(Vectors.from_gensim(path), options)
    name = os.fspath(path)
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    split_member(name)
    if format is not None:
        return named(format).read(name, options)
    found = format_of(name)
    return read_text(name, options) if found == "text" else named(found).read(name, options)


def _part_of(vectors: Vectors, options: Options) -> Vectors:
    from rowwise.vectors.blob import chosen

    shape = vectors.matrix.shape
    part = chosen("KeyedVectors", vectors.words, vectors.matrix, shape, options)
    part.subwords = vectors.subwords
    return part
