"""Keras's JAX backend: the table stays on the host, and jitted programs call it.

`fit` is jitted and functional on JAX. Where the trainer's state would hold a table, it holds a
token: a vector, of which the first number says how many steps the table has made. A lookup takes
the token, a step gives the next one, so that a step comes before the reads that follow it.
docs/backends.md tells why.
"""

from rowwise.keras._jax.lookup import (
    fill_untrained,
    find_rows,
    lookup,
    pool,
    random_state,
    set_random_state,
    supports_jit,
    to_ids,
)
from rowwise.keras._jax.optimizer import LossScaleMixin, OptimizerMixin
from rowwise.keras._jax.variable import (
    AccumulatorVariable,
    DynamicVariable,
    SlotVariable,
    TableVariable,
)
from rowwise.keras._scopes import export_scope

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
