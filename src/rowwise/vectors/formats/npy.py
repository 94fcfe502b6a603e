"""NumPy's .npy for the numbers, and a text beside it for the words."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rowwise.errors import VectorsFileError
from rowwise.vectors._array_stream import MAGIC, ArrayStream, check_numeric
from rowwise.vectors._collector import collect
from rowwise.vectors._manifest import whole_set
from rowwise.vectors._options import Options
from rowwise.vectors._packed_strings import encode_word
from rowwise.vectors._reader import count_lines, opened
from rowwise.vectors._word_lines import WordLines
from rowwise.vectors._word_matrix import WordMatrix
from rowwise.vectors._writer import writing_together
from rowwise.vectors.formats._format import Confidence, Format, Sample


def _sniff(sample: Sample) -> Confidence:
    return Confidence.CERTAIN if sample.head.startswith(MAGIC) else Confidence.NO


def _read(path: str, options: Options) -> WordMatrix:
    """Read x.npy with x.words.txt, x.txt or words.txt beside it: a word a line, UTF-8."""
    given = Path(path)
    names = [_words_of(given), given.with_suffix(".txt"), given.with_name("words.txt")]
    with whole_set(given):
        beside = next((name for name in names if name.is_file()), None)
        if beside is None:
            raise VectorsFileError(
                path,
                found="no words",
                expected=f"{names[0].name} beside it",
                fix="put it there, with a word a line in the order of the rows",
            )
        with opened(path) as numbers, opened(beside) as lines:
            matrix = ArrayStream(numbers, "the array")
            check_numeric(path, matrix.dtype)
            words = WordLines(lines, count_lines(str(beside)), options)
            return collect(path, words, matrix, matrix.shape, options, are_there=matrix.is_plain)


def _write(vectors: WordMatrix, path: str) -> None:
    """Write x.npy, the words to x.words.txt, and a manifest of the two."""
    for word in vectors.words:
        if "\n" in word or word.endswith("\r"):
            raise ValueError(f"word {word!r} holds a line break; save as .npz or .safetensors")
    target = Path(path)
    with writing_together([target, _words_of(target)]) as (numbers, words):
        Path(words).write_bytes(b"".join(encode_word(word) + b"\n" for word in vectors.words))
        matrix = np.ascontiguousarray(vectors.matrix)
        with open(numbers, "wb") as file:
            header = np.lib.format.header_data_from_array_1_0(matrix)
            np.lib.format.write_array_header_1_0(file, header)
            file.write(matrix.data)  # NumPy's own way does not say why a disk refuses


def _words_of(path: Path) -> Path:
    return path.with_suffix(".words.txt")


FORMAT = Format(
    name="npy",
    about=".npy, words in .words.txt",
    suffixes=(".npy",),
    sniff=_sniff,
    read=_read,
    write=_write,
)
