"""The lookup as torch's autograd sees it: vectors out, a row-sparse gradient back."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from rowwise import _native
from rowwise._ids import as_ids, outside
from rowwise._untrained import (
    Untrained,
    mean_of_trained,
    untrained_mask_and_default,
    untrained_mask_and_default_of_all,
)
from rowwise.store import RowStore
from rowwise.table import Table
from rowwise.torch._device import DeviceStore
from rowwise.torch._gradient import dense
from rowwise.torch._parameter import TableParameter, users_of


class _Lookup(torch.autograd.Function):
    """vectors[..., :] = table[ids[...], :]; its gradient is ids and the vectors' gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        parameter: TableParameter,
        ids: torch.Tensor,
        sparse: bool,
        frozen: int | None,
        by_frequency: bool,
        on_dense_gradient: Callable[[], None] | None,
    ) -> Any:
        table = parameter.table
        vectors = empty(ids.shape, table.dim, table.store)
        table.store.gather(given(table.store, ids), given(table.store, vectors))
        ctx.save_for_backward(ids)
        ctx.shape, ctx.frozen, ctx.by_frequency = table.shape, frozen, by_frequency
        ctx.sparse, ctx.on_dense_gradient = sparse, on_dense_gradient
        ctx.on_device = isinstance(table.store, DeviceStore)
        return vectors

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradient_of(ctx, gradients[0]), None, None, None, None, None


