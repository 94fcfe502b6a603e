"""Rows of variables in a JAX program, and the gradient's way back to the table."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.experimental.sparse import JAXSparse

from rowwise._ids import as_ids
from rowwise._untrained import (
    Untrained,
    untrained_mask_and_default,
    untrained_mask_and_default_of_all,
)
from rowwise.keras import bags
from rowwise.keras.exporting import exporting
from rowwise.keras.given_ids import given_ids, ids_in_range
from rowwise.keras.jax.host import call
from rowwise.keras.jax.noting import Rows, running
from rowwise.keras.jax.on_table import OnTable, is_token
from rowwise.keras.jax.variable import TableVariable, next_order
from rowwise.keras.scopes import cast_as_read, only_shapes_count, uncast_value

compiles = True


def ids_of(inputs: Any) -> Any:
    """What a layer was called with, as ids (...,); their range is checked where rows are read.

    Raises:
        IndexError, TypeError, ValueError: as `rowwise._ids.as_ids`, of ids that are there already;
            and where 32 bits, which JAX has for integers, are too few.
    """
    if isinstance(inputs, JAXSparse):
        inputs = inputs.todense()
    if isinstance(inputs, jax.core.Tracer | keras.KerasTensor) or only_shapes_count():
        return keras.ops.convert_to_tensor(inputs)
    ids = given_ids(np.asarray(inputs))
    check_bits(ids)
    return jnp.asarray(ids, "int32")


def check_bits(integers: Any) -> None:
    """Refuses integers that JAX would take for others.

    Raises:
        IndexError: an integer that 32 bits do not hold.
    """
    if integers.size and integers.dtype.itemsize > 4 and not jax.config.jax_enable_x64:
        least, most = int(integers.min()), int(integers.max())
        if least < -(2**31) or most >= 2**31:
            raise IndexError(
                f"id {most if most >= 2**31 else least} (or a feature that is no id) is outside "
                "-2^31..2^31 - 1, where JAX's integers lie; set jax_enable_x64, take the backend "
                "torch or tensorflow, or give a feature as floats"
            )


def rows_of(variable: Any, ids: Any) -> Any:
    """Rows ids (...,) of a variable (V, ...), in the dtype in which Keras would read it here.

    Raises:
        IndexError: an id outside 0..V-1; in a jitted program, as the message of JAX's error.
    """
    return cast_as_read(variable, _rows(variable, ids))


def _rows(variable: Any, ids: Any) -> Any:
    """Rows ids (...,) of a variable (V, ...), in the dtype in which it is kept."""
    given = variable.given if isinstance(variable, OnTable) else None
    if only_shapes_count():
        return jnp.zeros((*ids.shape, *variable.shape[1:]), variable._dtype)
    if is_token(given):
        return _rows_by_token(variable, given, ids)
    if isinstance(variable, OnTable) and not variable.ready:  # Keras makes the model's variables
        return jnp.take(uncast_value(variable), ids, axis=0)
    if isinstance(variable, TableVariable) and given is None:
        return _rows_now(variable, ids)
    return _rows_of_array(variable, uncast_value(variable), ids)


def _rows_by_token(variable: TableVariable, token: Any, ids: Any) -> Any:
    """vectors (..., D), whose gradients go to the table: the token's says which pass they are."""

    @jax.custom_vjp
    def look(token: Any, ids: Any) -> Any:
        shape = (*ids.shape, variable.shape[1])
        return call(variable.calling("read"), shape, np.float32, token, ids)

    order = next_order()

    def backward(batch: Any, gradients: Any) -> Any:
        token, ids = batch
        return variable.kept("keep", order, token, ids, gradients), None

    look.defvjp(lambda *batch: (look(*batch), batch), backward)
    return look(token, ids)


