"""What Keras's scopes say of a value: whether it is cast, a caller's, or only a shape."""

from __future__ import annotations

from typing import Any

from keras.src.backend import AutocastScope, get_autocast_scope, in_symbolic_scope


def uncast_value(variable: Any) -> Any:
    """The variable's value here and now, not cast to the dtype of a mixed-precision layer."""
    with AutocastScope(None):
        return variable.value


def cast_as_read(variable: Any, rows: Any) -> Any:
    """Rows of the variable's uncast value, cast as the value itself would be here and now."""
    scope = get_autocast_scope()
    return rows if scope is None or not variable._autocast else scope.maybe_cast(rows)


def only_shapes_count() -> bool:
    """Whether Keras is calling layers on placeholders, to learn the shapes of their outputs."""
    return in_symbolic_scope()
