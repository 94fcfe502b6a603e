"""Where rows live: the seam between what users call and the memory that holds the rows.

`Table` and every adapter go through a `RowStore`. `HostStore` keeps rows in this process's memory
or in a scratch file, `DiskStore` on a disk with a cache in memory. A new placement is one more
class with the same methods.
"""

from rowwise.store._disk import DiskStore
from rowwise.store._gradient import BagGradient, Bags, RowGradient
from rowwise.store._host import HostStore, in_memory
from rowwise.store._memory import Folder
from rowwise.store._protocol import RowStore
from rowwise.store._state import TableState
from rowwise.store._table_file import open_rows

__all__ = [
    "BagGradient",
    "Bags",
    "DiskStore",
    "Folder",
    "HostStore",
    "RowGradient",
    "RowStore",
    "TableState",
    "in_memory",
    "open_rows",
]