def _rows_now(variable: TableVariable, ids: Any) -> Any:
    """The present vectors, when a layer is called by itself, in a program or not."""
    if not isinstance(ids, jax.core.Tracer):
        return jnp.asarray(variable.table.lookup(given_ids(np.asarray(ids))))
    shape = (*ids.shape, variable.shape[1])
    return call(variable.calling("read_now"), shape, np.float32, ids)


def _rows_of_array(variable: Any, array: Any, ids: Any) -> Any:
    """Rows of an array (V, ...) that is JAX's own, ids checked as everywhere."""
    if exporting.get():
        return jnp.take(array, ids, axis=0)
    if not isinstance(ids, jax.core.Tracer):
        ids = jnp.asarray(ids_in_range(np.asarray(ids), array.shape[0]), "int32")
    else:
        own = variable if isinstance(variable, TableVariable) else Rows.of(variable)
        check = own.calling("check_ids" if running.get() else "checked_ids")
        ids = call(check, ids.shape, np.int32, ids)
    rows = jnp.take(array, ids, axis=0)
    frozen = getattr(variable, "frozen_row", None)
    if frozen is not None:
        rows = jnp.where((ids == frozen)[..., None], jax.lax.stop_gradient(rows), rows)
    return rows


def with_untrained_filled(
    variable: TableVariable, ids: Any, vectors: Any, untrained: Untrained
) -> Any:
    """vectors (..., D) of rows ids (...,), with something else for those never trained."""
    if exporting.get():
        new, stand_in = untrained_mask_and_default_of_all(variable.table.store, untrained)
        given = vectors if stand_in is None else jnp.asarray(stand_in, vectors.dtype)
        new = jnp.take(new, ids, axis=0, fill_value=False)
        return jnp.where(new[..., None], given, vectors)
    if not isinstance(vectors, jax.core.Tracer):
        new, stand_in = untrained_mask_and_default(
            variable.table.store, as_ids(np.asarray(ids)), untrained
        )
        return vectors if stand_in is None else jnp.where(new[..., None], stand_in, vectors)
    fill_untrained = variable.calling(
        "fill_untrained" if variable.holds_token else "settle_now", untrained
    )
    return call(fill_untrained, vectors.shape, vectors.dtype, ids, jax.lax.stop_gradient(vectors))


def pooled(variable: TableVariable, ids: Any, weights: Any, learned: bool) -> Any:
    """Weighted sums (..., D) of the rows ids (..., length); None where they are not a table's.

    The weights, None or of the shape of ids, may be `learned`; their gradient is made if asked for.
    Where a token stands for the table, its gradient says which pass this is.
    """
    given, state = () if weights is None else (weights,), variable.given
    if is_token(state) and not only_shapes_count():
        return _pooled_by_token(variable, state, ids, *given)
    traced = any(isinstance(array, jax.core.Tracer) for array in (ids, *given))
    if traced or state is not None or only_shapes_count():
        return None
    return jnp.asarray(bags.pool(variable.table, *map(np.asarray, (ids, *given))))


def _pooled_by_token(variable: TableVariable, token: Any, ids: Any, *weights: Any) -> Any:
    @jax.custom_vjp
    def look(token: Any, ids: Any, *weights: Any) -> Any:
        shape = (*ids.shape[:-1], variable.shape[1])
        return call(variable.calling("pool"), shape, np.float32, token, ids, *weights)

    order = next_order()

    def backward(batch: Any, gradients: Any) -> Any:
        token, ids, *weights = batch
        back = variable.calling("gradient_of_weights")
        of_weights = [call(back, ids.shape, np.float32, ids, gradients) for _ in weights]
        kept = variable.kept("keep_bags", order, token, ids, gradients, *weights)
        return kept, None, *of_weights

    look.defvjp(lambda *batch: (look(*batch), batch), backward)
    return look(token, ids, *weights)


def random_state() -> dict[str, Any]:
    """JAX has none: its keys are variables of Keras's."""
    return {}


def set_random_state(arrays: dict[str, Any]) -> None:
    """Takes what `random_state` gave: nothing."""
