"""What is raised about a file of vectors."""

from __future__ import annotations

import os


class VectorsFileError(ValueError):
    """A file of vectors is not what it should be.

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
