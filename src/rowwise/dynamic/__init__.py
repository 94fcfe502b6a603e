"""Tables for ids that nobody numbered: any 64-bit integer, or any string, within bounded memory.

`DynamicTable` gives rows to ids as they come, and takes them back from ids that stay away.
`IdIndex` is its index alone: from ids to rows, without vectors.
"""

from rowwise.dynamic._index import Changes, IdIndex
from rowwise.dynamic._table import DynamicTable

__all__ = ["Changes", "DynamicTable", "IdIndex"]
