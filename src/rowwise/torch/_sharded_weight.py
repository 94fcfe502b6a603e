"""The weight of a sharded embedding: a parameter whose rows lie on several ranks."""

from __future__ import annotations

import weakref
from typing import Any, NoReturn, Self

import numpy as np
import torch

from rowwise.sharded import ShardedTable
from rowwise.sharded._batch import Request
from rowwise.sharded._exchange import all_reduce
from rowwise.sharded._passes import OwnGradient, Pass
from rowwise.store import RowGradient
from rowwise.torch._distant import DistantWeight
from rowwise.torch._lookup import rows_and_gradients

_LOCAL = """{name} of a sharded embedding's gradient, which is that of this process's batch alone;
instead of torch.nn.utils.clip_grad_norm_ call rowwise.torch.clip_grad_norm_, which takes the norm
over all processes"""


class ShardedWeight(DistantWeight):
    """The (rows, dim) weight of a sharded table, as a parameter without memory of its own.

    It has the shape of the whole table, and a gradient: that of this rank's batch, by row. Its
    values cannot be read or written as a tensor's.

    Attributes:
        share: what a rank's gradient is multiplied with, as DDP does to dense ones: 1 / ranks, or
            1 where gradients are summed.
        exchanged: the gradient of this rank's rows, once `exchange` was called.
    """

    of = "a sharded embedding"
    why = "no process has all of its rows"
    instead = "module.full_state_dict() has all rows"

    table: ShardedTable
    share: float
    exchanged: OwnGradient | None
    _owner: weakref.ref[Any] | None
    _passes: list[Pass]
    _lengths: list[int]  # of the passes whose rows are in torch's own gradient

    def __new__(cls, table: ShardedTable, average: bool, requires_grad: bool = True) -> Self:
        """Make the parameter of a table."""
        self = cls._over(table, requires_grad)
        self.share = 1 / table.store.exchange.ranks if average else 1.0
        self._owner = None
        self.exchanged, self._passes, self._lengths = None, [], []
        return self

    # ------------------------------------------------------------------ steps

    @property
    def owner(self) -> Any:
        """The optimizer that steps it, held weakly, or None."""
        return None if self._owner is None else self._owner()

    def attach(self, optimizer: Any) -> None:
        """Make `optimizer` the one that steps it."""
        self._owner = weakref.ref(optimizer)

    def is_skipped(self, found_inf: float) -> bool:
        """Return whether a gradient scaler found infinity on any rank; every rank calls it."""
        exchange = self.table.store.exchange
        return bool(all_reduce(exchange, np.array([found_inf]), np.maximum)[0])

    def step(self, rate: float, iteration: int, factor: float) -> None:
        """Make a step with the gradients of all ranks, times factor; every rank calls it."""
        given: Any = self.passes() if self.exchanged is None else self.exchanged
        if factor != 1.0:
            given = _scaled(given, factor)
        self.table.apply(given, rate, iteration=iteration, factor=factor)

    # ------------------------------------------------------------------ gradients

    def add_pass(self, gradient: Pass, wanted: Request | None = None) -> None:
        """Add the gradient of a backward pass, which torch is told has no rows.

        It is copied, in order and times `share`: its memory may be somebody else's.

        Args:
            gradient: of the ids of a lookup.
            wanted: what the lookup returned, see `ShardedStore.parcel`.
        """
        if self.exchanged is not None:
            raise RuntimeError(
                "backward() after clip_grad_norm_: the gradient was exchanged already; make all "
                "backward passes first, and call zero_grad() after the step"
            )
        self._passes.append(self.table.store.parcel(gradient, self.share, wanted))

    def passes(self) -> list[Pass]:
        """Return the gradients of all backward passes since the last `zero_grad`."""
        with torch._C.DisableTorchFunctionSubclass():
            gradient: Any = self.grad
        if gradient is None or (gradient.is_sparse and not gradient._nnz()):
            return list(self._passes)
        ids, values = rows_and_gradients(gradient)
        known = gradient.is_sparse and sum(self._lengths) == len(ids)
        cuts = np.cumsum(self._lengths)[:-1].tolist() if known else []
        earlier = zip(np.split(ids, cuts), np.split(values, cuts), strict=True)
        return [*(RowGradient(*part) for part in earlier), *self._passes]

    def exchange(self) -> OwnGradient | None:
        """Send the gradient to the ranks that hold its rows, and return that of this rank's rows.

        Every rank calls it. It is None if no rank has any.
        """
        if self.exchanged is None:
            self.exchanged = self.table.store.exchange_gradient(self.passes())
        return self.exchanged

    def _gradient(self) -> torch.Tensor | None:
        """Return torch's gradient, with the rows of all passes."""
        with torch._C.DisableTorchFunctionSubclass():
            if self._passes:
                passes = [self.table.store.row_gradient(part) for part in self.passes()]
                self._passes = []
                self._lengths = [len(part.ids) for part in passes]
                self.grad = as_sparse(
                    np.concatenate([part.ids for part in passes]),
                    np.concatenate([part.values for part in passes]),
                    self.shape,
                )
            gradient: Any = self.grad
            if type(gradient) is torch.Tensor and gradient.is_sparse:
                gradient.__class__ = ShardedGradient
            return gradient

    def _forget_gradient(self) -> None:
        self._passes, self._lengths, self.exchanged = [], [], None

    def hide_gradient(self) -> Any:
        """Leave the parameter without a gradient, until `show_gradient` gets what this returns."""
        with torch._C.DisableTorchFunctionSubclass():
            hidden = self.grad, self._passes
            self.grad = None  # type: ignore[assignment]
        self._passes = []
        return hidden

    def show_gradient(self, hidden: Any) -> None:
        """Take back what `hide_gradient` returned."""
        with torch._C.DisableTorchFunctionSubclass():
            self.grad, self._passes = hidden

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Parameter of {self.table!r}"

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self.table.__getstate__()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        self.table.__getstate__()


class ShardedGradient(torch.Tensor):
    """The gradient of a sharded weight from this rank's batch: sparse, ids (n,), values (n, dim).

    It may be read and scaled, by rank. A norm or a bound of it would be wrong, since rows have
    gradients of other ranks too: those raise.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        if any(word in name for word in ("norm", "clamp", "foreach")):
            raise RuntimeError(_LOCAL.format(name=name))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def _scaled(gradient: Any, factor: float) -> Any:
    if isinstance(gradient, list):
        return [_scaled(part, factor) for part in gradient]
    return gradient.with_values(gradient.values * np.float32(factor))


def as_sparse(ids: Any, values: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a sparse tensor of ids (n,), which may repeat, and values (n, dim), NumPy."""
    return torch.sparse_coo_tensor(
        torch.from_numpy(ids)[None], torch.from_numpy(values), shape, check_invariants=False
    )
