"""The weight of a sharded embedding: a parameter whose rows lie on several ranks."""

from __future__ import annotations

import weakref
from typing import Any, NoReturn, Self

import numpy as np
import torch

from rowwise.sharded import ShardedTable
from rowwise.sharded._batch import Request
from rowwise.sharded._store import OwnGradient, Pass
from rowwise.store import RowGradient
from rowwise.torch._lookup import rows_and_gradients

_NOT_HERE = """{name} of a sharded embedding's weight: no process has all of its rows.
Call the module for the vectors of ids, module.full_state_dict() for all rows, and step the weight
with an optimizer of rowwise.torch.optim"""

_LOCAL = """{name} of a sharded embedding's gradient, which is that of this process's batch alone;
instead of torch.nn.utils.clip_grad_norm_ call rowwise.torch.clip_grad_norm_, which takes the norm
over all processes"""


class ShardedWeight(torch.Tensor):
    """The (rows, dim) weight of a sharded table, as a parameter without memory of its own.

    It has the shape of the whole table, and a gradient: that of this rank's batch, by row. Its
    values cannot be read or written as a tensor's.

    Attributes:
        table: the sharded table.
        share: what a rank's gradient is multiplied with, as DDP does to dense ones: 1 / ranks, or
            1 where gradients are summed.
        exchanged: the gradient of this rank's rows, once `exchange` was called.
        optimizer: the optimizer that steps it, weakly, or None.
        resumes: whether the table was loaded, so that its next optimizer goes on with its slots.
    """

    table: ShardedTable
    share: float
    exchanged: OwnGradient | None
    optimizer: weakref.ref[Any] | None
    resumes: bool
    _passes: list[Pass]
    _lengths: list[int]  # of the passes whose rows are in torch's own gradient

    def __new__(cls, table: ShardedTable, average: bool, requires_grad: bool = True) -> Self:
        """Make the parameter of a table."""
        shape_only = torch.zeros(()).expand(table.shape)
        self: Self = torch.Tensor._make_subclass(cls, shape_only, requires_grad)
        self._is_param = True  # torch's own sign: isinstance(self, torch.nn.Parameter)
        self.table, self.share = table, 1 / table.store.exchange.ranks if average else 1.0
        self.optimizer = None
        self.exchanged, self.resumes, self._passes, self._lengths = None, False, [], []
        return self

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

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

    # ------------------------------------------------------------------ torch's functions

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func == torch.Tensor.grad.__get__:
            return args[0]._gradient()
        if func in _GRADIENT_SETTERS:
            args[0]._forget_gradient()
        elif func is torch.full_like:  # of an optimizer's constructor, which makes a slot of it
            return torch.full((), *args[1:]).expand(args[0].shape)
        elif func not in _METADATA:
            raise RuntimeError(_NOT_HERE.format(name=getattr(func, "__name__", str(func))))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

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


_GRADIENT_SETTERS = (torch.Tensor.grad.__set__, torch.Tensor.grad.__delete__)

# What can be asked of the parameter: questions of shape, and what autograd and modules do to it.
_METADATA = {
    getattr(torch.Tensor, name).__get__
    for name in (
        "shape", "dtype", "device", "layout", "ndim", "requires_grad", "is_leaf", "grad_fn",
        "is_sparse", "is_cuda", "is_cpu", "is_meta", "is_quantized", "is_mkldnn", "is_nested",
        "itemsize", "nbytes", "_version", "_backward_hooks", "is_mps", "is_xpu",
    )
} | {
    getattr(torch.Tensor, name)
    for name in (
        "__hash__", "__len__", "size", "dim", "numel", "stride", "is_complex", "is_contiguous",
        "is_floating_point", "element_size", "requires_grad_", "register_hook", "is_shared",
        "register_post_accumulate_grad_hook",
    )
} | {
    torch.Tensor.requires_grad.__set__, torch.Tensor.backward, torch.is_complex,
    torch.is_floating_point, torch.autograd.grad, torch.autograd.backward,
}  # fmt: skip


def as_sparse(ids: Any, values: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a sparse tensor of ids (n,), which may repeat, and values (n, dim), NumPy."""
    return torch.sparse_coo_tensor(
        torch.from_numpy(ids)[None], torch.from_numpy(values), shape, check_invariants=False
    )
