"""One safetensors file: `vectors` (V, D), `words` (bytes) and `word_ends` (V,); or a table's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rowwise.errors import DamagedFileError, VectorsFileError
from rowwise.files._atomic import replacing
from rowwise.store import open_rows
from rowwise.vectors._collector import WordList, collect
from rowwise.vectors._options import Options
from rowwise.vectors._packed_strings import PackedStrings, pack_any
from rowwise.vectors._safetensors import TensorRows, save_tensors, tensors_of
from rowwise.vectors._static_folder import read_static_folder
from rowwise.vectors._word_matrix import WordMatrix
from rowwise.vectors._writer import refuse_folder
from rowwise.vectors.formats._format import Confidence, Format, Sample

_FORMAT = "rowwise vectors 1"


def _sniff(sample: Sample) -> Confidence:
    # The header's length in eight bytes, then JSON.
    if sample.head[5:8] == b"\0\0\0" and sample.head[8:10] in (b'{"', b"{}"):
        return Confidence.CERTAIN
    return Confidence.LIKELY if sample.suffix == ".safetensors" else Confidence.NO


def _read(path: str, options: Options) -> WordMatrix:
    """Read what `_write` or `Table.save` wrote, or a model with its tokenizer.json."""
    with tensors_of(path) as file:
        names = set(file.keys())
        if {"vectors", "words", "word_ends"} <= names:
            text, ends = (TensorRows(path, file, name) for name in ("words", "word_ends"))
            rows = TensorRows(path, file, "vectors")
            return collect(path, PackedStrings(path, text, ends), rows, rows.shape, options)
        if (file.metadata() or {}).get("format", "").startswith("rowwise table"):
            return _rows_of_table(path, options)
    if Path(path).with_name("tokenizer.json").is_file():
        return read_static_folder(path, options)
    raise VectorsFileError(
        path,
        found=f"tensors {', '.join(sorted(names)[:8]) or 'none'}",
        expected="'vectors', 'words' and 'word_ends', or a tokenizer.json beside the file",
        fix="make a rowwise.vectors.Vectors(words, matrix) of the tensor and your words",
    )


def _rows_of_table(path: str, options: Options) -> WordMatrix:
    """Return the up-to-date rows of a table's words; of several unknown entries the first."""
    try:
        store, vocabulary = open_rows(path)
    except DamagedFileError as error:
        raise VectorsFileError(path, found=f"a damaged table ({error})") from error
    if vocabulary is None:
        raise VectorsFileError(
            path,
            found="a table without a vocabulary",
            fix="give it one before it is saved: table.vocabulary = rowwise.Vocabulary(...)",
        )
    words = list(dict.fromkeys(vocabulary.tokens))
    rows = np.empty((len(words), store.shape[1]), np.float32)
    store.gather(vocabulary.lookup(words), rows)
    return collect(path, WordList(words), rows, rows.shape, options)


def _write(vectors: WordMatrix, path: str) -> None:
    """Write words and matrix; any word and any number comes back as it was."""
    text, ends = pack_any(vectors.words)
    tensors = {
        "vectors": np.ascontiguousarray(vectors.matrix),
        "words": text,
        "word_ends": ends,
    }
    refuse_folder(Path(path))
    with replacing(path) as temporary:
        save_tensors(tensors, temporary, {"format": _FORMAT})


FORMAT = Format(
    name="safetensors",
    about="one file, any word",
    suffixes=(".safetensors",),
    sniff=_sniff,
    read=_read,
    write=_write,
)
