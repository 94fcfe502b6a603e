"""The formats by name, and which of them a name or a file's first bytes stand for."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rowwise.vectors import gensim
from rowwise.vectors.binary import read_binary, write_binary
from rowwise.vectors.errors import VectorsFileError
from rowwise.vectors.fasttext import MAGIC, read_fasttext, write_fasttext
from rowwise.vectors.layout import head_of, numbers_at_end
from rowwise.vectors.numpy_file import read_npy, read_npz, write_npy, write_npz
from rowwise.vectors.options import Options
from rowwise.vectors.projector import read_projector, write_projector
from rowwise.vectors.safetensors_file import read_safetensors, write_safetensors
from rowwise.vectors.source import split_member
from rowwise.vectors.static_folder import read_static, write_static
from rowwise.vectors.text import read_text, write_text
from rowwise.vectors.vectors import Vectors


@dataclass(frozen=True)
class Format:
    """How a format is read and written, and what it is."""

    about: str
    read: Callable[[str, Options], Vectors]
    write: Callable[[Vectors, str], None]


_with_header = partial(read_text, header=True)
_write_with_header = partial(write_text, header=True)

FORMATS: dict[str, Format] = {
    "word2vec": Format("text, with a header line", _with_header, _write_with_header),
    "word2vec-binary": Format("header line, then float32", read_binary, write_binary),
    "glove": Format(
        "text, no header line", partial(read_text, header=False), partial(write_text, header=False)
    ),
    "fasttext": Format(".vec: word2vec's text", _with_header, _write_with_header),
    "fasttext-bin": Format(".bin: a model with its n-grams", read_fasttext, write_fasttext),
    "gensim": Format("a pickle: refused", gensim.refuse, gensim.refuse_to_write),
    "safetensors": Format("one file, any word", read_safetensors, write_safetensors),
    "npy": Format(".npy, words in .words.txt", read_npy, write_npy),
    "npz": Format("arrays 'words' and 'vectors'", read_npz, write_npz),
    "projector": Format("vectors.tsv, metadata.tsv", read_projector, write_projector),
    "static": Format("folder: model.safetensors, tokenizer.json", read_static, write_static),
}

_BY_ENDING = {
    ".txt": "glove",
    ".glove": "glove",
    ".vec": "fasttext",
    ".w2v": "word2vec",
    ".safetensors": "safetensors",
    ".npy": "npy",
    ".npz": "npz",
    ".tsv": "projector",
    ".kv": "gensim",
    "": "static",
}
_STREAMED = ("word2vec", "word2vec-binary", "glove", "fasttext", "fasttext-bin", "projector")


def save(vectors: Vectors, path: str | os.PathLike[str], format: str | None) -> None:
    """See `Vectors.save`."""
    name = os.fspath(path)
    plain, packed = Path(name), ""
    if plain.suffix.lower() in (".gz", ".zip"):
        plain, packed = plain.with_suffix(""), plain.suffix
    ending = plain.suffix.lower()
    if format is None and ending == ".bin":
        format = "fasttext-bin" if vectors.subwords else "word2vec-binary"
    if format is None:
        format = _BY_ENDING.get(ending)
    if format is None or (not ending and packed and format == "static"):
        raise ValueError(
            f"{name!r}: its ending stands for no format; take one of "
            f"{', '.join(filter(None, _BY_ENDING))}, .bin, or pass format=..., one of "
            f"{', '.join(FORMATS)}"
        )
    if packed and format in FORMATS and format not in _STREAMED:
        raise ValueError(f"{name!r}: format {format!r} is not compressed; leave out {packed}")
    if not Path(name).absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(Path(name).parent)!r}")
    named(format).write(vectors, name)


def named(format: str) -> Format:
    """The format of a name.

    Raises:
        ValueError: there is none.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is not one of {', '.join(FORMATS)}")
    return FORMATS[format]


def format_of(path: str) -> str:
    """The format of a file or folder, by what is in it.

    Raises:
        FileNotFoundError: there is no such file.
        VectorsFileError: a folder of something else.
    """
    file, member = split_member(path)
    if file.is_dir():
        return _format_of_folder(file)
    if member is None and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
        if any(name.endswith(".npy") for name in names):
            return "npz"
        if any(name.endswith("data.pkl") for name in names):
            return "gensim"
    return _format_of_content(path, head_of(path))


def _format_of_folder(folder: Path) -> str:
    if (folder / "vectors.tsv").exists() or (folder / "vectors.tsv.gz").exists():
        return "projector"
    for inner in (folder, folder / "0_StaticEmbedding"):
        if (inner / "model.safetensors").exists():
            return "static"
    raise VectorsFileError(
        folder,
        found="a folder without vectors.tsv or model.safetensors",
        fix="name the file in it",
    )


def _format_of_content(path: str, head: bytes) -> str:
    ending = Path(path.lower().removesuffix(".gz").removesuffix(".zip")).suffix
    if head[:6] == b"\x93NUMPY":
        return "npy"
    if (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5") or ending in (".kv", ".pkl", ".pickle"):
        return "gensim"
    if ending == ".safetensors" or (len(head) > 8 and head[8:9] == b"{" and head[5:8] == b"\0\0\0"):
        return "safetensors"
    if ending == ".tsv":
        return "projector"
    if _is_fasttext(head):
        return "fasttext-bin"
    first, line_break, rest = head.partition(b"\n")
    fields = first.split()
    if line_break and len(fields) == 2 and all(field.isdigit() for field in fields):
        line, whole, _ = rest.partition(b"\n")
        # Text ends a row with a number; four bytes of a float32 are hardly ever one.
        if rest and numbers_at_end(line) == 0 and (whole or b"\0" in rest or ending == ".bin"):
            return "word2vec-binary"
        return "word2vec" if ending == ".vec" else "text"
    return "text"


def _is_fasttext(head: bytes) -> bool:
    if len(head) < 56:
        return head[:4] == struct.pack("<i", MAGIC)
    values = struct.unpack("<12i", head[:48])
    if values[0] == MAGIC:
        return True
    # The older header: dim, ws, epoch, min_count, neg, word_ngrams, loss, model, bucket...
    return (
        0 < values[0] < 1 << 16
        and all(0 <= value < 1 << 16 for value in values[1:6])
        and 1 <= values[6] <= 4
        and 1 <= values[7] <= 3
    )
