"""A format of vectors: its name, its suffixes, and how it is recognised, read and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from rowwise.vectors._compression import split_suffix
from rowwise.vectors._options import Options
from rowwise.vectors._reader import members_of, split_member
from rowwise.vectors._text_layout import has_header, head_of
from rowwise.vectors._word_matrix import WordMatrix


class Confidence(IntEnum):
    """How sure a format is that a file is of its kind."""

    NO = 0
    FALLBACK = 1  # nothing speaks against it
    LIKELY = 2  # the name says so, or the content looks so
    CERTAIN = 3  # a magic number, or a file that only this format has


class Sample:
    """The parts of a file that tell its format; each is read when it is first asked for.

    Attributes:
        path: as the caller gave it.
        file: the file or folder; the archive, for a path into one.
        suffix: of the name, in lower case, without that of a compression.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.file, self._member = split_member(path)
        self.suffix = split_suffix(path)[0]

    @cached_property
    def is_folder(self) -> bool:
        """Return whether it is a folder."""
        return self.file.is_dir()

    @cached_property
    def members(self) -> tuple[str, ...]:
        """Return the names of the files in a zip archive that is given as a whole."""
        return () if self._member is not None else tuple(members_of(self.file))

    @cached_property
    def head(self) -> bytes:
        """Return the first bytes of the content; none of a folder or an archive of several."""
        return b"" if self.is_folder or len(self.members) > 1 else head_of(self.path)

    @cached_property
    def has_header(self) -> bool:
        """Return whether it is text with a header line."""
        return has_header(self.path, self.head)


@dataclass(frozen=True)
class Format:
    """Say how files of a format are named, recognised, read and written.

    Attributes:
        name: for `format=`.
        about: what such a file is, in a few words.
        suffixes: of names that are written in this format; "" is a name without one.
        sniff: say how sure it is that a file is of this format.
        read: read a file; raise `VectorsFileError` for what is wrong with it.
        write: write a file, whole or not at all; raise `ValueError` for words it cannot hold.
        is_compressed: whether a suffix such as .gz compresses what is written.
        holds_subwords: whether n-grams are kept. Of two formats that share a suffix, vectors with
            n-grams are written in the one that does, others in the one that does not.
        is_folder: whether a folder can be of this format.
    """

    name: str
    about: str
    suffixes: tuple[str, ...]
    sniff: Callable[[Sample], Confidence]
    read: Callable[[str, Options], WordMatrix]
    write: Callable[[WordMatrix, str], None]
    is_compressed: bool = False
    holds_subwords: bool = False
    is_folder: bool = False
