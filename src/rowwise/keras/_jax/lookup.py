"""Rows of variables in a JAX program, and the gradient's way back to the table."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.experimental.sparse import JAXSparse
from keras.src.backend.common.stateless_scope import get_stateless_scope

from rowwise._ids import as_ids
from rowwise._untrained import (
    Untrained,
    untrained_mask_and_default,
    untrained_mask_and_default_of_all,
)
from rowwise.jax._host_callback import call, call_table
from rowwise.keras import _gradients
from rowwise.keras._dynamic_variable import NO_INDEX
from rowwise.keras._ids import validate_ids, validate_ids_in_range
from rowwise.keras._jax.deferred_errors import Rows, running
from rowwise.keras._jax.disk_program import UNTRAINED
from rowwise.keras._jax.variable import DynamicVariable, TableBacked, TableVariable, is_token
from rowwise.keras._scopes import cast_like_variable, exporting, is_symbolic_call, uncast_value

supports_jit = True


def to_ids(inputs: Any) -> Any:
    """Return what a layer was called with as ids (...,); rows are checked where they are read.

    Raises:
        IndexError, TypeError, ValueError: as `rowwise._ids.as_ids`, of ids that are there already;
            and where 32 bits, which JAX has for integers, are too few.
    """
    if isinstance(inputs, JAXSparse):
        inputs = inputs.todense()
    if isinstance(inputs, keras.KerasTensor) or is_symbolic_call():
        return keras.ops.convert_to_tensor(inputs)
    if isinstance(inputs, jax.core.Tracer):
        return jax.lax.stop_gradient(inputs)  # floats that are whole have a gradient of 0
    ids = validate_ids(np.asarray(inputs))
    check_bits(ids)
    return jnp.asarray(ids)


def check_bits(integers: Any) -> None:
    """Refuse integers that JAX would take for others.

    Raises:
        IndexError: an integer that 32 bits do not hold.
    """
    if integers.size and integers.dtype.itemsize > 4 and not jax.config.jax_enable_x64:
        least, most = int(integers.min()), int(integers.max())
        if least < -(2**31) or most >= 2**31:
            raise IndexError(
                f"id {most if most >= 2**31 else least} (or a feature that is no id) is outside "
                "-2^31..2^31 - 1, where JAX's integers lie. Set JAX_ENABLE_X64=1 in the "
                "environment before JAX starts. Or give a DynamicEmbedding with encoded=True what "
                "rowwise.keras.encode_ids makes of ids. Or give a feature that is no id as floats. "
                "Or take the backend torch or tensorflow"
            )


def lookup(variable: Any, ids: Any) -> Any:
    """Return rows ids (...,) of a variable (V, ...), in the dtype in which Keras would read it.

    Raises:
        IndexError: an id outside 0..V-1; in a jitted program, as the message of JAX's error.
    """
    return cast_like_variable(variable, _rows(variable, ids))


def _rows(variable: Any, ids: Any) -> Any:
    """Return rows ids (...,) of a variable (V, ...), in the dtype of the variable."""
    given = variable.given if isinstance(variable, TableBacked) else None
    if is_symbolic_call():
        return jnp.zeros((*ids.shape, *variable.shape[1:]), variable._dtype)
    if is_token(given):
        return variable.looked_up(given, ids).astype(variable._dtype)
    if (
        isinstance(variable, TableBacked) and not variable.ready
    ):  # Keras makes the model's variables
        return jnp.take(uncast_value(variable), ids, axis=0)
    if isinstance(variable, TableVariable) and given is None and not exporting.get():
        return _rows_now(variable, ids).astype(variable._dtype)
    return _rows_of_array(variable, uncast_value(variable), ids)


def _rows_now(variable: TableVariable, ids: Any) -> Any:
    """Return present vectors, for a layer that is called by itself, in a program or not."""
    if not isinstance(ids, jax.core.Tracer):
        return jnp.asarray(variable.table.lookup(validate_ids(np.asarray(ids))))
    shape = (*ids.shape, variable.shape[1])
    return call_table(variable, "lookup_now", shape, np.float32, ids, raises=True)


def _rows_of_array(variable: Any, array: Any, ids: Any) -> Any:
    """Return rows of an array (V, ...) that is JAX's own, ids validated."""
    if exporting.get():
        return jnp.take(array, ids, axis=0)
    if not isinstance(ids, jax.core.Tracer):
        ids = jnp.asarray(validate_ids_in_range(np.asarray(ids), array.shape[0]), "int32")
    else:
        own = variable if isinstance(variable, TableVariable) else Rows.of(variable)
        alone = running.get() is None
        ids = call_table(own, "validate", ids.shape, np.int32, ids, raises=alone)
    rows = jnp.take(array, ids, axis=0)
    frozen = getattr(variable, "frozen_row", None)
    if frozen is not None:
        rows = jnp.where((ids == frozen)[..., None], jax.lax.stop_gradient(rows), rows)
    return rows


