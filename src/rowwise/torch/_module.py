"""The base of `Embedding` and `EmbeddingBag`: a weight that lies on a table where it can."""

from __future__ import annotations

import os
import warnings
from typing import Any, Self

import torch
from torch.nn.parallel import DistributedDataParallel

from rowwise._init import Init, standard_normal
from rowwise._untrained import Untrained, check_untrained
from rowwise.rules import Rule
from rowwise.store import Folder
from rowwise.table import Table
from rowwise.torch._device import DeviceStore, is_device
from rowwise.torch._disk import DiskWeight, weight_on_disk
from rowwise.torch._half import (
    TABLES,
    check_rounding,
    is_rounding_state,
    load_rounding_state,
    rounding_state,
)
from rowwise.torch._lookup import is_exporting, is_tracing, whole_ids
from rowwise.torch._operator import follow_dtype, register
from rowwise.torch._parameter import TableParameter, materialize, unrecorded
from rowwise.torch._pretrained import pretrained_weight
from rowwise.torch._renorm import renormalize
from rowwise.torch._threads import heed_torch
from rowwise.torch._weight import (
    Place,
    Weight,
    is_part,
    move_to_table,
    obstacle,
    table_can_hold,
    warn_of_no_table,
)

# Name of random rounding's state in a state_dict: PyTorch's, of what a module has beside tensors.
_EXTRA = "_extra_state"
_INTEGERS = (torch.int32, torch.int64)


