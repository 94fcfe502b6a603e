"""Texts and columns of tokens, and the vocabulary that makes ids of them."""

from rowwise.text._vocabulary import Vocabulary

__all__ = ["Vocabulary"]
