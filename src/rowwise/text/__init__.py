"""Words and columns: what people have, before it is ids."""

from rowwise.text._vocabulary import Vocabulary

__all__ = ["Vocabulary"]
