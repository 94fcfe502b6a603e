"""A page on this machine that shows the rows of tables, however many there are."""

from rowwise.view.explorer import Explorer, Moment
from rowwise.view.server import Server

__all__ = ["Explorer", "Moment", "Server"]
