"""The weight of a `DynamicEmbedding` whose rows lie on a disk: its file holds rows and ids."""

from __future__ import annotations

import os
from typing import Any

from rowwise.dynamic import DynamicTable
from rowwise.torch._disk import DiskWeight


class DynamicDiskWeight(DiskWeight):
    """The weight of a dynamic table on a disk, as a parameter without memory of its own.

    Attributes:
        dynamic: the rows, and the index in front.
    """

    of = "a DynamicEmbedding on a disk"
    instead = "module.save(path) writes rows and ids to a file"

    dynamic: DynamicTable

    @classmethod
    def in_front(cls, dynamic: DynamicTable, requires_grad: bool = True) -> DynamicDiskWeight:
        """Return the parameter of a dynamic table."""
        self = cls.over(dynamic.table, requires_grad)
        self.dynamic = dynamic
        return self

    @property
    def version(self) -> Any:
        """A value that is another after every change of rows or ids."""
        return self.dynamic.version

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save rows and ids, and remember the file for `saved_file`."""
        self.dynamic.save(path)
        self.remember(path)

    def become(self, path: str, **place: Any) -> None:
        """Take over the rows and ids that a file holds."""
        self.dynamic.become(DynamicTable.load(path, **place))
