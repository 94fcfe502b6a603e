"""The weight of a module whose rows lie on a disk, and its gradient by row."""

from __future__ import annotations

import os
from typing import Any, NoReturn, Self

import numpy as np
import torch

from rowwise._binding import OptimizerBinding
from rowwise._checks import check_has_memory
from rowwise.files._container import Container
from rowwise.rules import Rule
from rowwise.store import BagGradient, Folder
from rowwise.store._memory import STORED
from rowwise.table import Table
from rowwise.torch._distant import DistantWeight, check_place
from rowwise.torch._gradient import RowGradientTensor, as_row_gradient
from rowwise.torch._half import HALVES
from rowwise.torch._lookup import rows_and_gradients
from rowwise.torch._weight import SteppedByRow


class DiskWeight(SteppedByRow, DistantWeight):
    """The (rows, dim) weight of a table on a disk, as a parameter without memory of its own.

    Attributes:
        saved: the file that the table was saved to or loaded from last, its checksum, and the
            version then; None for neither.
    """

    of = "an embedding on a disk"
    why = "memory may not hold all rows"
    instead = "module.table.save(path) writes all rows to a file"

    saved: tuple[str, str, Any] | None

    @classmethod
    def over(cls, table: Table, requires_grad: bool = True) -> Self:
        """Return the parameter of a table."""
        self = cls._over(table, requires_grad, getattr(torch, table.dtype))
        self.binding, self.saved = OptimizerBinding(), None
        return self

    def rebind(self, table: Table) -> None:
        """Take the shape that the table has now."""
        with torch._C.DisableTorchFunctionSubclass():
            self.data = torch.zeros((), dtype=self.dtype).expand(table.shape)

    # ------------------------------------------------------------------ steps

    @property
    def owner(self) -> Any:
        """The optimizer that steps it, or None."""
        return self.binding.owner

    def attach(self, optimizer: Any) -> None:
        """Make `optimizer` the one that steps it."""
        self.binding.attach(optimizer)

    def is_skipped(self, found_inf: float) -> bool:
        """Return whether a gradient scaler found infinity."""
        return bool(found_inf)

    def check_step(self, rule: Rule, rate: float, iteration: int) -> None:
        """Refuse a step that would fail with the present gradient, before it has begun.

        Raises:
            MemoryError, ValueError: see `DiskStore.check_step`.
            RuntimeError: the gradient was multiplied with NaN or infinity, all rows of it.
        """
        gradient = self.gradient_for_step()
        if gradient is None:
            return
        if isinstance(gradient, BagGradient):
            ids, values = gradient.plan.ids, gradient.values
        else:
            ids, values = rows_and_gradients(gradient)
        if getattr(gradient, "lost_zeros", False) and not np.isfinite(values).all():
            raise RuntimeError(
                f"the gradient of {self.of} was multiplied with NaN or infinity, such as by "
                "clip_grad_norm_ of a NaN: a step would make every row NaN. Leave the step out "
                "where the norm is not finite, as torch.amp.GradScaler does"
            )
        store: Any = self.table.store
        store.check_step(rule, ids, rule.step_params(rate, iteration))

    def step(self, rate: float, iteration: int, factor: float) -> None:
        """Make a step of the table with the gradient, times factor, if there is one."""
        gradient = self.gradient_for_step()
        if gradient is None:
            return
        if isinstance(gradient, BagGradient):
            bags = gradient.with_values(_scaled(gradient.values, factor))
            self.table.apply(bags, rate, iteration=iteration)
        else:
            ids, values = rows_and_gradients(gradient)
            # A NaN goes where torch would let it go.
            self.table.update(
                ids, _scaled(values, factor), rate, iteration=iteration, check_finite=False
            )

    def hide_gradient(self) -> Any:
        """Leave the parameter without a gradient, until `show_gradient` gets what this returns."""
        with torch._C.DisableTorchFunctionSubclass():
            hidden = self.grad, self.bags
            self.grad, self.bags = None, None  # type: ignore[assignment]
        return hidden

    def show_gradient(self, hidden: Any) -> None:
        """Take back what `hide_gradient` returned."""
        with torch._C.DisableTorchFunctionSubclass():
            self.grad, self.bags = hidden

    def _gradient(self) -> torch.Tensor | None:
        with torch._C.DisableTorchFunctionSubclass():
            gradient = self.sum_bags()
            if gradient is None or type(gradient) is not torch.Tensor:
                return gradient
            if not gradient.is_sparse or gradient.requires_grad:
                self.refuse("a dense gradient, or one with a graph of its own")
            as_row_gradient(gradient, self)
            gradient.__class__ = DiskGradient  # type: ignore[assignment]
            return gradient

    def _forget_gradient(self) -> None:
        self.bags = None

    # ------------------------------------------------------------------ files and copies

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the table, and remember the file for `saved_file`."""
        self.table.save(path)
        self.remember(path)

    def remember(self, path: str | os.PathLike[str]) -> None:
        """Remember that the table is what a file holds."""
        with Container(path) as file:
            self.saved = os.path.abspath(path), file.checksum, self.version

    @property
    def version(self) -> Any:
        """A value that is another after every change of what `save` writes."""
        return self.table.store.version

    def saved_file(self) -> dict[str, str]:
        """Return the path and the checksum of the file that holds the table as it is now.

        Raises:
            RuntimeError: there is none.
        """
        if self.saved is None or self.saved[2] != self.version:
            raise RuntimeError(
                f"state_dict() of {self.of} names the file that holds its rows: call "
                "module.save(path) first, after the last step"
            )
        return {"path": self.saved[0], "checksum": self.saved[1]}

    def load(self, file: dict[str, str]) -> None:
        """Become the table of a file that `saved_file` named.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it holds something else.
        """
        with Container(file["path"]) as found:
            if found.checksum != file["checksum"]:
                raise ValueError(f"{file['path']!r} was written anew since the state was taken")
            shape, dtype = found.entries["weights"].shape, found.entries["weights"].dtype
        own = self.table.shape, np.dtype(STORED[self.table.dtype])
        if (shape, dtype) != own:
            raise ValueError(f"{file['path']!r} has rows of shape {shape}, {dtype}, not {own}")
        store: Any = self.table.store
        self.become(file["path"], scratch=store.scratch, memory=store.memory)
        self.remember(file["path"])
        self.resumes = True

    def load_named(
        self, state_dict: Any, prefix: str, missing_keys: list[str], error_msgs: list[str]
    ) -> None:
        """Take the file that a state_dict names, or add what is wrong to PyTorch's lists.

        Args:
            state_dict, prefix, missing_keys, error_msgs: of a module's `_load_from_state_dict`.
        """
        file = state_dict.get(prefix + "weight.file")
        if file is None:
            missing_keys.append(prefix + "weight.file")
            return
        try:
            self.load(file)
        except (OSError, ValueError) as error:
            error_msgs.append(f"{prefix}weight: {error}")

    def become(self, path: str, **place: Any) -> None:
        """Take over what a file holds.

        Args:
            path: of the file.
            place: scratch and memory.
        """
        self.table.become(Table.load(path, **place))

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        rows, dim = self.table.shape
        return f"Parameter of {rows} rows of {dim} on a disk"

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self.refuse("a copy")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        self.refuse("a pickle")


class DiskGradient(RowGradientTensor):
    """The gradient of a `DiskWeight`: by row, and never dense."""

    never_dense = True

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.to_dense:
            args[0].make_dense()
        if func in (torch.Tensor.clone, torch.clone):
            with torch._C.DisableTorchFunctionSubclass():
                result = func(*args, **(kwargs or {}))
        else:
            result = super().__torch_function__(func, types, args, kwargs)
        if type(result) is RowGradientTensor:
            result.__class__ = cls
        return result

    def make_dense(self) -> NoReturn:
        """Refuse.

        Raises:
            RuntimeError: with what can be done with it.
        """
        raise RuntimeError(
            "the gradient of an embedding on a disk stays by row: it can be scaled, clipped and "
            "normed, and read by coalesce().indices() and values(); a dense one might not fit"
        )

    def _as_ordinary(self) -> torch.Tensor:
        return self.detach()


def weight_on_disk(
    shape: tuple[int, int],
    given: torch.Tensor | Table | None,
    padding_idx: int | None,
    scratch: Folder | None,
    memory: int | str | None,
    place: tuple[Any, Any],
    freeze: bool,
    rounding: str | None,
) -> DiskWeight:
    """Return the weight of a new module.

    Args:
        shape: (rows, dim).
        given: the user's values, or table; None for rows that start normal with deviation 1.
        padding_idx: a row that starts with zeros; None for none.
        scratch, memory: see `rowwise.Table`.
        place: device and dtype that were asked for.
        freeze: whether it is not trained.
        rounding: of weights of 16 bits; None: no table holds them.

    Raises:
        MemoryError, OSError, ValueError: see `rowwise.Table`.
        RuntimeError: another place than the CPU, or a dtype that no table there holds.
    """
    device, dtype = place
    if dtype is None and isinstance(given, torch.Tensor) and rounding is not None:
        dtype = given.dtype
    like = torch.empty(0, device=device, dtype=dtype)
    if like.dtype in HALVES and rounding is None:
        raise RuntimeError(
            f'{DiskWeight.of} of {like.dtype} needs rounding="nearest"; PyTorch\'s own steps need '
            "all rows"
        )
    check_place(like, DiskWeight.of, like.dtype if like.dtype in HALVES else torch.float32)
    if isinstance(given, Table):
        return DiskWeight.over(given, not freeze)
    check_has_memory(scratch, memory)
    init = "unit-normal" if given is None else given.detach().float().numpy()
    seed = int(torch.randint(2**63 - 1, ()))  # so that torch.manual_seed decides
    stored: dict[str, Any] = {}
    if like.dtype in HALVES:
        stored = {"dtype": like.dtype, "rounding": rounding}
    table = Table(*shape, init=init, seed=seed, scratch=scratch, memory=memory, **stored)
    if given is None and padding_idx is not None:
        table.store.write(0.0, np.array([padding_idx]))
    return DiskWeight.over(table, not freeze)


def _scaled(values: Any, factor: float) -> Any:
    return values if factor == 1.0 else values * np.float32(factor)
