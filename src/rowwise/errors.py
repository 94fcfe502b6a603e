"""Every public error of the package."""

from __future__ import annotations

import os


class UntrainedError(LookupError):
    """A row was asked for that was never trained, and `untrained="error"`."""


class DamagedFileError(ValueError):
    """A file is cut short, changed, or not of the format it should be.

    Example:
        >>> print(DamagedFileError("t.rowwise", "it has 3 bytes and needs 8"))
        't.rowwise' is damaged or no table's file: it has 3 bytes and needs 8
    """

    def __init__(self, path: str | os.PathLike[str], what: str) -> None:
        super().__init__(f"{os.fspath(path)!r} is damaged or no table's file: {what}")


class VectorsFileError(ValueError):
    """Report a file of vectors that is not what it should be.

    Attributes:
        path: the file.
        where: the line, row or byte in it, e.g. "line 7", or "".

    Example:
        >>> print(VectorsFileError("v.txt", "line 7", found="2 numbers", expected="3"))
        v.txt, line 7: found 2 numbers; expected 3
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        where: str = "",
        *,
        found: str,
        expected: str = "",
        fix: str = "",
    ) -> None:
        self.path, self.where = os.fspath(path), where
        place = f"{self.path}, {where}" if where else self.path
        parts = [f"{place}: found {found}", f"expected {expected}" if expected else "", fix]
        super().__init__("; ".join(part for part in parts if part))


class ExchangeError(RuntimeError):
    """Another rank of a sharded table is gone, or did not answer in time.

    Ranks may then be at different steps: load the last checkpoint.
    """


class RankMismatchError(ValueError):
    """The ranks of a sharded table made different calls; nothing has changed on any of them."""
