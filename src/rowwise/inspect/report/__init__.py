"""A report on a table's rows: one HTML file that opens with no network."""

from rowwise.inspect.report._page import write_report

__all__ = ["write_report"]
