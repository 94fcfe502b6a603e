"""Look at a table: neighbours, projections, facts, a report, a page."""

from rowwise._neighbors import nearest
from rowwise.inspect._layout import Layout
from rowwise.inspect._projection import Projection
from rowwise.inspect._summary import summary

__all__ = ["Layout", "Projection", "nearest", "summary"]
