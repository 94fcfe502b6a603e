"""Embedding tables whose training step costs what the batch costs, with dense training's numbers.

`rowwise.Table` is the table itself, NumPy in and NumPy out. `rowwise.rules` has the update rules,
`rowwise.errors` the errors; `rowwise.keras` and `rowwise.torch` are the layers on top.
"""

from rowwise import errors, rules
from rowwise._native import get_num_threads
from rowwise.table import Table, set_num_threads
from rowwise.text import Vocabulary

__version__ = "0.1.0"

__all__ = [
    "Table",
    "Vocabulary",
    "errors",
    "get_num_threads",
    "rules",
    "set_num_threads",
]
