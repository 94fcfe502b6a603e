"""Quantization of these modules by `torch.ao.quantization`, as of PyTorch's own.

`torch.ao.quantization` finds modules by their exact class, in a global table and in the user's
configuration. Two of its functions are replaced, in its module alone: one returns the class of a
module, the other makes the quantized module.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch

from rowwise.torch._embedding import Embedding
from rowwise.torch._embedding_bag import EmbeddingBag
from rowwise.torch._weight import Weight

_PYTORCHS: dict[type, type[torch.nn.Module]] = {
    Embedding: torch.nn.Embedding,
    EmbeddingBag: torch.nn.EmbeddingBag,
}


def as_pytorchs_module(module: Any) -> torch.nn.Module:
    """Return PyTorch's module with the options of this one, and the values that it gives.

    Raises:
        UntrainedError: a row is not trained, and the module is of untrained="error".
    """
    twin: torch.nn.Module = object.__new__(_PYTORCHS[type(module)])
    twin.__dict__.update(module.__dict__)
    twin._parameters = dict(module._parameters)
    weight = module.weight
    if isinstance(weight, Weight):
        rows = module.table.lookup(np.arange(module.num_embeddings), untrained=module.untrained)
        twin._parameters["weight"] = torch.nn.Parameter(
            torch.from_numpy(rows).to(weight.device), weight.requires_grad
        )
    return twin


# Not by attribute: torch.ao.quantization.quantize is a function of that name.
torch_quantize: Any = import_module("torch.ao.quantization.quantize")
_type_of, _swap_module = torch_quantize.type_before_parametrizations, torch_quantize.swap_module


def _pytorchs_type_of(module: torch.nn.Module) -> type:
    found: type = _type_of(module)
    return _PYTORCHS.get(found, found)


def _swap_pytorchs_module(module: Any, *args: Any, **kwargs: Any) -> Any:
    if type(module) in _PYTORCHS and getattr(module, "qconfig", None) is not None:
        module = as_pytorchs_module(module)
    return _swap_module(module, *args, **kwargs)


torch_quantize.type_before_parametrizations = _pytorchs_type_of
torch_quantize.swap_module = _swap_pytorchs_module
