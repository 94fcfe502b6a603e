"""A page on this machine that shows the rows of tables, however many there are."""

from rowwise.inspect.view._explorer import Explorer, Moment
from rowwise.inspect.view._server import Server

__all__ = ["Explorer", "Moment", "Server"]
