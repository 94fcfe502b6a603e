"""Compressions of one stream, by name and by first bytes. Zip archives are in `_reader`."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

# The most bytes that one byte of deflate can become: a match of 258 bytes takes two bits.
MOST_RATIO = 1032
# Content of this size is read whatever the ratio.
_ALWAYS_READ = 1 << 20

# What a damaged stream raises, beside an OSError without a number.
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


@dataclass(frozen=True)
class Compression:
    """Say how content is compressed and what it is known by.

    Attributes:
        suffix: of a file's name.
        magics: the first bytes of such a file are one of these.
        open: open a file of compressed bytes, "rb" or "wb"; the third argument is the name of
            the content.
    """

    suffix: str
    magics: tuple[bytes, ...]
    open: Callable[[IO[bytes], str, str], IO[bytes]]


def _gzip(raw: IO[bytes], mode: str, name: str) -> IO[bytes]:
    # Without a time, so that the same content gives the same bytes.
    return cast(IO[bytes], gzip.GzipFile(name, mode, 6, raw, mtime=0))


def _bzip2(raw: IO[bytes], mode: str, name: str) -> IO[bytes]:
    return cast(IO[bytes], bz2.open(raw, "rb" if mode == "rb" else "wb"))


def _xz(raw: IO[bytes], mode: str, name: str) -> IO[bytes]:
    return cast(IO[bytes], lzma.open(raw, "rb" if mode == "rb" else "wb"))


_BZIP2_MAGICS = tuple(b"BZh%d" % n + rest for n in range(1, 10) for rest in (b"1AY&", b"\x17rE8"))
COMPRESSIONS = (
    Compression(".gz", (b"\x1f\x8b",), _gzip),
    Compression(".bz2", _BZIP2_MAGICS, _bzip2),
    Compression(".xz", (b"\xfd7zXZ\0",), _xz),
)
SUFFIXES = (".zip", *(compression.suffix for compression in COMPRESSIONS))


def content_bound(compressed: int, *, deflate: bool) -> int:
    """Return how many bytes of content are read at most from compressed bytes.

    bzip2 and xz can hold a million bytes in one; no file of vectors comes near what deflate can,
    so that they are held to its ratio.
    """
    bound = compressed * MOST_RATIO
    return bound if deflate else max(bound, _ALWAYS_READ)


def split_suffix(name: str) -> tuple[str, str]:
    """Return a name's suffixes in lower case, of the content and of the compression, or "".

    Example:
        >>> split_suffix("glove.50d.TXT.gz")
        ('.txt', '.gz')
    """
    path, packed = Path(name), ""
    if path.suffix.lower() in SUFFIXES:
        packed = path.suffix.lower()
        path = path.with_suffix("")
    return path.suffix.lower(), packed
