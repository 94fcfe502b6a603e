"""Calls of tables, and of Python, by a JAX program, on the host's memory.

On a CPU a program calls native code through XLA's foreign function interface (`call_table`), which
reads the program's own buffers and writes into them: nothing is copied, and no Python runs. Where
the extension was built without XLA's header, and for what is Python's, the program calls Python on
the same buffers (`jax.experimental.buffer_callback`). On other devices JAX brings the arrays here
and back.
"""

from __future__ import annotations

import functools
import os
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import io_callback

from rowwise import _native

try:
    from jax.experimental.buffer_callback import buffer_callback
except ModuleNotFoundError:  # JAX 0.6.0
    buffer_callback = None


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
            raise RuntimeError("the table that this program calls is gone")
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
    if jax.default_backend() == "cpu" and buffer_callback is not None:
        called = buffer_callback(
            function.in_place, result, has_side_effect=changes, vmap_method=batched
        )
        return called(*arrays)
    if changes:
        return io_callback(functools.partial(function.elsewhere, shape, dtype), result, *arrays)

    def call_batch(*given: Any) -> Any:
        axes = [np.shape(g)[: np.ndim(g) - np.ndim(a)] for g, a in zip(given, arrays, strict=True)]
        return function.elsewhere((*np.broadcast_shapes(*axes), *shape), dtype, *given)

    return jax.pure_callback(call_batch, result, *arrays, vmap_method=batched)


# ---------------------------------------------------------------------- tables


@functools.cache
def has_handlers() -> bool:
    """Make the native handlers known to XLA, once; return whether programs can call them.

    JAX's backend must be there: before, XLA would refuse handlers only when it comes, and fail.
    """
    handlers = _native.xla_handlers()
    if not handlers or os.environ.get("ROWWISE_JAX_HANDLERS") == "0":
        return False
    try:
        for name, handler in handlers.items():
            jax.ffi.register_ffi_target(f"rowwise.{name}", handler, platform="cpu")
    except Exception as error:
        warnings.warn(
            f"this jaxlib does not take rowwise's handlers ({error}); programs call tables by way "
            "of Python, which is slower",
            stacklevel=2,
        )
        return False
    return True


_KINDS: dict[str, Callable[[Any], Any]] = {
    "key": np.int64,
    "rule": np.int64,
    "untrained": np.int64,
    "raises": np.bool_,
    "clip": np.float64,
    "keys": functools.partial(np.array, dtype=np.int64),
}


def call_table(
    own: Any,
    method: str,
    shape: tuple[int, ...],
    dtype: Any,
    *arrays: Any,
    changes: bool = False,
    **attributes: Any,
) -> Any:
    """Return, in a program, the array (*shape) that a method of native/programs.hpp writes.

    Args:
        own: what has the `program` that is called, a `DeferredErrors`. Its `has_effects` says
            whether JAX must know that the call changes something.
        method: its name there.
        shape, dtype, arrays, changes: as for `call`.
        attributes: what the program is made with: rule, clip, keys, untrained; and raises, whether
            an error ends the program, for want of somebody who pops errors.
    """
    if not own.is_native or not calls_natively():
        callback = own.callback("call", method, *attributes.items())
        return call(callback, shape, dtype, *arrays, changes=changes)
    return call_native(
        method,
        shape,
        dtype,
        *arrays,
        changes=changes,
        has_effects=own.has_effects,
        key=own.program.lasting_key if attributes.get("raises") else own.program.key,
        **attributes,
    )


def calls_natively() -> bool:
    """Return whether programs call native code: on a CPU, where there are handlers."""
    return jax.default_backend() == "cpu" and has_handlers()


def call_native(
    method: str,
    shape: tuple[int, ...],
    dtype: Any,
    *arrays: Any,
    changes: bool = False,
    has_effects: bool = False,
    **attributes: Any,
) -> Any:
    """Return what `call_table` does, by a native handler.

    Args:
        method, shape, dtype, arrays, changes: see `call_table`.
        has_effects: see `DeferredErrors`.
        attributes: the key of the table, and those of `call_table`.
    """
    handler = jax.ffi.ffi_call(
        f"rowwise.{method}",
        jax.ShapeDtypeStruct(shape, dtype),
        has_side_effect=changes and has_effects,
        vmap_method="sequential" if changes else "expand_dims",
    )
    typed = {name: _KINDS[name](value) for name, value in attributes.items()}
    return handler(*arrays, **typed)


def call_from_python(
    program: _native.Program, method: str, attributes: Any, out: Any, arrays: Any
) -> None:
    """Call the same method on NumPy's arrays."""
    whole = [a if a.flags.c_contiguous else a.copy() for a in arrays]
    described = [(a.ctypes.data, a.dtype.name, a.shape) for a in (out, *whole)]
    _native.call_program(program.key, method, described[0], described[1:], **dict(attributes))
