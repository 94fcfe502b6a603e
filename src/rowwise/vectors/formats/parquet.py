"""Parquet: a column of words, and one of vectors as lists of numbers; needs pyarrow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.errors import VectorsFileError
from rowwise.files._atomic import replacing
from rowwise.vectors._collector import BLOCK_ROWS, Collector
from rowwise.vectors._frames import VECTOR, WORD
from rowwise.vectors._options import Options
from rowwise.vectors._word_matrix import WordMatrix
from rowwise.vectors._writer import refuse_folder
from rowwise.vectors.formats._format import Confidence, Format, Sample

_FIX = "rowwise.vectors.Vectors(words, matrix) takes what you read of it yourself"


def _sniff(sample: Sample) -> Confidence:
    if sample.head[:4] == b"PAR1":
        return Confidence.CERTAIN
    return Confidence.LIKELY if sample.suffix == ".parquet" else Confidence.NO


def _read(path: str, options: Options) -> WordMatrix:
    """Read columns `word` and `vector`, or the only one of strings and the only one of lists."""
    pyarrow, parquet = _pyarrow(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path!r}")
    collector: Collector | None = None
    try:
        with parquet.ParquetFile(path) as file:
            columns = _columns(path, pyarrow.types, file.schema_arrow)
            for batch in file.iter_batches(BLOCK_ROWS, columns=columns):
                words, rows = (batch.column(name) for name in columns)
                matrix = _matrix(path, rows)
                if collector is None:
                    expected = file.metadata.num_rows
                    collector = Collector(
                        path, matrix.shape[1], options, expected=expected, holds_expected=False
                    )
                taken = slice(collector.left)
                collector.add(_words(path, pyarrow, words, options)[taken], matrix[taken])
                if collector.done:
                    break
            if collector is None:
                dim = getattr(file.schema_arrow.field(columns[1]).type, "list_size", 0)
                if dim < 1:
                    raise VectorsFileError(path, found="no rows", expected="words and vectors")
                collector = Collector(path, dim, options)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise VectorsFileError(
            path, found=f"no whole Parquet file ({error})", fix="download it again"
        ) from error
    return collector.result()


def _columns(path: str, types: Any, schema: Any) -> list[str]:
    """Return the names of the column of words and of the column of vectors."""
    texts = [f.name for f in schema if types.is_string(f.type) or types.is_large_string(f.type)]
    lists = [f.name for f in schema if _holds_vectors(types, f.type)]
    chosen = []
    for name, candidates in ((WORD, texts), (VECTOR, lists)):
        if name not in candidates and len(candidates) != 1:
            columns = ", ".join(f"{f.name} {f.type}" for f in list(schema)[:8])
            raise VectorsFileError(
                path,
                found=f"columns {columns or 'none'}",
                expected=f"{WORD!r}, strings, and {VECTOR!r}, lists of numbers of one length",
                fix=_FIX,
            )
        chosen.append(name if name in candidates else candidates[0])
    return chosen


def _holds_vectors(types: Any, kind: Any) -> bool:
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type))


def _matrix(path: str, rows: Any) -> NDArray[Any]:
    """Return a column of lists as (n, D) numbers."""
    lengths = np.unique(rows.value_lengths().to_numpy(zero_copy_only=False))
    numbers = rows.flatten()
    if rows.null_count or numbers.null_count or len(lengths) != 1 or lengths[0] < 1:
        missing = rows.null_count + numbers.null_count
        found = f"{missing} missing values" if missing else f"lists of lengths {lengths[:8]}"
        raise VectorsFileError(
            path, found=f"vectors with {found}", expected="numbers of one length", fix=_FIX
        )
    return numbers.to_numpy(zero_copy_only=False).reshape(len(rows), int(lengths[0]))


def _words(path: str, pyarrow: Any, column: Any, options: Options) -> list[str]:
    if column.null_count:
        raise VectorsFileError(path, found="a word that is missing", expected="text", fix=_FIX)
    is_large = pyarrow.types.is_large_string(column.type)
    raw = column.cast(pyarrow.large_binary() if is_large else pyarrow.binary()).to_pylist()
    try:
        return [options.decode(word) for word in raw]
    except UnicodeDecodeError as error:
        raise VectorsFileError(
            path,
            found=f"a word that is not text ({error})",
            fix="pass errors='replace' or 'ignore', as in bytes.decode, to read on",
        ) from error


def _write(vectors: WordMatrix, path: str) -> None:
    """Write a column `word` of strings and a column `vector` of lists of length D."""
    pyarrow, parquet = _pyarrow(path)
    try:
        words = pyarrow.array(vectors.words, pyarrow.string())
    except UnicodeEncodeError as error:
        raise ValueError(
            f"word {error.object!r} is not text that UTF-8 can write; save as .safetensors"
        ) from error
    numbers = pyarrow.array(vectors.matrix.reshape(-1))
    rows = pyarrow.FixedSizeListArray.from_arrays(numbers, vectors.dim)
    refuse_folder(Path(path))
    with replacing(path) as temporary:
        table = pyarrow.table({WORD: words, VECTOR: rows})
        parquet.write_table(table, temporary, row_group_size=BLOCK_ROWS, use_dictionary=False)


def _pyarrow(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    """Import pyarrow and its module for Parquet.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{os.fspath(path)!r} needs pyarrow; pip install 'rowwise[files]'"
        ) from error
    return pyarrow, pyarrow.parquet


FORMAT = Format(
    name="parquet",
    about="columns 'word' and 'vector'",
    suffixes=(".parquet",),
    sniff=_sniff,
    read=_read,
    write=_write,
)
