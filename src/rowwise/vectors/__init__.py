"""Pretrained vectors: read and written in the formats they come in."""

from rowwise.vectors._load import load
from rowwise.vectors._pretrained import Coverage, Pretrained, pretrained_rows, rows_for
from rowwise.vectors._save import save
from rowwise.vectors._subwords import Subwords
from rowwise.vectors._vectors import Vectors
from rowwise.vectors.formats import FORMATS

__all__ = [
    "FORMATS",
    "Coverage",
    "Pretrained",
    "Subwords",
    "Vectors",
    "load",
    "pretrained_rows",
    "rows_for",
    "save",
]
