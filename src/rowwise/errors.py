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
