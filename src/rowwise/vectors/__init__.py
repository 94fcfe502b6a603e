"""Pretrained vectors: read and written in the formats they come in."""

from rowwise.vectors.errors import VectorsFileError
from rowwise.vectors.formats import FORMATS
from rowwise.vectors.load import load
from rowwise.vectors.pretrained import Pretrained, rows_for
from rowwise.vectors.subwords import Subwords
from rowwise.vectors.vectors import Vectors

__all__ = [
    "FORMATS",
    "Pretrained",
    "Subwords",
    "Vectors",
    "VectorsFileError",
    "load",
    "rows_for",
]
