"""`rowwise.torch.DynamicEmbedding`: vectors for ids that nobody numbered."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Self

import torch

from rowwise._checks import check_has_memory
from rowwise.dynamic import DynamicTable
from rowwise.dynamic._batches import IdKind
from rowwise.dynamic._index import Evict
from rowwise.dynamic._starts import RowInit, RowStarts
from rowwise.dynamic._table import OnEvict
from rowwise.store import DiskStore, Folder
from rowwise.torch._dynamic_disk import DynamicDiskWeight
from rowwise.torch._lookup import is_tracing, lookup
from rowwise.torch._weight import Weight
from rowwise.torch.optim._state import bind_slots, has_slots

_NEEDS_SPARSE_STEPS = (
    "a DynamicEmbedding is trained by an optimizer of rowwise.torch.optim, made before the forward "
    "pass, with options that it can step sparsely: any other keeps state of ids that lost their "
    "rows. For example rowwise.torch.optim.Adam(model.parameters())"
)


class DynamicEmbedding(torch.nn.Module):
    """Vectors of fixed size for any 64-bit integers, or any strings, within bounded memory.

    In training a call counts its ids, and gives rows to those due one; a row may be taken from an
    id that stays away, never from one of the last `in_flight` steps. In evaluation nothing
    changes. See `rowwise.dynamic.DynamicTable`, which is the attribute `dynamic`; its `save` writes
    rows, slots and ids to one file.

    The rows lie in host memory as float32, wherever the module is moved to. Ids may come from any
    device, and vectors go there.

    `state_dict` holds the vectors as `weight` and the ids beside; with the optimizer's it is all
    that training needs to go on. Of rows on a disk it names the file that `save` wrote last.

    Args:
        capacity: rows for ids.
        embedding_dim: length D of a vector.
        ids, admit_after, evict, ttl, unknown_rows, evict_share, in_flight: see
            `rowwise.dynamic.IdIndex`.
        init, init_scale, seed, on_evict: see `rowwise.dynamic.DynamicTable`; as in
            `torch.nn.Embedding`, a vector starts normal with deviation 1.
        scratch, memory: for rows on a disk, of which those used lately are in memory; see
            `rowwise.Table`. The index stays in memory.

    Input shape:
        (...,), a tensor of integers; or strings, in an array or nested lists.

    Output shape:
        (..., D).

    Raises:
        RuntimeError: in training, when no optimizer of `rowwise.torch.optim` steps the weight.
        TypeError, ValueError: ids of the other kind; arguments out of their bounds.
        MemoryError: a batch of more rows than `memory` holds, in training. Nothing has changed.
        MemoryError, OSError: see `rowwise.Table`.

    Example:
        >>> import torch, rowwise.torch
        >>> embedding = rowwise.torch.DynamicEmbedding(1000, 16)
        >>> optimizer = rowwise.torch.optim.Adam(embedding.parameters(), lr=0.01)
        >>> embedding(torch.tensor([7_000_000_000, -5])).square().sum().backward()
        >>> optimizer.step()
        >>> embedding.has_row(torch.tensor([-5, 8])).tolist()
        [True, False]
    """

    dynamic: DynamicTable
    weight: Weight | DynamicDiskWeight

    def __init__(
        self,
        capacity: int,
        embedding_dim: int,
        *,
        ids: IdKind = "integers",
        admit_after: int = 1,
        evict: Evict = "lru",
        ttl: int | None = None,
        unknown_rows: int = 1,
        evict_share: float = 0.05,
        in_flight: int = 2,
        init: RowInit = "normal",
        init_scale: float | None = None,
        seed: int | None = None,
        on_evict: OnEvict | None = None,
        scratch: Folder | None = None,
        memory: int | str | None = None,
    ) -> None:
        super().__init__()
        check_has_memory(scratch, memory)
        if init == "normal" and init_scale is None:
            init_scale = 1.0
        if seed is None:  # so that torch.manual_seed decides
            seed = int(torch.randint(2**63 - 1, ()))
        self._lie_on(
            DynamicTable(
                capacity,
                embedding_dim,
                ids=ids,
                admit_after=admit_after,
                evict=evict,
                ttl=ttl,
                unknown_rows=unknown_rows,
                evict_share=evict_share,
                in_flight=in_flight,
                init=init,
                init_scale=init_scale,
                seed=seed,
                on_evict=on_evict,
                scratch=scratch,
                memory=memory,
            )
        )

    def _lie_on(self, dynamic: DynamicTable, requires_grad: bool = True) -> None:
        self.dynamic = dynamic
        if isinstance(dynamic.table.store, DiskStore):
            self.weight = DynamicDiskWeight.in_front(dynamic, requires_grad)
        else:
            self.weight = Weight.over(dynamic.table, requires_grad)
            self.weight.place = "host"

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        scratch: Folder,
        memory: int | str,
        on_evict: OnEvict | None = None,
    ) -> Self:
        """Make a module on a disk from the file of a dynamic table.

        An optimizer that is made for the module goes on with the slots of the file and its count
        of steps.

        Args:
            path: what `save` wrote, or `rowwise.dynamic.DynamicTable.save`.
            scratch, memory, on_evict: see the module.

        Raises:
            FileNotFoundError, DamagedFileError, MemoryError, OSError: see
                `rowwise.dynamic.DynamicTable.load`.
        """
        dynamic = DynamicTable.load(path, on_evict=on_evict, scratch=scratch, memory=memory)
        module = cls.__new__(cls)
        torch.nn.Module.__init__(module)
        module._lie_on(dynamic)
        weight: Any = module.weight
        weight.remember(path)
        weight.resumes = True
        return module

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write rows, slots, ids and counts to one file, which appears whole or not at all.

        Raises:
            OSError: there is no room, or no permission; a file that was there stays.
        """
        if isinstance(self.weight, DynamicDiskWeight):
            self.weight.save(path)
        else:
            self.dynamic.save(path)

    @torch.compiler.disable
    def forward(self, input: Any) -> torch.Tensor:
        """Return the vectors (..., D) of ids input (...,)."""
        refuse_trace()
        ids = as_array(input)
        training = self.training and torch.is_grad_enabled() and self.weight.requires_grad
        if training:
            if self.weight.binding.mode != "sparse":
                raise RuntimeError(_NEEDS_SPARSE_STEPS)
            self._bind_loaded_slots()
            self.dynamic.check_batch(ids)
            rows = self.dynamic.observe(ids)
        else:
            rows = self.dynamic.find(ids)
        vectors = lookup(self.weight, torch.from_numpy(rows), sparse=True)
        if training:
            dynamic = self.dynamic
            refuse_late_gradients(vectors, lambda: dynamic.steps, dynamic.index.in_flight)
        return vectors.to(input.device) if isinstance(input, torch.Tensor) else vectors

    def prefetch(self, next_ids: Any) -> None:
        """Begin to read the next batch's rows, where they lie on a disk, while this one is trained.

        Nothing is counted, and no value depends on it.

        Raises:
            TypeError, ValueError: ids of the other kind, or no ids.
        """
        self.dynamic.prefetch(as_array(next_ids))

    def has_row(self, ids: Any) -> torch.Tensor:
        """Return whether ids (...,) have a row of their own."""
        return torch.from_numpy(self.dynamic.has_row(as_array(ids)))

    def _bind_loaded_slots(self) -> None:
        """Bring slots that the optimizer loaded to the table, before rows are renewed there."""
        if isinstance(self.weight, DynamicDiskWeight):
            return  # which has its slots from its own file
        optimizer = self.weight.binding.owner
        state = optimizer.state.get(self.weight)
        if state and not has_slots(self.weight, state):
            bind_slots(self.weight, optimizer.rule_of(self.weight), state)

    # ------------------------------------------------------------------ state

    def get_extra_state(self) -> dict[str, Any]:
        """Return the ids, as `state_dict` holds them."""
        state = self.dynamic.state()
        return {
            "config": state.config,
            "ids": {name: torch.from_numpy(array) for name, array in state.ids.items()},
            "starts": asdict(state.starts),
            "steps": self.dynamic.steps,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the ids of a `state_dict`."""
        ids = {name: tensor.numpy() for name, tensor in state["ids"].items()}
        self.dynamic.load_ids(state["config"], ids, RowStarts.of(**state["starts"]), state["steps"])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if isinstance(self.weight, DynamicDiskWeight):
            destination[prefix + "weight.file"] = self.weight.saved_file()
        else:
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        weight, file = self.weight, state_dict.get(prefix + "weight.file")
        if isinstance(weight, DynamicDiskWeight) and prefix + "weight" in state_dict:
            error_msgs.append(
                f"{prefix}weight is of a DynamicEmbedding in memory: call its save(path), and "
                "DynamicEmbedding.load(path, scratch=..., memory=...), which brings slots, too"
            )
        elif isinstance(weight, DynamicDiskWeight):
            weight.load_named(state_dict, prefix, missing_keys, error_msgs)
        elif file is not None:
            error_msgs.append(
                f"{prefix}weight is in a file, of a DynamicEmbedding on a disk: "
                f"DynamicEmbedding.load({file['path']!r}, scratch=..., memory=...) makes such a "
                "module of it"
            )
        else:
            # The weight stays on its table: values are copied there.
            local_metadata = {**local_metadata, "assign_to_params_buffers": False}
            notes = missing_keys, unexpected_keys, error_msgs
            super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *notes)

    def _apply(self, fn: Any, recurse: bool = True) -> DynamicEmbedding:
        return self

    def share_memory(self) -> DynamicEmbedding:
        """Refuse: processes would each train a table of their own."""
        raise RuntimeError("a DynamicEmbedding lies in this process's own memory")

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_parameters"] = {}
        return {**state, "requires_grad": self.weight.requires_grad}

    def __setstate__(self, state: dict[str, Any]) -> None:
        requires_grad, dynamic = state.pop("requires_grad"), state.pop("dynamic")
        super().__setstate__(state)
        self._lie_on(dynamic, requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> DynamicEmbedding:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        memo[id(self.weight)] = copied.weight
        return copied

    def extra_repr(self) -> str:
        """Return what `print(module)` shows."""
        given = {**self.dynamic.index.config(), "embedding_dim": self.dynamic.table.dim}
        return ", ".join(f"{name}={value!r}" for name, value in given.items())


def refuse_trace() -> None:
    """Refuse to become part of a program that runs without this process's index.

    Raises:
        NotImplementedError: torch is exporting or tracing.
    """
    if is_tracing():
        raise NotImplementedError(
            "a DynamicEmbedding cannot be exported or traced: the index from ids to rows lies in "
            "this process. Export the modules behind it, and serve vectors from "
            "module.dynamic.lookup(ids)"
        )


def refuse_late_gradients(vectors: torch.Tensor, steps: Callable[[], int], in_flight: int) -> None:
    """Let the backward pass of vectors raise once their rows may have gone to other ids."""
    step = steps()

    def check(_: torch.Tensor) -> None:
        late = steps() - step
        if late >= in_flight:
            raise RuntimeError(
                f"the gradient of a batch comes {late} steps after its forward pass, and "
                f"in_flight={in_flight}: its rows may have gone to other ids"
            )

    vectors.register_hook(check)


def as_array(ids: Any) -> Any:
    """Return ids as NumPy's, if they are a tensor."""
    return ids.detach().cpu().numpy() if isinstance(ids, torch.Tensor) else ids