class TableBacked(torch.nn.Module):
    """Mixed into PyTorch's module, before it.

    `weight` is moved to a table when it is assigned (in the constructor, by a user, by
    `load_state_dict(assign=True)`) or converted back to float32. What a table cannot hold stays
    where it is, and the module is PyTorch's.
    """

    weight: Any
    untrained: Untrained = "as-is"
    pretrained: Any = None
    table_place: Place | None = None
    rounding: str | None = None
    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    sparse: bool
    scale_grad_by_freq: bool
    max_norm: float | None
    norm_type: float

    def register_parameter(self, name: str, param: Any) -> None:
        """Register a parameter; `weight` is moved to a table."""
        removed = "untrained" in self.__dict__ and self._parameters.get("weight") is None
        super().register_parameter(name, param)
        if name == "weight":
            if isinstance(param, Weight):
                param.place = self.table_place
            if removed and param is not None and is_part(param):
                return  # of FSDP's memory, which it resizes, and reads for what was written
            made = type(param) is not Weight and "untrained" in self.__dict__
            self._move_to_table(warn=True)
            if made:  # of a user's values: the constructor is done
                self._mark_trained()

    def _begin_init(
        self,
        untrained: Untrained,
        place: Place | None,
        on_disk: bool,
        rounding: str | None,
        dtype: Any,
    ) -> None:
        """Check what PyTorch's constructor does not know, before it runs."""
        check_untrained(untrained)
        check_rounding(rounding, dtype)
        if place not in (None, "device", "host"):
            raise ValueError(f'table={place!r} is not "device", "host" or None')
        if place is not None and on_disk:
            raise ValueError(f"table={place!r} is for rows in memory; leave out scratch and memory")
        self.__dict__.update(table_place=place, rounding=rounding)

    def _place_of_weight(self, device: Any) -> Any:
        """Return where the constructor makes the weight, if it was asked for a device."""
        if self.table_place != "host" or str(device) == "meta":
            return device
        torch.empty(0, device=device)  # an error where there is no such device
        return "cpu"

    def _finish_init(self, untrained: Untrained, given: Any) -> None:
        """Complete the constructor: `given` are the user's values for the weight, or None."""
        self.untrained = untrained
        register(self)
        self._place_anchor()
        if given is not None:
            self._mark_trained()

    def _lie_on_disk(
        self,
        given: torch.Tensor | Table | None,
        untrained: Untrained,
        scratch: Folder | None,
        memory: int | str | None,
        place: tuple[Any, Any],
        freeze: bool = False,
    ) -> None:
        """Complete a constructor that made a weight on the meta device; see `weight_on_disk`."""
        shape = self.num_embeddings, self.embedding_dim
        weight = weight_on_disk(
            shape, given, self.padding_idx, scratch, memory, place, freeze, self.rounding
        )
        self.weight = weight
        self._finish_init(untrained, None)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, scratch: Folder, memory: int | str, **options: Any
    ) -> Self:
        """Make a module on a disk from a table's file.

        An optimizer that is made for the module goes on with the slots of the file and its count
        of steps.

        Args:
            path: what `save` wrote, or `rowwise.Table.save`.
            scratch, memory: see the module.
            options: the module's other arguments.

        Raises:
            FileNotFoundError, DamagedFileError, MemoryError, OSError: see `rowwise.Table.load`.
        """
        table = Table.load(path, scratch=scratch, memory=memory)
        options = {"dtype": getattr(torch, table.dtype), "rounding": table.rounding, **options}
        module = cls(*table.shape, _weight=table, scratch=scratch, memory=memory, **options)  # type: ignore[call-arg]
        module.weight.remember(path)
        module.weight.resumes = True
        return module

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table with all that training needs to go on; see `rowwise.Table.save`."""
        if isinstance(self.weight, DiskWeight):
            self.weight.save(path)
        else:
            self.table.save(path)

    def prefetch(self, *next_batch: torch.Tensor) -> None:
        """Begin to read the next batch's rows, where they lie on a disk, while this one is trained.

        No value depends on it.

        Args:
            next_batch: arguments of the next `forward`.

        Raises:
            IndexError, TypeError, ValueError: bad ids, see `rowwise.Table.lookup`.
        """
        if isinstance(self._parameters.get("weight"), Weight) and self.weight.is_cuda:
            return  # where all rows are; to look at the ids would wait
        ids = next_batch[0]
        if not isinstance(ids, torch.Tensor):
            raise TypeError(f"ids must be a tensor, as they are for the module, not {type(ids)}")
        self.table.prefetch(whole_ids(ids).cpu().numpy())

    @classmethod
    def _pretrained(cls, embeddings: Any, freeze: bool, words: Any, **options: Any) -> Self:
        """Make the module of `from_pretrained`; words are vocabulary, init, seed and verbose."""
        vocabulary, init, seed, verbose = words
        weight, report = pretrained_weight(embeddings, freeze, vocabulary, init, seed)
        rows, dim = weight.shape
        if isinstance(weight, Weight):
            module = cls(rows, dim, device="meta", **options)  # type: ignore[call-arg]
            module.weight = weight
        else:
            module = cls(rows, dim, _weight=weight, _freeze=freeze, **options)  # type: ignore[call-arg]
        module.pretrained = report
        if report is not None and verbose:
            print(report)
        return module

    def _mark_trained(self) -> None:
        if isinstance(self._parameters.get("weight"), Weight):
            self.table.mark_trained()

    def _move_to_table(self, warn: bool, rule: Rule | None = None) -> None:
        """Move an ordinary weight to a table, which had this rule before."""
        weight = self._parameters["weight"]
        if type(weight) is not torch.nn.Parameter or weight.is_meta:
            return
        reason = obstacle(weight, self.table_place, self.rounding, rule)
        if reason is None:
            move_to_table(weight, self.table_place, self.rounding)
        elif warn and (
            weight.dtype is not torch.float32
            or weight.device.type != "cpu"
            or is_device(weight.device)
        ):
            warn_of_no_table(reason, stacklevel=5)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        before = self._parameters.get("weight")
        if isinstance(before, DiskWeight):
            before.check_place(fn(torch.empty(0, dtype=before.dtype)))
        if isinstance(before, DiskWeight) or self._stays_on_host(before, fn):
            self._parameters["weight"] = None
            try:
                super()._apply(fn, recurse)
            finally:
                self._parameters["weight"] = before
            return self
        made = type(before) is torch.nn.Parameter and before.is_meta
        dense = type(before) is torch.nn.Parameter and not made
        rule = before.table.rule if isinstance(before, Weight) else None
        super()._apply(fn, recurse)
        if "weight" in self._parameters:
            self._move_to_table(made, rule)
            if "_number" in self.__dict__ and self._parameters["weight"] is not None:
                follow_dtype(self)
            if dense:  # nobody counted which rows were trained meanwhile
                self._mark_trained()
            self._place_anchor()
        return self

    def _stays_on_host(self, weight: Any, fn: Any) -> bool:
        """Return whether the weight's table stays where it is when `fn` is applied."""
        if self.table_place != "host" or not isinstance(weight, Weight):
            return False
        moved = fn(torch.empty(0, device="cpu"))
        return moved.dtype is torch.float32 and (moved.is_cuda or not moved.is_shared())

    def _replicate_for_data_parallel(self) -> Any:
        """Leave the table for `torch.nn.DataParallel`, which copies parameters without a call.

        Raises:
            RuntimeError: it has just copied rows that were not up to date; they are now.
        """
        weight = self._parameters.get("weight")
        if isinstance(weight, Weight):
            store = weight.table.store
            lagged = isinstance(store, DeviceStore) and store.lags
            weight.fall_back_to_dense("torch.nn.DataParallel trains copies of the weight")
            if lagged:
                raise RuntimeError(
                    "torch.nn.DataParallel has copied rows that lag behind their steps; they are "
                    "up to date now, and nothing was computed of the copies: call the model again"
                )
        return super()._replicate_for_data_parallel()

    def _place_anchor(self) -> None:
        """Have the scalar of compiled graphs on the weight's device, see `_operator`."""
        weight = self._parameters.get("weight")
        if weight is not None and weight.is_cuda and not self._anchor.is_cuda:
            self.__dict__["_anchor"] = torch.zeros_like(
                self._anchor, device=weight.device, requires_grad=True
            )

    @property
    def table(self) -> Table:
        """The rowwise table behind the module: counts of updates, untrained rows, `save`.

        Raises:
            ValueError: the weight is not on a table (of a dtype or on a device that the module was
                not made for, parametrized, in shared memory).
        """
        weight = self.weight
        if not isinstance(weight, Weight | DiskWeight):
            raise ValueError(
                f"the weight is a {type(weight).__name__} of {weight.dtype} on {weight.device}, "
                f"not on a table; {TABLES}, in memory that no other process shares"
            )
        table: Table = weight.table
        return table

    def __dir__(self) -> list[str]:
        """Return the attributes that can be read: who goes through them all meets no error."""
        on_table = isinstance(self.weight, Weight | DiskWeight)
        return [name for name in super().__dir__() if name != "table" or on_table]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds; each has a number and anchor of its own."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_number", "_anchor")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        register(self)
        self._place_anchor()

    def _as_leaf(self, *inputs: Any) -> Any:
        """Return a call of this module in a graph of `torch.fx`, as of PyTorch's own modules."""
        tracer = inputs[0].tracer
        return tracer.create_proxy("call_module", tracer.path_of_module(self), inputs, {})

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """Return PyTorch's module for `torch.jit.script`, with this weight as its parameter."""
        kinds = (torch.nn.Embedding, torch.nn.EmbeddingBag)
        kind = next(kind for kind in kinds if isinstance(self, kind))
        if type(self).__module__.partition(".")[0] != "rowwise":
            return self
        if self.untrained != "as-is":
            raise ValueError(
                f"untrained={self.untrained!r} cannot be scripted; use torch.export or "
                'torch.jit.trace, or set module.untrained = "as-is" first'
            )
        if isinstance(self.weight, DiskWeight):
            self.weight.refuse("a script")
        if isinstance(self.weight, Weight):
            self.weight.fall_back_to_dense("torch.jit.script compiles PyTorch's own module")
        twin: torch.nn.Module = object.__new__(kind)
        twin.__dict__.update(self.__getstate__())
        return twin

    def extra_repr(self) -> str:
        """Return PyTorch's description, with `untrained` where it is not the default."""
        more = "" if self.untrained == "as-is" else f", untrained={self.untrained!r}"
        if self.rounding is not None:
            more += f", rounding={self.rounding!r}"
        return f"{super().extra_repr()}{more}"

    def grow(self, num_embeddings: int, *, init: Init = "normal", seed: int | None = None) -> None:
        """Add rows at the end, up to `num_embeddings`; see `rowwise.Table.grow`.

        The weight stays the same parameter, its optimizer goes on; gradients are dropped. New
        rows start as PyTorch's do, from a normal distribution of deviation 1.
        """
        self.table.grow(num_embeddings, init=self._unit_normal(init, seed), seed=seed)
        self._rebind()

    def remap(self, source_rows: Any, *, init: Init = "normal", seed: int | None = None) -> None:
        """Make row i what row source_rows[i] was; -1 makes a new row; see `rowwise.Table.remap`."""
        self.table.remap(source_rows, init=self._unit_normal(init, seed), seed=seed)
        self._rebind()

    def _unit_normal(self, init: Init, seed: int | None) -> Init:
        if not (isinstance(init, str) and init == "normal"):
            return init
        if isinstance(self.weight, DiskWeight):
            return "unit-normal"
        return lambda shape: standard_normal(shape, seed)

    def _rebind(self) -> None:
        """Lie over the new memory of the table, and so do the slots in its optimizer's state."""
        weight = self.weight
        weight.grad = None  # of other rows
        weight.rebind(weight.table)
        self.num_embeddings = weight.table.rows
        if isinstance(weight, DiskWeight):
            return
        state = {} if weight.binding.owner is None else weight.binding.owner.state.get(weight, {})
        for name in weight.table.slot_names:
            if isinstance(state.get(name), TableParameter):
                state[name] = TableParameter(weight.table, name, requires_grad=False).detach()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        weight = self._parameters.get("weight")
        if isinstance(weight, DiskWeight):
            destination[prefix + "weight.file"] = weight.saved_file()
        else:
            super()._save_to_state_dict(destination, prefix, keep_vars)
            rounding = rounding_state(weight.table) if isinstance(weight, Weight) else None
            if rounding is not None:
                destination[prefix + _EXTRA] = rounding

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **options: Any
    ) -> None:
        weight = self._parameters.get("weight")
        if isinstance(weight, DiskWeight):
            self._load_on_disk(weight, state_dict, prefix, *args[2:])
            return
        if prefix + "weight.file" in state_dict:
            kind, path = type(self).__name__, state_dict[prefix + "weight.file"]["path"]
            args[4].append(
                f"{prefix}weight is in a file, of an embedding on a disk: {kind}.load({path!r}, "
                f"scratch=..., memory=...) makes such a module of it, rowwise.Table.load({path!r}) "
                "a table in memory"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, *args, **options)
        self._mark_trained()  # somebody trained what is in a file
        if prefix + _EXTRA in state_dict:
            self._load_rounding(state_dict[prefix + _EXTRA], prefix + _EXTRA, *args[3:])

    def _load_rounding(
        self, state: Any, key: str, unexpected_keys: list[str], error_msgs: list[str]
    ) -> None:
        """Take the state of random rounding that a state_dict has; a module without it may, too."""
        if key in unexpected_keys:  # PyTorch's module has none
            unexpected_keys.remove(key)
        if not is_rounding_state(state):
            error_msgs.append(f"{key} is {state!r}, not seed and count of updates, int64 (2,)")
        elif isinstance(self._parameters.get("weight"), Weight):
            load_rounding_state(self.table, state)

    def _load_on_disk(
        self,
        weight: DiskWeight,
        state_dict: Any,
        prefix: str,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take the file that a state_dict names, or the values of a module in memory."""
        values = state_dict.get(prefix + "weight")
        if values is not None and tuple(values.shape) == weight.table.shape:
            weight.table.store.write(values.detach().float().numpy())
            weight.table.mark_trained()
        elif values is not None:
            error_msgs.append(
                f"{prefix}weight has shape {tuple(values.shape)}, the table {weight.table.shape}"
            )
        else:
            weight.load_named(state_dict, prefix, missing_keys, error_msgs)

    def _can_use_table(self, ids: Any) -> bool:
        """Return whether the table can answer; if not, its memory is brought up to date."""
        heed_torch()
        # Not self.weight: a parametrization computes that anew, and some change with each time.
        own = self._parameters.get("weight")
        if isinstance(own, DiskWeight):
            if is_tracing() or torch._C._are_functorch_transforms_active():
                own.refuse("a trace, or a function transformed by torch.func")
            return True
        if not isinstance(own, Weight):
            self._warn_of_dense_steps(own)
        if own is None:
            return False
        tracing = is_tracing()
        if tracing:
            self._prepare_trace(own)
        elif isinstance(own, Weight) and own.base is None:
            own.leave_to_capture()
        possible = (
            isinstance(own, Weight)
            and own.base is None
            and is_ids(ids)
            and _on_one_device(own, ids)
            and not tracing
            and not torch._C._are_functorch_transforms_active()
        )
        if not possible:
            # torch.func puts another tensor in the weight's place, often one on the same memory
            materialize(own)
        return possible

    def _prepare_trace(self, weight: Any) -> None:
        """Leave the table where the trace may be trained: the gradient would miss the weight."""
        trained = self.training and weight.requires_grad and not is_exporting()
        if trained and isinstance(weight, Weight):
            with unrecorded():
                weight.fall_back_to_dense("a trace made in training mode may be trained")

    def _warn_of_dense_steps(self, weight: Any) -> None:
        """Warn once where nobody else has: of weights that are computed, or put here past setattr.

        Args:
            weight: the parameter; None where it is computed from others.
        """
        trained = self.training and torch.is_grad_enabled() and not is_tracing()
        if not trained or self.__dict__.get("_warned", False):
            return
        if weight is None:
            cause = (
                "the weight is computed from other parameters (parametrized, normed, pruned, FSDP)"
            )
        elif not isinstance(weight, torch.nn.Parameter) or hasattr(weight, "fell_back"):
            return
        elif type(weight) is not torch.nn.Parameter or table_can_hold(
            weight, self.table_place, self.rounding
        ):
            kind = type(weight).__name__
            cause = f"the weight is a {kind} that FSDP, tensor parallelism or a hook put here"
        else:
            return
        self._warned = True
        warnings.warn(
            f"{cause}; every step visits all {self.num_embeddings} rows of this embedding, with "
            "the numbers of dense training and at its speed",
            stacklevel=5,
        )

    def _wants_sparse_gradient(self) -> bool:
        """Return whether the gradient of this forward pass is made sparse."""
        weight = self.weight
        if isinstance(weight, DiskWeight):
            return True
        weight.asked_sparse = self.sparse
        weight.skipped_row = self.padding_idx
        if self.sparse or weight.binding.mode == "dense":
            return self.sparse
        # These were promised a dense gradient, or may do with it what they like.
        ddp = DistributedDataParallel._active_ddp_module is not None
        if ddp or weight._backward_hooks:
            cause = "DistributedDataParallel (without sparse=True)" if ddp else "a hook"
            weight.warn_of_dense_steps(f"{cause} takes a dense gradient")
            return False
        return True

    def _expire_mean(self) -> None:
        """Let the mean of trained rows be computed anew where it may have changed unnoticed."""
        if isinstance(self.weight, Weight) and self.weight.memory.is_exposed:
            self.weight.materialize()

    def _renormalize(self, ids: torch.Tensor) -> None:
        if self.max_norm is not None:
            renormalize(self.weight, ids, self.max_norm, self.norm_type)


def is_ids(ids: Any) -> bool:
    """Return whether this is an ordinary tensor of integers, as torch's embeddings take them."""
    return (
        type(ids) is torch.Tensor
        and ids.dtype in _INTEGERS
        and ids.device.type in ("cpu", "cuda")
        and ids.layout is torch.strided
        and not ids.is_nested
    )


def _on_one_device(weight: Weight, ids: torch.Tensor) -> bool:
    """Return whether ids lie where the table does.

    Raises:
        RuntimeError: the table is on a GPU, and the ids are elsewhere.
    """
    if ids.device == weight.device:
        return True
    if weight.device.type == "cpu":
        return False  # torch says so itself
    raise RuntimeError(
        f"the embedding is on {weight.device} and its ids on {ids.device}; move them: "
        f"ids.to('{weight.device}')"
    )
