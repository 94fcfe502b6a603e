"""Gradients of rows handed to a table, without writing out those that a mean repeats.

The gradient of a mean over the vectors of a sequence is the same for each of its ids. A program
would write it once an id, for the call to read it. Where the program is made, this module sees that
the gradients (..., length, dim) are (..., dim) repeated, and calls the table with those, as bags.
The sums are the same, to the bit: the same numbers in the same order.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from rowwise.jax._host_callback import call_native


def push_rows(key: int, size: int, order: Any, token: Any, ids: Any, gradients: Any) -> Any:
    """Return the gradient (size,) of a token: see `push_rows` in native/programs.hpp.

    For programs on a CPU, which use the result, whose tables have no effects that JAX must know of.

    Args:
        key: what programs call the table by.
        size: length of the token.
        order, token, ids, gradients: the call's arguments.
    """
    return _push_rows.bind(order, token, ids, gradients, key=key, size=size)


_push_rows = Primitive("rowwise_push_rows")


@_push_rows.def_impl
def _run(*arrays: Any, key: int, size: int) -> Any:
    """Push where nothing is compiled."""
    return call_native("push_rows", (size,), np.float32, *arrays, key=key)


@_push_rows.def_abstract_eval
def _shape(order: Any, token: Any, ids: Any, gradients: Any, *, key: int, size: int) -> Any:
    return token.update(shape=(size,))


def _push_each(arrays: Any, axes: Any, **made_with: Any) -> Any:
    """Push once for each sample of `jax.vmap`."""
    batched = [axis is not None for axis in axes]

    def push(samples: Any) -> Any:
        rest = iter(samples)
        each = [next(rest) if b else a for a, b in zip(arrays, batched, strict=True)]
        return _push_rows.bind(*each, **made_with)

    moved = [
        jnp.moveaxis(a, axis, 0) for a, axis in zip(arrays, axes, strict=True) if axis is not None
    ]
    return jax.lax.map(push, moved), 0


def _lower(context: Any, order: Any, token: Any, ids: Any, gradients: Any, **made_with: Any) -> Any:
    """Write the call into a program."""
    method, avals = "push_rows", context.avals_in
    source = _repeated(gradients, len(avals[2].shape) - 1)
    if source is not None:
        shape = avals[2].shape[:-1] + avals[3].shape[-1:]
        method, gradients = "push_bags", source
        context = context.replace(avals_in=[*avals[:3], avals[3].update(shape=shape)])
    write = jax.ffi.ffi_lowering(f"rowwise.{method}")
    return write(context, order, token, ids, gradients, key=np.int64(made_with["key"]))


def _repeated(value: Any, axis: int) -> Any:
    """Return the array that a program broadcasts along an axis to make a value, or None."""
    made_by = getattr(value.owner, "operation", value.owner)
    if axis < 0 or getattr(made_by, "name", None) != "stablehlo.broadcast_in_dim":
        return None
    whole, source = list(value.type.shape), made_by.operands[0]
    others = [i for i in range(len(whole)) if i != axis]
    same = list(made_by.attributes["broadcast_dimensions"]) == others
    return source if same and list(source.type.shape) == [whole[i] for i in others] else None


batching.primitive_batchers[_push_rows] = _push_each
# A lowering that JAX caches is a function of its own, which cannot see what made the gradients.
_takes_cacheable = "cacheable" in inspect.signature(mlir.register_lowering).parameters
mlir.register_lowering(_push_rows, _lower, **({"cacheable": False} if _takes_cacheable else {}))
