"""Update rules, one small file per family; each docstring is the formula.

Those of this package are in Keras's form; `rowwise.rules.pytorch` has PyTorch's.
"""

from rowwise.rules import pytorch
from rowwise.rules.adadelta import Adadelta
from rowwise.rules.adagrad import Adagrad
from rowwise.rules.adam import Adam, Adamax, AdamW, Nadam
from rowwise.rules.base import Rule, get
from rowwise.rules.ftrl import Ftrl
from rowwise.rules.lion import Lion
from rowwise.rules.rmsprop import RMSprop
from rowwise.rules.sgd import SGD

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Ftrl",
    "Lion",
    "Nadam",
    "RMSprop",
    "Rule",
    "get",
    "pytorch",
]
