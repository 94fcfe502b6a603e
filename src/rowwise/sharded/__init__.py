"""Tables whose rows lie on several processes, with the numbers of one process.

`ShardedTable` is NumPy alone: it talks to the other processes through an `Exchange`, a protocol of
one method. `rowwise.torch` puts `torch.distributed` behind it; `ThreadExchange` runs all ranks as
threads of one process.
"""

from rowwise.sharded._buckets import Layout
from rowwise.sharded._dynamic import ShardedDynamicTable
from rowwise.sharded._exchange import Exchange, Pending, ThreadExchange
from rowwise.sharded._table import ShardedTable

__all__ = ["Exchange", "Layout", "Pending", "ShardedDynamicTable", "ShardedTable", "ThreadExchange"]
