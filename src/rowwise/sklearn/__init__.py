"""Estimators for scikit-learn on rowwise's tables."""

from rowwise.sklearn._category_embedder import CategoryEmbedder
from rowwise.sklearn._fasttext import FastTextClassifier
from rowwise.sklearn._text_classifier import TextClassifier
from rowwise.sklearn._text_vectorizer import TextVectorizer

__all__ = ["CategoryEmbedder", "FastTextClassifier", "TextClassifier", "TextVectorizer"]
