"""Calls of Python by a JAX program, on the host's memory.

On a CPU the called function reads the program's own buffers and writes into them
(`jax.experimental.buffer_callback`): nothing is copied. On other devices JAX brings the arrays
here and back.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import io_callback
from jax.experimental.buffer_callback import buffer_callback


class HostCallback:
    """A method, called as method(out, *more, *arrays) with NumPy arrays; its result goes to out.

    JAX keeps programs, and what they call, for as long as it sees fit: the method's owner must not
    live on for that.
    """

    def __init__(self, owner: Any, method: str, *more: Any) -> None:
        self._owner, self._method, self._more = weakref.ref(owner), method, more

    def in_place(self, _: Any, out: Any, *buffers: Any) -> None:
        """Run for a program on a CPU, on its own buffers."""
        owner = self._owner()
        if owner is None:
            raise RuntimeError("the table that this program reads is gone")
        method = getattr(owner, self._method)
        method(np.asarray(out), *self._more, *map(np.asarray, buffers))

    def elsewhere(self, shape: tuple[int, ...], dtype: Any, *arrays: Any) -> Any:
        """Run for a program on another device; return the array that was written."""
        out = np.empty(shape, dtype)
        self.in_place(None, out, *arrays)
        return out


def call(
    function: HostCallback, shape: tuple[int, ...], dtype: Any, *arrays: Any, changes: bool = False
) -> Any:
    """Return, in a program, the array (*shape) that the function writes.

    Args:
        function: what to call.
        shape, dtype: of the result; under `jax.vmap`, where the axes of a batch come first, those
            of one sample.
        arrays: the function's arguments.
        changes: whether the function does more than to give its result, so that the program must
            call it, once for each sample.
    """
    result = jax.ShapeDtypeStruct(shape, dtype)
    batched = "sequential" if changes else "expand_dims"
    if jax.default_backend() == "cpu":
        called = buffer_callback(
            function.in_place, result, has_side_effect=changes, vmap_method=batched
        )
        return called(*arrays)
    if changes:
        return io_callback(partial(function.elsewhere, shape, dtype), result, *arrays)

    def call_batch(*given: Any) -> Any:
        axes = [np.shape(g)[: np.ndim(g) - np.ndim(a)] for g, a in zip(given, arrays, strict=True)]
        return function.elsewhere((*np.broadcast_shapes(*axes), *shape), dtype, *given)

    return jax.pure_callback(call_batch, result, *arrays, vmap_method=batched)
