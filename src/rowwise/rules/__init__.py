"""Update rules, one small file per family; each docstring is the formula."""

from rowwise.rules.adagrad import Adagrad
from rowwise.rules.adam import Adam, AdamW
from rowwise.rules.base import Rule, get
from rowwise.rules.rmsprop import RMSprop
from rowwise.rules.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop", "Rule", "get"]
