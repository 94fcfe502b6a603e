"""What `Embedding` and `EmbeddingBag` share: a weight that lies on a table where it can."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from rowwise._init import Init, standard_normal
from rowwise.table import Table
from rowwise.torch._parameter import bring_to_now
from rowwise.torch._remap import lie_over_new_memory
from rowwise.torch._renorm import renormalize
from rowwise.torch._weight import Weight, move_to_table, table_can_hold

_INTEGERS = (torch.int32, torch.int64)


class OnTable(torch.nn.Module):
    """Mixed into PyTorch's module, before it.

    `weight` is moved to a table when it is assigned (in the constructor, by a user, by
    `load_state_dict(assign=True)`) or converted back to float32 on the CPU. What a table cannot
    hold stays where it is, and the module is PyTorch's.
    """

    weight: Any
    sparse: bool
    scale_grad_by_freq: bool
    max_norm: float | None
    norm_type: float

    def register_parameter(self, name: str, param: Any) -> None:
        """Takes a parameter; `weight` onto a table."""
        super().register_parameter(name, param)
        if name == "weight":
            self._move_to_table(warn=True)

    def _move_to_table(self, warn: bool) -> None:
        weight = self._parameters["weight"]
        if type(weight) is not torch.nn.Parameter or weight.is_meta:
            return
        if table_can_hold(weight):
            move_to_table(weight)
        elif warn and weight.numel():
            warnings.warn(
                f"an embedding of {weight.dtype} on {weight.device} is trained densely, as "
                "torch.nn's is; rowwise's tables are float32 on the CPU",
                stacklevel=5,
            )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if "weight" in self._parameters:
            self._move_to_table(warn=False)
        return self

    @property
    def table(self) -> Table:
        """The rowwise table behind the module: counts of updates, untrained rows, `save`.

        Raises:
            ValueError: the weight is not on a table (another dtype than float32, another device
                than the CPU, parametrized).
        """
        weight = self.weight
        if not isinstance(weight, Weight):
            raise ValueError(
                f"the weight is a {type(weight).__name__} of {weight.dtype} on {weight.device}, "
                "not on a table: those are float32 parameters on the CPU"
            )
        return weight.table

    def grow(self, num_embeddings: int, *, init: Init = "normal", seed: int | None = None) -> None:
        """Adds rows at the end, up to `num_embeddings`; see `rowwise.Table.grow`.

        The weight stays the same parameter, its optimizer goes on; gradients are dropped. New
        rows start as PyTorch's do, from a normal distribution of deviation 1.
        """
        self.table.grow(num_embeddings, init=_unit_normal(init, seed), seed=seed)
        self._take_new_memory()

    def remap(self, places: Any, *, init: Init = "normal", seed: int | None = None) -> None:
        """Makes row i what row places[i] was; -1 makes a new row. See `rowwise.Table.reorder`."""
        self.table.remap(places, init=_unit_normal(init, seed), seed=seed)
        self._take_new_memory()

    def _take_new_memory(self) -> None:
        lie_over_new_memory(self.weight)
        self.num_embeddings = self.table.rows

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        if isinstance(self._parameters.get("weight"), Weight):
            self.table.mark_trained()  # somebody trained what is in a file

    def _by_table(self, ids: Any) -> bool:
        """Whether the table can answer; if not, every alias of its memory is brought to now."""
        own = self._parameters.get("weight")
        possible = (
            own is self.weight
            and isinstance(own, Weight)
            and own.owner is None
            and is_ids(ids)
            and not torch._C._are_functorch_transforms_active()
        )
        if not possible:
            # torch.func puts another tensor in the weight's place, often one on the same memory
            bring_to_now(self.weight)
        return possible

    def _gradient_by_rows(self) -> bool:
        """Whether this forward pass's gradient is made sparse."""
        weight = self.weight
        if self.sparse or not weight.takes_rows:
            return self.sparse
        # These were promised a dense gradient, or may do with it what they like.
        ddp = DistributedDataParallel._active_ddp_module is not None
        if ddp or weight._backward_hooks:
            cause = "DistributedDataParallel (without sparse=True)" if ddp else "a hook"
            weight.warn_once(f"{cause} takes a dense gradient")
            return False
        return True

    def _renormalize(self, ids: torch.Tensor) -> None:
        if self.max_norm is not None:
            renormalize(self.weight, ids, self.max_norm, self.norm_type)


def _unit_normal(init: Init, seed: int | None) -> Init:
    if not (isinstance(init, str) and init == "normal"):
        return init
    return lambda shape: standard_normal(shape, seed)


def is_ids(ids: Any) -> bool:
    """Whether this is an ordinary tensor of integers, as torch's embeddings take them."""
    return (
        type(ids) is torch.Tensor
        and ids.dtype in _INTEGERS
        and ids.device.type == "cpu"
        and ids.layout is torch.strided
    )
