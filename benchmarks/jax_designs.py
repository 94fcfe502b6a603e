"""Three ways for a jitted JAX program to train a table, side by side: which one `rowwise.keras` has
on JAX, and why. A step is a lookup of 4,096 x 16 uniform ids, their mean, a loss, its gradient and
an Adam step, in vectors of 64.

    in place    host calls that read and write the program's own buffers (buffer_callback): ours
    copied      host calls that get and give arrays (pure_callback, io_callback)
    donated     weights, slots and stamps are donated arrays of the program, moved in place

    python benchmarks/jax_designs.py [--rows 4000000]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jax.experimental.buffer_callback import buffer_callback

import rowwise
from rowwise.ids import as_ids
from rowwise.memory import ROW_STATE

DIM, BAGS, LENGTH = 64, 4096, 16
Shape = jax.ShapeDtypeStruct
VECTORS, TOKEN = Shape((BAGS, LENGTH, DIM), jnp.float32), Shape((), jnp.float32)


def training(look: Callable[..., Any], update: Callable[..., Any]) -> Any:
    """A jitted step of (state, weights of a layer of one unit)."""

    @partial(jax.jit, donate_argnums=0)
    def step(both: Any, ids: Any) -> Any:
        state, kernel = both

        def loss(vectors: Any, kernel: Any) -> Any:
            return ((vectors.mean(1) @ kernel) ** 2).mean()

        of_vectors, of_kernel = jax.grad(loss, (0, 1))(look(state, ids), kernel)
        return update(state, ids, of_vectors), kernel - 0.01 * of_kernel

    return step


def in_place(table: rowwise.Table) -> tuple[Any, Any]:
    """The table stays on the host; its calls share the program's memory."""

    def read(_: Any, out: Any, token: Any, ids: Any) -> None:
        table.lookup_into(as_ids(np.asarray(ids)), np.asarray(out))

    def write(_: Any, out: Any, token: Any, ids: Any, gradients: Any) -> None:
        table.update(np.asarray(ids), np.asarray(gradients), check_finite=False)
        np.asarray(out)[...] = 1

    look, update = buffer_callback(read, VECTORS), buffer_callback(write, TOKEN)
    return training(look, update), jnp.zeros(())


def copied(table: rowwise.Table) -> tuple[Any, Any]:
    """The table stays on the host; JAX brings arrays there and back."""

    def write(token: Any, ids: Any, gradients: Any) -> Any:
        table.update(np.asarray(ids), np.asarray(gradients), check_finite=False)
        return np.float32(1)

    def read(token: Any, ids: Any) -> Any:
        return table.lookup(np.asarray(ids))

    look = partial(jax.pure_callback, read, VECTORS)
    return training(look, partial(io_callback, write, TOKEN)), jnp.zeros(())


def donated(table: rowwise.Table) -> tuple[Any, Any]:
    """The table's arrays go through the program, which gives them back in the same memory."""
    state = [table.to_numpy(), *(table.slot(name) for name in table.slot_names)]
    arrays = [jnp.asarray(array) for array in (*state, np.zeros((table.rows, 4), np.uint32))]

    def lie_over(buffers: Any) -> None:
        weights, *slots, states = (np.asarray(buffer) for buffer in buffers)
        if table.buffer().ctypes.data != weights.ctypes.data:
            parts = table.parts()
            parts |= {"weights": weights, "slots": slots}
            parts["states"] = states.view(np.uint8).reshape(-1).view(ROW_STATE)
            table.take(parts)

    def read(_: Any, out: Any, *buffers: Any) -> None:
        lie_over(buffers[:-1])
        table.lookup_into(as_ids(np.asarray(buffers[-1])), np.asarray(out))

    def write(_: Any, out: Any, *buffers: Any) -> None:
        lie_over(out)
        *_, ids, gradients = buffers
        table.update(np.asarray(ids), np.asarray(gradients), check_finite=False)

    shapes = [Shape(array.shape, array.dtype) for array in arrays]
    same = {i: i for i in range(len(arrays))}
    update = buffer_callback(write, shapes, input_output_aliases=same)
    return (
        training(
            lambda state, ids: buffer_callback(read, VECTORS)(*state, ids),
            lambda state, *batch: update(*state, *batch),
        ),
        arrays,
    )


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_000_000)
    rows = parser.parse_args().rows
    rowwise.set_num_threads(2)
    print(f"| design | ms of a step, {rows:,} rows | the slowest |\n|---|---:|---:|")
    for design in (in_place, copied, donated):
        table = rowwise.Table(rows, DIM, rowwise.Adam(0.01), init="normal", seed=0)
        step, state = design(table)
        both, rng, times = (state, jnp.ones((DIM, 1))), np.random.default_rng(0), []
        for _ in range(330):
            ids = jnp.asarray(rng.integers(0, rows, (BAGS, LENGTH)), "int32")
            start = time.perf_counter()
            both = jax.block_until_ready(step(both, ids))
            times.append(1e3 * (time.perf_counter() - start))
        name = design.__name__.replace("_", " ")
        print(f"| {name} | {statistics.median(times[300:]):.1f} | {max(times[300:]):.1f} |")


if __name__ == "__main__":
    main()
