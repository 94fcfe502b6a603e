"""Weights of 16 bits as tensors: NumPy has no bfloat16, of which a table's array has the bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rowwise._checks import check_rounding as check_name
from rowwise.store import HostStore
from rowwise.table import Table

HALVES = (torch.bfloat16, torch.float16)

# For messages about weights that are on no table.
TABLES = (
    "rowwise's tables are float32 on the CPU or on a GPU of NVIDIA's, or with "
    'rounding="nearest" bfloat16 or float16 on the CPU'
)


def check_rounding(rounding: str | None, dtype: Any = None) -> None:
    """Refuse a rounding that there is not, or that a weight's dtype has no use for.

    Raises:
        TypeError: a dtype's name, which PyTorch does not take.
        ValueError: with those that there are.
    """
    check_name(rounding)
    if isinstance(dtype, str):
        raise TypeError(f"dtype={dtype!r} is not a torch.dtype, such as torch.bfloat16")
    if rounding is not None and dtype not in (None, torch.float32, *HALVES):
        raise ValueError(
            f"rounding={rounding!r} is for weights of 16 bits, not {dtype}; give "
            "dtype=torch.bfloat16 or torch.float16, or leave rounding out"
        )


def tensor_over(array: NDArray[Any], dtype: str) -> torch.Tensor:
    """Return a tensor over an array that holds weights of dtype."""
    if dtype != "bfloat16":
        return torch.from_numpy(array)
    bits = torch.from_numpy(array)
    # Not a view of `bits`, which would be one more user of the storage.
    whole = torch.empty(0, dtype=torch.bfloat16)
    return whole.set_(bits.untyped_storage(), 0, bits.shape, bits.stride())


def array_over(tensor: torch.Tensor) -> NDArray[Any]:
    """Return an array over a tensor's memory, the other way round."""
    if tensor.dtype is not torch.bfloat16:
        return tensor.numpy()
    return tensor.view(torch.int16).numpy().view(np.uint16)


def rounding_state(table: Table) -> torch.Tensor | None:
    """Return seed and count of updates (2,), which decide the next draws of random rounding.

    It is None where a table does not round at random.
    """
    seed = table.store.rounding_seed if isinstance(table.store, HostStore) else None
    return None if seed is None else torch.tensor([seed, table.steps])


def is_rounding_state(state: object) -> bool:
    """Return whether this can be what `rounding_state` returned."""
    if not isinstance(state, torch.Tensor) or state.dtype is not torch.int64:
        return False
    return state.shape == (2,) and bool((state >= 0).all())


def load_rounding_state(table: Table, state: torch.Tensor) -> None:
    """Draw from now on what the table would draw of which `rounding_state` returned this."""
    if isinstance(table.store, HostStore) and table.store.rounding_seed is not None:
        table.store.resume_rounding(*(int(number) for number in state))


def host_table(values: torch.Tensor, rounding: str | None, seed: int | None = None) -> Table:
    """Return a new table that holds a copy of values (rows, dim), in their dtype.

    Args:
        values: float32, bfloat16 or float16.
        rounding: "nearest" or "stochastic"; None for float32.
        seed: of random rounding; PyTorch's generator draws one unless given.
    """
    values = values.detach()
    if values.dtype not in HALVES:
        return Table(*values.shape, init=lambda _: values.numpy())
    dtype = str(values.dtype).removeprefix("torch.")
    if rounding == "stochastic" and seed is None:
        seed = int(torch.randint(2**63 - 1, ()))
    how = rounding or "nearest"
    table = Table(*values.shape, init="zeros", dtype=dtype, rounding=how, seed=seed)
    for rows in torch.arange(len(values)).split(max(1, (1 << 18) // values.shape[1])):
        table.store.write(values[rows].float().numpy(), rows.numpy())
    return table
