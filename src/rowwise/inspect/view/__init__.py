"""Show the rows of tables, however many there are, on a page served by this machine."""

from rowwise.inspect.view._explorer import Explorer, Snapshot
from rowwise.inspect.view._server import Server

__all__ = ["Explorer", "Server", "Snapshot"]