def gradient_of(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the weight from that of the vectors, in a node of torch's graph."""
    (ids,) = ctx.saved_tensors
    if ctx.on_device:
        ids = inside(ids, ctx.shape[0])
    if ctx.sparse:
        return _by_row(ctx, ids, gradient)
    if ctx.on_dense_gradient is not None:
        ctx.on_dense_gradient()
    frozen = -1 if ctx.frozen is None else ctx.frozen
    found: torch.Tensor = torch.ops.aten.embedding_dense_backward(
        gradient, ids, ctx.shape[0], frozen, ctx.by_frequency
    )
    return found


def _by_row(ctx: Any, ids: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    # The gradient is kept, and changed in place by clipping: nothing else may share its memory.
    own = gradient._use_count() == 1 and users_of(gradient.untyped_storage()) == 2
    ids, values = ids.reshape(-1), gradient.reshape(-1, ctx.shape[1])
    if not own or values.stride() != (ctx.shape[1], 1):
        values = values.clone(memory_format=torch.contiguous_format)
    if ctx.frozen is not None:
        moving = ids != ctx.frozen
        if ctx.on_device:  # to choose them would wait for the device; the step skips the row
            values = torch.where(moving[:, None], values, 0.0)
        else:
            ids, values = ids[moving], values[moving]
    if ctx.by_frequency:
        ordered = ids.sort().values  # no size depends on what is found, as that of `unique`
        counts = torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)
        values = values / counts[:, None]
    return torch.sparse_coo_tensor(ids[None], values, ctx.shape, check_invariants=False)


def inside(ids: torch.Tensor, rows: int) -> torch.Tensor:
    """Return ids of a gradient on a device as ids of rows, which PyTorch's kernels take them for.

    The lookup has noted one that is none: until its error is raised no step changes anything.
    """
    return ids.clamp(0, rows - 1)


def given(store: RowStore, tensor: torch.Tensor) -> Any:
    """Return a tensor as a store takes it: NumPy's array of it, or itself on a device."""
    return tensor if isinstance(store, DeviceStore) else tensor.numpy()


def empty(shape: tuple[int, ...], dim: int, store: RowStore | None = None) -> torch.Tensor:
    """Return vectors (..., dim) float32, not yet written, in memory reused by later batches."""
    if isinstance(store, DeviceStore):
        return torch.empty((*shape, dim), dtype=torch.float32, device=store.tensor_device)
    # Reshaped by NumPy: to torch it is no view, so that users may change it in place.
    return torch.from_numpy(_native.empty(math.prod(shape), dim).reshape(*shape, dim))


@torch.compiler.disable
def lookup(
    parameter: TableParameter,
    ids: torch.Tensor,
    sparse: bool,
    frozen: int | None = None,
    *,
    by_frequency: bool = False,
    on_dense_gradient: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Return the present vectors (..., D) of the rows ids (...,), differentiable.

    Args:
        parameter: the table's weights.
        ids: any integer dtype, or whole floats.
        sparse: whether the optimizer takes a row-sparse gradient; else it gets a dense one.
        frozen: a row that gets no gradient.
        by_frequency: divide the gradient of each id by how often it is in ids.
        on_dense_gradient: called when a dense gradient is made.

    Raises:
        IndexError, TypeError, ValueError: as `rowwise.Table.lookup`.
    """
    if is_tracing():
        present = parameter.as_ordinary()
        return torch.nn.functional.embedding(ids.long(), present)
    ids_here = whole_ids(ids).to(parameter.device).contiguous()
    vectors: torch.Tensor = _Lookup.apply(
        parameter, ids_here, sparse, frozen, by_frequency, on_dense_gradient
    )
    if parameter.table.dtype != "float32":
        vectors = vectors.to(parameter.dtype)  # exactly; the gradient comes back as float32
    return vectors.to(ids.device)


@torch.compiler.disable
def with_untrained_filled(
    table: Table, ids: torch.Tensor, vectors: torch.Tensor, untrained: Untrained
) -> torch.Tensor:
    """Return vectors (..., D) of rows ids (...,), with a default for those never trained.

    Raises:
        UntrainedError, ValueError: as `rowwise.Table.lookup`.
    """
    if untrained == "as-is":
        return vectors
    if isinstance(table.store, DeviceStore) and untrained != "error" and not is_tracing():
        return _filled_here(table.store, whole_ids(ids), vectors, untrained)
    if is_tracing():
        of_all, default = untrained_mask_and_default_of_all(table.store, untrained)
        new = torch.from_numpy(of_all)[ids.long()]
    else:
        of_these, default = untrained_mask_and_default(
            table.store, whole_ids(ids).cpu().numpy(), untrained
        )
        new = torch.from_numpy(of_these)
    if default is None:
        return vectors
    place = vectors.device
    return torch.where(new.to(place)[..., None], torch.from_numpy(default).to(vectors), vectors)


# The means of devices' trained rows, and the version of the store for which they were computed.
_means: weakref.WeakKeyDictionary[DeviceStore, tuple[int, torch.Tensor]] = (
    weakref.WeakKeyDictionary()
)


def _filled_here(
    store: DeviceStore, ids: torch.Tensor, vectors: torch.Tensor, untrained: Untrained
) -> torch.Tensor:
    """Return vectors of a device's rows, filled; a mean that is not known yet waits for it.

    Raises:
        ValueError: untrained="mean", and no row is trained.
    """
    new = store.is_untrained(ids.to(store.tensor_device))[..., None].to(vectors.device)
    if untrained == "zeros":
        return vectors.masked_fill(new, 0.0)
    version, mean = _means.get(store, (None, vectors))
    if version != store.version:
        if not new.any():
            return vectors
        mean = torch.from_numpy(mean_of_trained(store)).to(store.tensor_device)
        _means[store] = store.version, mean
    return torch.where(new, mean.to(vectors), vectors)


@torch.compiler.disable
def whole_ids(ids: torch.Tensor) -> torch.Tensor:
    """Return ids (...,) of any integer dtype, or whole floats, as int64; unchecked in a trace.

    Raises:
        TypeError, ValueError: as `rowwise._ids.as_ids`.
    """
    if is_tracing():
        return ids.long()
    if ids.dtype is torch.int64 or (ids.is_cuda and not ids.is_floating_point()):
        return ids.detach().long()
    values = _values(ids)
    # Whole numbers collide as bfloat16 from 2^8 on; NumPy has no such dtype to know it by.
    if ids.dtype is torch.bfloat16 and (abs(values) >= 256).any():
        raise ValueError("ids of 256 and more collide as bfloat16; give ids as integers")
    whole = as_ids(values)
    # Under vmap `ids` is more than its values.
    return torch.from_numpy(whole).to(ids.device) if values.ndim == ids.ndim else ids.long()


@torch.compiler.disable
def check_range(ids: torch.Tensor, rows: int) -> None:
    """Refuse ids (...,) int64 outside 0..rows-1; not on the meta device, nor in a trace.

    Raises:
        IndexError: the first such id, with its position.
    """
    if ids.is_meta or is_tracing():
        return
    values = _values(ids)
    bad = (values < 0) | (values >= rows)
    if bad.any():
        raise outside(values, int(bad.argmax()), rows)


# torch 2.6 has no such name; there a strict export records our operator.
is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


def is_tracing() -> bool:
    """Return whether torch is recording a graph, in which only its own operations are seen."""
    return (
        is_exporting() or torch.jit.is_tracing() or get_proxy_mode() is not None  # make_fx
    )


def _values(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a tensor's numbers; under `torch.func.vmap` those of all samples."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    with torch._C._DisableFuncTorch():
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def rows_and_gradients(gradient: torch.Tensor) -> tuple[Any, Any]:
    """Return what `rows_of` does, as NumPy's arrays."""
    ids, values = rows_of(gradient)
    return ids.cpu().numpy(), values.cpu().numpy()


def rows_of(gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a gradient of the whole table as ids (n,) and their gradients (n, D).

    A dense gradient gives the rows in which it is not zero: to an optimizer, a row with gradient
    zero is a row that the batch did not touch.
    """
    with torch._C.DisableTorchFunctionSubclass():
        others = getattr(gradient, "others", None)
        if others is not None and others.isnan():
            gradient = dense(gradient)
        gradient = gradient.detach()
        if gradient.is_sparse:
            ids, values = gradient._indices()[0], gradient._values()
        else:
            ids = (gradient != 0).any(dim=1).nonzero()[:, 0]
            values = gradient[ids]
        return ids, values.to(torch.float32).contiguous()
