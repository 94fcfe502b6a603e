"""TensorBoard's projector: vectors.tsv without words, and metadata.tsv with them."""

from __future__ import annotations

from pathlib import Path

from rowwise.errors import VectorsFileError
from rowwise.vectors._collector import Collector
from rowwise.vectors._compression import SUFFIXES
from rowwise.vectors._manifest import whole_set
from rowwise.vectors._options import Options
from rowwise.vectors._packed_strings import encode_word
from rowwise.vectors._reader import count_lines, opened
from rowwise.vectors._text_layout import head_of
from rowwise.vectors._text_rows import TextLines, text_blocks
from rowwise.vectors._word_lines import WordLines, first_line
from rowwise.vectors._word_matrix import WordMatrix
from rowwise.vectors._writer import compressing, writing_together
from rowwise.vectors.formats._format import Confidence, Format, Sample

_COLUMNS = ("word", "words", "token", "label", "name")
_NUMBERS = tuple(f"vectors.tsv{suffix}" for suffix in ("", *SUFFIXES))


def _sniff(sample: Sample) -> Confidence:
    if sample.is_folder:
        return Confidence.CERTAIN if _numbers_in(sample.file) else Confidence.NO
    return Confidence.LIKELY if sample.suffix == ".tsv" else Confidence.NO


def _read(path: str, options: Options) -> WordMatrix:
    """Read vectors.tsv (or the folder it is in) with the metadata beside it.

    Metadata of one column has a word a line; of several, the first line names them.
    """
    numbers, metadata = _files(path)
    with whole_set(numbers):
        names = first_line(str(metadata)).split(b"\t")
        has_names = len(names) > 1
        count = count_lines(str(metadata)) - has_names
        dim = head_of(str(numbers)).split(b"\n")[0].rstrip(b"\r\t").count(b"\t") + 1
        with opened(numbers) as reader, opened(metadata) as lines:
            if count * (2 * dim) - 1 > reader.bound:
                raise _uneven(str(numbers), count, str(metadata), f"{reader.bound} bytes")
            words = WordLines(lines, count, options, skip=has_names, column=_column(names))
            collector = Collector(
                str(numbers), dim, options, expected=count, holds_expected=reader.is_plain,
                fraction=reader.fraction,
            )  # fmt: skip
            rows = TextLines(reader, dim, options, first_line=1, separator="\t", has_word=False)
            for block in rows.blocks(collector):
                if collector.seen + block.seen > count:
                    raise _uneven(str(numbers), count, str(metadata), "more rows")
                collector.add(words.take(block.seen), block.rows, block.where)
        if not collector.done and collector.seen != count:
            raise _uneven(str(numbers), count, str(metadata), f"{collector.seen} rows")
    return collector.result()


def _write(vectors: WordMatrix, path: str) -> None:
    """Write both files, into the folder `path` or, for a path that ends in .tsv, beside it."""
    for word in vectors.words:
        if "\t" in word or "\n" in word or word.endswith("\r"):
            raise ValueError(
                f"word {word!r} holds a tab or a line break, which metadata.tsv cannot; "
                "save as .safetensors"
            )
    target = Path(path)
    if ".tsv" not in target.suffixes:
        target.mkdir(parents=True, exist_ok=True)
        target = target / "vectors.tsv"
    metadata = _metadata_of(target)
    with writing_together([target, metadata]) as (numbers, words):
        with compressing(words, metadata) as file:
            file.write(b"".join(encode_word(word) + b"\n" for word in vectors.words))
        with compressing(numbers, target) as file:
            for text in text_blocks(vectors, "\t", has_word=False):
                file.write(text)


def _column(names: list[bytes]) -> int:
    plain = [name.strip().lower().decode(errors="replace") for name in names]
    return next((i for i, name in enumerate(plain) if name in _COLUMNS), 0)


def _numbers_in(folder: Path) -> Path | None:
    return next((folder / name for name in _NUMBERS if (folder / name).exists()), None)


def _metadata_of(path: Path) -> Path:
    """Return the words' file: vectors.tsv -> metadata.tsv, x.tsv -> x-metadata.tsv.

    For x-vectors.tsv it is x-metadata.tsv too.
    """
    stem, dot, ending = path.name.partition(".tsv")
    if stem.endswith("vectors"):
        return path.with_name(stem.removesuffix("vectors") + "metadata" + dot + ending)
    return path.with_name(f"{stem}-metadata{dot}{ending}")


def _files(path: str) -> tuple[Path, Path]:
    given = Path(path)
    if given.is_dir():
        given = _numbers_in(given) or given / "vectors.tsv"
    if _metadata_of(given).name == given.name or given.name.startswith("metadata"):
        raise VectorsFileError(path, found="the words", fix="name vectors.tsv, which is beside it")
    candidates = [_metadata_of(given), given.with_name("metadata.tsv")]
    metadata = next((p for p in candidates if p.exists()), None)
    if metadata is None:
        raise VectorsFileError(
            path,
            found="no words",
            expected=f"{candidates[0].name} beside it",
            fix="put it there, with a word a line in the order of the rows",
        )
    return given, metadata


def _uneven(path: str, words: int, metadata: str, found: str) -> VectorsFileError:
    return VectorsFileError(
        path,
        found=found,
        expected=f"{words:,} rows, one for each word of {metadata}",
        fix="metadata of one column has no line of names; the rows have no header",
    )


FORMAT = Format(
    name="projector",
    about="vectors.tsv, metadata.tsv",
    suffixes=(".tsv",),
    sniff=_sniff,
    read=_read,
    write=_write,
    is_compressed=True,
    is_folder=True,
)