def find_rows(variable: DynamicVariable, ids: Any, observe: bool) -> Any:
    """Return the rows (...,) of ids as a layer is given them; count them, if asked to.

    Only a trainer's program counts them: nothing else trains the rows.

    Raises:
        NotImplementedError: the program is for a place where there is no Python.
    """
    one = ids[..., 0] if variable.encoded else ids
    if is_symbolic_call():
        return jnp.zeros(one.shape, "uint32")
    if exporting.get():
        raise NotImplementedError(NO_INDEX)
    token = variable.given
    if not is_token(token):
        if not isinstance(ids, jax.core.Tracer):
            return jnp.asarray(variable.rows_of(np.asarray(ids), False), "uint32")
        return call(variable.callback("find_rows_now", False), one.shape, np.uint32, ids)
    # Of several calls in a program each comes after the one before.
    scope = get_stateless_scope()
    before = scope.__dict__.setdefault("_rowwise_found", {})
    after = before.get(id(variable), jnp.zeros(1, "uint32"))
    batch = (jax.lax.stop_gradient(token), after, ids)
    found = variable.callback("find_rows", observe)
    rows = call(found, one.shape, np.uint32, *batch, changes=observe)
    if rows.size:
        before[id(variable)] = rows.ravel()[:1]
    return rows


def fill_untrained(variable: TableVariable, ids: Any, vectors: Any, untrained: Untrained) -> Any:
    """Return vectors (..., D) of rows ids (...,), those of untrained rows replaced."""
    if exporting.get():
        mask, default = untrained_mask_and_default_of_all(variable.table.store, untrained)
        given = vectors if default is None else jnp.asarray(default, vectors.dtype)
        trained = jnp.take(~mask, ids, axis=0)  # True for a bad id, whose vector is NaN
        return jnp.where(trained[..., None], vectors, given)
    if not isinstance(vectors, jax.core.Tracer):
        mask, default = untrained_mask_and_default(
            variable.table.store, as_ids(np.asarray(ids)), untrained
        )
        return vectors if default is None else jnp.where(mask[..., None], default, vectors)
    return call_table(
        variable,
        "fill_untrained",
        vectors.shape,
        vectors.dtype,
        ids,
        jax.lax.stop_gradient(vectors),
        untrained=UNTRAINED.index(untrained),
        raises=not variable.holds_token,
    )


def pool(variable: TableVariable, ids: Any, weights: Any, learned: bool) -> Any:
    """Return weighted sums (..., D) of the rows ids (..., length); None: not a table's.

    The weights, None or of the shape of ids, may be `learned`; their gradient is made if asked for.
    Where a token stands for the table, its gradient says which pass this is.
    """
    given, state = () if weights is None else (weights,), variable.given
    if is_token(state) and not is_symbolic_call():
        return variable.pooled(state, ids, *given)
    traced = any(isinstance(array, jax.core.Tracer) for array in (ids, *given))
    if traced or state is not None or is_symbolic_call():
        return None
    return jnp.asarray(_gradients.pool_bags(variable.table, *map(np.asarray, (ids, *given))))


def random_state() -> dict[str, Any]:
    """Return nothing: JAX's keys are variables of Keras's."""
    return {}


def set_random_state(arrays: dict[str, Any]) -> None:
    """Restore what `random_state` returned: nothing."""
