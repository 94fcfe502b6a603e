"""A weight that no tensor's memory holds: its rows lie on other ranks, or on a disk."""

from __future__ import annotations

from typing import Any, NoReturn, Self

import torch

from rowwise.rules import Rule
from rowwise.sharded import ShardedTable
from rowwise.table import Table

_NOT_HERE = (
    "the weight of {of} does not support {what}: {why}. For vectors, call the {layer} with ids; "
    "{training}{instead}"
)


class DistantWeight(torch.Tensor):
    """The (rows, dim) weight of a table, as a parameter without memory of its own.

    It has the shape of the table, and a gradient by row. Its values cannot be read or written as a
    tensor's: that is an error, which says what to do.

    Attributes:
        table: the table.
        resumes: whether the table was loaded, so that its next optimizer goes on with its slots.
        of, why, instead: for errors: what it is the weight of, why its values are not here, and
            what gives all of them.
        layer, training: for errors: what is called with ids, and how it is trained.
    """

    table: Any
    resumes: bool
    of: str
    why: str
    instead: str
    layer = "module"
    training = "to train, step the weight with an optimizer of rowwise.torch.optim; "

    @classmethod
    def _over(
        cls, table: Table | ShardedTable, requires_grad: bool, dtype: torch.dtype = torch.float32
    ) -> Self:
        shape_only = torch.zeros((), dtype=dtype).expand(table.shape)
        self: Self = torch.Tensor._make_subclass(cls, shape_only, requires_grad)
        self._is_param = True  # torch's own sign: isinstance(self, torch.nn.Parameter)
        self.table, self.resumes = table, False
        return self

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    @property
    def owner(self) -> Any:
        """The optimizer that steps it, or None."""
        raise NotImplementedError

    def attach(self, optimizer: Any) -> None:
        """Make `optimizer` the one that steps it."""
        raise NotImplementedError

    def is_skipped(self, found_inf: float) -> bool:
        """Return whether a step is left out, where a gradient scaler found infinity or not."""
        raise NotImplementedError

    def check_step(self, rule: Rule, rate: float, iteration: int) -> None:
        """Refuse a step that would fail with the present gradient, before it has begun."""

    def step(self, rate: float, iteration: int, factor: float) -> None:
        """Make a step of the table with the gradient, times factor, if there is one."""
        raise NotImplementedError

    def hide_gradient(self) -> Any:
        """Leave the parameter without a gradient, until `show_gradient` gets what this returns."""
        raise NotImplementedError

    def show_gradient(self, hidden: Any) -> None:
        """Take back what `hide_gradient` returned."""
        raise NotImplementedError

    def _gradient(self) -> torch.Tensor | None:
        """Return what `grad` is."""
        raise NotImplementedError

    def _forget_gradient(self) -> None:
        """Forget what is kept of a gradient beside torch's."""
        raise NotImplementedError

    def refuse(self, what: str) -> NoReturn:
        """Refuse what needs the values of all rows.

        Raises:
            RuntimeError: with what to do instead.
        """
        raise RuntimeError(
            _NOT_HERE.format(
                what=what,
                of=self.of,
                why=self.why,
                instead=self.instead,
                layer=self.layer,
                training=self.training,
            )
        )

    def check_place(self, like: torch.Tensor) -> None:
        """Refuse another dtype or device than that of the table's rows.

        Raises:
            RuntimeError: with both.
        """
        check_place(like, self.of, self.dtype)

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
            _first_of([args, kwargs]).refuse(_name_of(func))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def check_place(like: torch.Tensor, of: str, dtype: torch.dtype = torch.float32) -> None:
    """Refuse another dtype than that of the rows, or another device than the CPU.

    Raises:
        RuntimeError: with both.
    """
    if like.dtype is not dtype or like.device.type != "cpu":
        name = str(dtype).removeprefix("torch.")
        raise RuntimeError(
            f"{of} cannot become {like.dtype} on {like.device}: its rows are {name} on the CPU; "
            "leave out device and dtype, and move the other modules one by one"
        )


def _name_of(func: Any) -> str:
    if func == torch.Tensor._is_view:  # what an export asks first, before any module is called
        return "torch.export"
    attribute = getattr(func, "__self__", None)  # of a property, such as `data`
    return str(getattr(attribute, "__name__", None) or getattr(func, "__name__", func))


def _first_of(values: Any) -> DistantWeight:
    """Return a weight among the arguments of a function."""
    pending = [values]
    while True:
        value = pending.pop()
        if isinstance(value, DistantWeight):
            return value
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            pending.extend(value)


_GRADIENT_SETTERS = (torch.Tensor.grad.__set__, torch.Tensor.grad.__delete__)

# Attributes that the parameter answers: its shape, and those that autograd and modules use.
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
