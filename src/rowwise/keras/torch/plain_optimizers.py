"""A model that Keras has compiled, stepped by an optimizer of torch's own.

Its tables' gradients are row-sparse for Keras's optimizer; torch's, which take dense gradients,
get dense ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rowwise.torch._parameter import TableParameter


def _densify(optimizer: Any, args: Any, kwargs: Any) -> None:
    if isinstance(optimizer, torch.optim.SparseAdam):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if type(parameter) is TableParameter and parameter.grad is not None:
                parameter.grad = parameter.grad.to_dense()


register_optimizer_step_pre_hook(_densify)
