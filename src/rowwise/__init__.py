"""Embedding tables whose training step costs what the batch costs, with dense training's numbers.

`rowwise.Table` is the table itself, NumPy in and NumPy out; `rowwise.keras.Embedding` is the
Keras layer on top of it.
"""

from rowwise import rules
from rowwise._native import get_num_threads
from rowwise.files.container import DamagedFileError
from rowwise.rules import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Ftrl,
    Lion,
    Nadam,
    RMSprop,
    Rule,
)
from rowwise.table import Table, set_num_threads
from rowwise.unseen import UnseenError
from rowwise.vocabulary import Vocabulary

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "DamagedFileError",
    "Ftrl",
    "Lion",
    "Nadam",
    "RMSprop",
    "Rule",
    "Table",
    "UnseenError",
    "Vocabulary",
    "get_num_threads",
    "rules",
    "set_num_threads",
]
