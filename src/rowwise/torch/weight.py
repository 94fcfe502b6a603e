"""The weight of a module as a table's parameter, wherever it can be one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from rowwise.table import Table
from rowwise.torch.parameter import TableParameter


class TableModule(torch.nn.Module):
    """A module whose `weight` (rows, dim) lies on a table while it is float32 on the CPU.

    On another device or in another dtype it is an ordinary parameter, and the module PyTorch's.
    """

    weight: Any
    sparse: bool
    _told = False  # that there is a faster way

    @property
    def table(self) -> Table:
        """The rowwise table behind the module: counts of updates, untrained rows, `save`.

        Raises:
            ValueError: the weight is not on a table (another dtype or device).
        """
        if not isinstance(self.weight, TableParameter):
            raise ValueError(f"{self} has no table: is its weight float32, and on the CPU?")
        return self.weight.table

    def _lay_on_table(self, values: torch.Tensor | None = None) -> None:
        """Puts the weight, with these values or its own shape and zeros, on a table."""
        rows, dim = self.weight.shape
        init = "zeros" if values is None else values.detach().numpy()
        weight = TableParameter(
            Table(rows, dim, init=init), requires_grad=self.weight.requires_grad
        )
        weight.sparse = self.sparse
        self.weight = weight

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """`to`, `double`, `share_memory`...: what leaves the table's memory leaves the table."""
        if isinstance(self.weight, TableParameter):
            probe = fn(torch.empty(1, 1))
            if fits_a_table(probe.dtype, probe.device) and not probe.is_shared():
                return self  # the weight is all there is, and it stays
            plain = self.weight.detach().clone()
            self.weight = torch.nn.Parameter(plain, self.weight.requires_grad)
        super()._apply(fn, recurse)
        weight = self.weight
        if fits_a_table(weight.dtype, weight.device) and weight.numel() and not weight.is_shared():
            self._lay_on_table(weight)
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        weight = self.weight
        if (
            not isinstance(weight, TableParameter)
            and fits_a_table(weight.dtype, weight.device)
            and weight.numel()
        ):
            self._lay_on_table(weight)  # assigned, not copied

    def _takes_rows(self) -> bool:
        """Whether a backward pass gives the gradients of rows, and not of the whole weight."""
        if self.weight.stepped_by_rows() or self.sparse:
            return True
        if self._told or self.weight.wanted_by:
            return False
        if self.weight.requires_grad and torch.is_grad_enabled():
            self._told = True
            warnings.warn(
                f"{self}: without an optimizer of rowwise.torch.optim, a training step visits all "
                f"{self.weight.shape[0]} rows; rowwise.torch.optim has PyTorch's optimizers, with "
                "their numbers, at the cost of the batch",
                stacklevel=3,
            )
        return False

    def _renormalize(self, ids: torch.Tensor, max_norm: float, norm_type: float) -> None:
        """Scales down rows of ids whose norm is above max_norm, in place."""
        with torch.no_grad():
            torch.embedding_renorm_(
                self.weight.detach(), ids.reshape(-1).contiguous(), max_norm, norm_type
            )


def fits_a_table(dtype: torch.dtype | None, device: Any) -> bool:
    """Whether a weight of this dtype and device (None: torch's defaults) can be on a table."""
    dtype = torch.get_default_dtype() if dtype is None else dtype
    device = torch.get_default_device() if device is None else torch.device(device)
    return dtype is torch.float32 and device.type == "cpu"
