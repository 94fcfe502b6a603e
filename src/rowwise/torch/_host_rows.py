"""A table in the host's memory under a model on a GPU: ids down, vectors up, gradients down.

The copies go through pinned memory, on a stream of their own. The next batch's vectors can be read
before this step's gradients exist: a row that the step does not touch needs its learning rate only.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rowwise.sharded._ahead import store_after
from rowwise.store import HostStore
from rowwise.torch._lookup import gradient_of
from rowwise.torch._rules import learning_rate, next_iteration
from rowwise.torch._weight import Weight


class Copies:
    """Copies between the host's memory and a GPU's.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)

    def down(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the GPU in the host's memory; waits for it."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            here = self.empty(tensor.shape, tensor.dtype)
            here.copy_(tensor, non_blocking=True)
            tensor.record_stream(self._stream)
        self._stream.synchronize()
        return here

    def up(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of `empty` on the GPU; what is given to the GPU next waits for it."""
        return self.arrived(*self.send(tensor))

    def send(self, tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Begin to copy a tensor of `empty` to the GPU; return it there, and the copy's end."""
        with torch.cuda.stream(self._stream):
            there = tensor.to(self.device, non_blocking=True)
            return there, self._stream.record_event()

    def arrived(self, there: torch.Tensor, end: Any) -> torch.Tensor:
        """Return a tensor that was sent; what is given to the GPU next waits for it."""
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(end)
        there.record_stream(stream)
        return there

    def empty(self, shape: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return memory of the host's that is copied without a detour, not yet written."""
        return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=True)


@functools.cache
def copies_to(device: torch.device) -> Copies:
    """Return the copies between the host's memory and a GPU's."""
    return Copies(device)


def is_elsewhere(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is not in the host's memory."""
    return tensor.is_cuda


class Up(torch.autograd.Function):
    """A tensor of the host's on the GPU; its gradient comes down."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, copies: Copies) -> Any:
        ctx.copies = copies
        here = copies.empty(tensor.shape)
        return copies.up(here.copy_(tensor))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.copies.down(gradients[0]), None


@dataclass
class Ahead:
    """The vectors of a batch to come, as a step will leave those that it does not touch.

    Attributes:
        ids: (n,) of the batch.
        vectors: (n, dim) on the GPU, and the end of their copy.
        rate, iteration: of the step.
        version, steps: of the store once the step is made.
    """

    ids: NDArray[np.int64]
    vectors: tuple[torch.Tensor, Any]
    rate: float
    iteration: int
    version: int
    steps: int


def look_ahead(weight: Weight, ids: torch.Tensor, copies: Copies) -> Ahead | None:
    """Return the vectors of the batch that comes after the next step; None if they must wait.

    Args:
        weight: on a table in the host's memory, stepped by an optimizer of `rowwise.torch.optim`.
        ids: (...,) of the host's.
        copies: to where the vectors go.
    """
    store, optimizer = weight.table.store, weight.binding.owner
    if weight.binding.mode != "sparse" or not isinstance(store, HostStore) or store.rule is None:
        return None
    batch = ids.reshape(-1).numpy()
    if batch.size and not 0 <= batch.min() <= batch.max() < store.shape[0]:
        return None  # the lookup says what is wrong
    group = next(g for g in optimizer.param_groups if any(p is weight for p in g["params"]))
    iteration = next_iteration(optimizer.state.get(weight, {}))
    rate = learning_rate(group, iteration)
    if optimizer.rule_of(weight) != store.rule:
        return None  # the step will change it
    after = store_after(store, store.rule.step_params(rate, iteration))
    if after is None:
        return None
    vectors = copies.empty((batch.size, store.shape[1]))
    after.gather(batch, vectors.numpy())
    return Ahead(
        batch.copy(), copies.send(vectors), rate, iteration, store.version + 1, store.steps + 1
    )


def fits(ahead: Ahead, weight: Weight) -> bool:
    """Return whether nothing but the step that was said has happened since `look_ahead`."""
    store = weight.table.store
    return (
        isinstance(store, HostStore)
        and (store.version, store.steps) == (ahead.version, ahead.steps)
        and weight.last_step == (ahead.rate, ahead.iteration)
    )


class Across(torch.autograd.Function):
    """vectors[i, :] = table[ids[i], :] on the GPU, most of which are there already."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Weight,
        ids: torch.Tensor,
        ahead: Ahead,
        copies: Copies,
        sparse: bool,
        frozen: int | None,
        by_frequency: bool,
        on_dense_gradient: Any,
    ) -> Any:
        store: Any = weight.table.store
        late = torch.from_numpy(np.flatnonzero(store.touched_by_last_step(ahead.ids)))
        vectors = copies.arrived(*ahead.vectors)
        if len(late):
            found = copies.empty((len(late), vectors.shape[1]))
            store.gather(ahead.ids[late.numpy()], found.numpy())
            places = copies.empty(late.shape, torch.int64).copy_(late)
            vectors.index_copy_(0, copies.up(places), copies.up(found))
        ctx.save_for_backward(ids)
        ctx.shape, ctx.frozen, ctx.by_frequency = weight.table.shape, frozen, by_frequency
        ctx.sparse, ctx.on_dense_gradient, ctx.on_device = sparse, on_dense_gradient, False
        ctx.copies = copies
        return vectors.reshape(*ids.shape, vectors.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gradient = gradient_of(ctx, ctx.copies.down(gradients[0]))
        return gradient, None, None, None, None, None, None, None
