"""Estimators for scikit-learn on rowwise's tables."""

from rowwise.sklearn._text_classifier import TextClassifier

__all__ = ["TextClassifier"]
