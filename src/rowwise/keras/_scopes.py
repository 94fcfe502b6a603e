"""Scopes in which a value is read: cast or not, symbolic, or for an exported model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from keras.src.backend import AutocastScope, get_autocast_scope, in_symbolic_scope

# Whether a model is being written for a place where there is no Python: no table and no check.
exporting: ContextVar[bool] = ContextVar("exporting", default=False)


def uncast_value(variable: Any) -> Any:
    """Return the variable's value in this scope, not cast to a mixed-precision layer's dtype."""
    with AutocastScope(None):
        return variable.value


def cast_like_variable(variable: Any, rows: Any) -> Any:
    """Return rows of the variable's uncast value, cast as the value itself would be here."""
    scope = get_autocast_scope()
    return rows if scope is None or not variable._autocast else scope.maybe_cast(rows)


def is_symbolic_call() -> bool:
    """Return whether Keras is calling layers on placeholders, to learn their outputs' shapes."""
    return in_symbolic_scope()


@contextlib.contextmanager
def export_scope() -> Iterator[None]:
    """Make what is traced here gather rows from arrays of their present values."""
    before = exporting.set(True)
    try:
        yield
    finally:
        exporting.reset(before)
