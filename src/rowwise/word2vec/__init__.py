"""Train vectors of words on text without labels: skip-gram and continuous bag of words."""

from rowwise.word2vec._corpus import Corpus
from rowwise.word2vec._model import Word2Vec

__all__ = ["Corpus", "Word2Vec"]
