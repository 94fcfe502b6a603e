"""Update rules, one small file per family; each docstring is the formula.

Those of this package are in Keras's form; `rowwise.rules.pytorch` has PyTorch's.
"""

from rowwise.rules import pytorch
from rowwise.rules._adadelta import Adadelta
from rowwise.rules._adagrad import Adagrad
from rowwise.rules._adam import Adam, Adamax, AdamW, Nadam
from rowwise.rules._base import Rule, StepParams, get
from rowwise.rules._ftrl import Ftrl
from rowwise.rules._lion import Lion
from rowwise.rules._rmsprop import RMSprop
from rowwise.rules._rowwise_adagrad import RowwiseAdagrad
from rowwise.rules._sgd import SGD

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
    "RowwiseAdagrad",
    "Rule",
    "StepParams",
    "get",
    "pytorch",
]
