"""`rowwise.vectors.save`."""

from __future__ import annotations

import os
from pathlib import Path

from rowwise.vectors._compression import split_suffix
from rowwise.vectors._word_matrix import WordMatrix
from rowwise.vectors.formats import FORMATS, format_for, format_named


def save(vectors: WordMatrix, path: str | os.PathLike[str], format: str | None = None) -> None:
    """Write vectors to a file, or a folder of several, whole or not at all.

    The files of a set (npy, projector, static) are replaced one after the other. Of a save that
    ends between two of them `load` says so: see `docs/reliability.md`.

    Args:
        vectors: a `rowwise.vectors.Vectors`.
        path: `.gz`, `.bz2`, `.xz` or `.zip` after a text's or word2vec's suffix compresses.
        format: a name of `rowwise.vectors.FORMATS`; by the suffix unless given. `.bin` is
            fastText's for vectors with `subwords`, word2vec's for others.

    Raises:
        ValueError: a suffix that stands for no format, or words that the format cannot hold.
        OSError: no such folder, no room, or no permission; `path` is what it was.
    """
    name = os.fspath(path)
    suffix, packed = split_suffix(name)
    if format is not None:
        chosen = format_named(format)
    else:
        found = format_for(suffix, has_subwords=vectors.subwords is not None)
        if found is None or (packed and not suffix):
            suffixes = sorted({s for format in FORMATS.values() for s in format.suffixes if s})
            raise ValueError(
                f"{name!r}: its suffix stands for no format; take one of "
                f"{', '.join(suffixes)}, or pass format=..., one of {', '.join(FORMATS)}"
            )
        chosen = found
    if packed and not chosen.is_compressed:
        raise ValueError(f"{name!r}: format {chosen.name!r} is not compressed; leave out {packed}")
    if not Path(name).absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(Path(name).parent)!r}")
    chosen.write(vectors, name)
