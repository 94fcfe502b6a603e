"""Keras's TensorFlow backend: the table stays in our memory, and graphs call it.

To TensorFlow a table's variable is a token, a `tf.Variable` of one number that no step changes:
what is read through it is the table, and its gradient is the rows' (`tf.IndexedSlices`). Reads and
steps are stateful operations, whose order a `tf.function` keeps. docs/backends.md tells why.
"""

from rowwise.keras._tensorflow.internals import export_scope
from rowwise.keras._tensorflow.lookup import (
    fill_untrained,
    find_rows,
    lookup,
    pool,
    random_state,
    set_random_state,
    supports_jit,
    to_ids,
)
from rowwise.keras._tensorflow.optimizer import LossScaleMixin, OptimizerMixin
from rowwise.keras._tensorflow.variable import (
    AccumulatorVariable,
    DynamicVariable,
    SlotVariable,
    TableVariable,
)

__all__ = [
    "AccumulatorVariable",
    "DynamicVariable",
    "LossScaleMixin",
    "OptimizerMixin",
    "SlotVariable",
    "TableVariable",
    "export_scope",
    "fill_untrained",
    "find_rows",
    "lookup",
    "pool",
    "random_state",
    "set_random_state",
    "supports_jit",
    "to_ids",
]
