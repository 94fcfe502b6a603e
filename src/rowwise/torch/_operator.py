"""The modules as one operator, `torch.ops.rowwise.embed`, for `torch.compile`.

A compiled graph cannot look into a table. It sees an operator of the ids, of a number that stands
for the module, and of a scalar, the anchor, whose gradient is always 0: through it autograd comes
back to `embed_backward`, which makes the module's gradient as without compilation, by row.
Outside of compiled graphs the modules do not use the operator, whose dispatch takes time.
"""

from __future__ import annotations

import itertools
import weakref
from contextlib import AbstractContextManager
from typing import Any

import torch

_modules: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_numbers = itertools.count()
# Left out of CUDA graphs, where torch can be told so.
_TAGS: dict[str, Any] = (
    {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}
)


def register(module: torch.nn.Module) -> None:
    """Give the module its number and its anchor."""
    number = next(_numbers)
    _modules[number] = module
    module.__dict__.update(_number=number)
    follow_dtype(module)


def follow_dtype(module: torch.nn.Module) -> None:
    """Give the module an anchor of its weight's dtype, by which graphs know that of its vectors."""
    weight = module._parameters.get("weight")
    dtype = torch.float32 if weight is None else weight.dtype
    module.__dict__.update(_anchor=torch.zeros((), dtype=dtype, requires_grad=True))


def embed(
    module: Any,
    ids: torch.Tensor,
    offsets: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what the module gives for ids, as one operator in the graph being compiled."""
    bags = -1 if isinstance(module, torch.nn.Embedding) else ids.shape[0]
    if offsets is not None:
        bags = offsets.shape[0] - bool(module.include_last_offset)
    vectors: torch.Tensor = torch.ops.rowwise.embed(
        module._anchor, ids, offsets, weights, module._number, bags, module.embedding_dim
    )
    return vectors


@torch.library.custom_op("rowwise::embed", mutates_args=(), **_TAGS)
def _embed(
    anchor: torch.Tensor,
    ids: torch.Tensor,
    offsets: torch.Tensor | None,
    weights: torch.Tensor | None,
    number: int,
    bags: int,
    dim: int,
) -> torch.Tensor:
    with torch.no_grad():
        return _run(number, ids, offsets, weights).clone()


@_embed.register_fake
def _(
    anchor: torch.Tensor,
    ids: torch.Tensor,
    offsets: torch.Tensor | None,
    weights: torch.Tensor | None,
    number: int,
    bags: int,
    dim: int,
) -> torch.Tensor:
    shape = (*ids.shape, dim) if bags == -1 else (bags, dim)
    return ids.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("rowwise::embed_backward", mutates_args=(), **_TAGS)
def _embed_backward(
    gradient: torch.Tensor,
    anchor: torch.Tensor,
    ids: torch.Tensor,
    offsets: torch.Tensor | None,
    weights: torch.Tensor | None,
    number: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    learned = None if weights is None else weights.detach().requires_grad_()
    with torch.enable_grad(), _recording(), _recording(torch._C.DispatchKey.ADInplaceOrView):
        vectors = _run(number, ids, offsets, learned)
        if _gradient_is_accumulated(number):
            torch.autograd.backward(vectors, gradient)
        elif learned is not None:
            (learned.grad,) = torch.autograd.grad(vectors, learned, gradient)
    of_weights = None if learned is None else learned.grad
    return torch.zeros_like(anchor), anchor.new_zeros(
        0
    ) if of_weights is None else of_weights.clone()


@_embed_backward.register_fake
def _(
    gradient: torch.Tensor,
    anchor: torch.Tensor,
    ids: torch.Tensor,
    offsets: torch.Tensor | None,
    weights: torch.Tensor | None,
    number: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    of_weights = gradient.new_empty(0) if weights is None else torch.empty_like(weights)
    return gradient.new_empty(()), of_weights


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    anchor, ids, offsets, weights, ctx.number, _, _ = inputs
    ctx.save_for_backward(anchor, ids, offsets, weights)


def _back(ctx: Any, gradient: torch.Tensor) -> Any:
    anchor, ids, offsets, weights = ctx.saved_tensors
    of_anchor, of_weights = torch.ops.rowwise.embed_backward(
        gradient, anchor, ids, offsets, weights, ctx.number
    )
    return of_anchor, None, None, None if weights is None else of_weights, None, None, None


_embed.register_autograd(_back, setup_context=_save)


def _recording(
    key: torch._C.DispatchKey = torch._C.DispatchKey.AutogradFunctionality,
) -> AbstractContextManager[None]:
    """Let autograd record, which is left out while an operator runs."""
    guard: AbstractContextManager[None] = torch._C._SetExcludeDispatchKeyGuard(key, False)
    return guard


def _run(number: int, ids: torch.Tensor, *others: torch.Tensor | None) -> torch.Tensor:
    module = _modules[number]
    given = others if isinstance(module, torch.nn.EmbeddingBag) else ()
    vectors: torch.Tensor = module.forward_eagerly(ids, *given)
    return vectors


def _gradient_is_accumulated(number: int) -> bool:
    """Return whether this is `backward()`, and not `torch.autograd.grad` of other tensors."""
    module = _modules[number]
    if not module.weight.requires_grad:
        return False
    accumulation = module._anchor.view_as(module._anchor).grad_fn.next_functions[0][0]
    try:
        return bool(torch._C._will_engine_execute_node(accumulation))
    except RuntimeError:
        return False
