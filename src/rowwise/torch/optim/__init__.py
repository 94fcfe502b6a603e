"""PyTorch's optimizers, with exact lazy updates of embeddings on tables; all else is PyTorch's.

Each but `RowwiseAdagrad` has the signature, the parameter groups and the `state_dict` of its
namesake in `torch.optim`, and its numbers. What has no exact shortcut (a weight decay added to the
gradient, an option that needs every row) is stepped densely, by PyTorch, with one warning that
names the cause. What else `torch.optim` has, schedulers and other optimizers among it, is to be had
here under its name, as it is there.

Example:
    >>> import torch, rowwise.torch
    >>> model = torch.nn.Sequential(rowwise.torch.Embedding(1000, 16), torch.nn.Linear(16, 1))
    >>> optimizer = AdamW(model.parameters(), lr=0.01)
    >>> model(torch.tensor([3, 7])).sum().backward()
    >>> optimizer.step()
    >>> optimizer.state[model[0].weight]["exp_avg"].shape
    torch.Size([1000, 16])
"""

from __future__ import annotations

from typing import Any

import torch

from rowwise.torch import _rowwise_adagrad
from rowwise.torch.optim._optimizer import TableOptimizer

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RMSprop",
    "RowwiseAdagrad",
]


def __getattr__(name: str) -> Any:
    """Return what `torch.optim` has by that name, so that a program changes its import alone."""
    return getattr(torch.optim, name)


class SGD(TableOptimizer, torch.optim.SGD):
    """`torch.optim.SGD`; its weight_decay is lazy without momentum."""


class Adam(TableOptimizer, torch.optim.Adam):
    """`torch.optim.Adam`; its weight_decay is dense unless decoupled."""


class AdamW(TableOptimizer, torch.optim.AdamW):
    """`torch.optim.AdamW`, weight decay included."""


class RMSprop(TableOptimizer, torch.optim.RMSprop):
    """`torch.optim.RMSprop`; its weight_decay is dense."""


class Adagrad(TableOptimizer, torch.optim.Adagrad):
    """`torch.optim.Adagrad`; its weight_decay is dense."""


class RowwiseAdagrad(TableOptimizer, _rowwise_adagrad.RowwiseAdagrad):
    """Adagrad with one accumulator a row: FBGEMM's `EXACT_ROWWISE_ADAGRAD`, by its defaults.

    A table takes a third of the memory that Adam's takes. Of other parameters each vector along
    the last axis has one accumulator. Its weight_decay is dense. The formula is in
    `rowwise.rules.RowwiseAdagrad`.

    Args:
        params: parameters or groups, as any optimizer of PyTorch takes them.
        lr: learning rate.
        lr_decay: of the rate, lr / (1 + (t - 1) lr_decay) at step t.
        weight_decay: added to the gradient, times the weights.
        initial_accumulator_value: what accumulators start with.
        eps: added to the root of the accumulator.
        maximize: climb instead of descend.

    Raises:
        ValueError: a number below 0.

    Example:
        >>> import rowwise.torch
        >>> embedding = rowwise.torch.Embedding(1000, 64)
        >>> optimizer = RowwiseAdagrad(embedding.parameters(), lr=0.05)
        >>> embedding(torch.tensor([3, 7])).sum().backward()
        >>> optimizer.step()
        >>> optimizer.state[embedding.weight]["sum"].shape
        torch.Size([1000, 1])
    """


class Adadelta(TableOptimizer, torch.optim.Adadelta):
    """`torch.optim.Adadelta`; its weight_decay is dense."""


class Adamax(TableOptimizer, torch.optim.Adamax):
    """`torch.optim.Adamax`; its weight_decay is dense."""


class NAdam(TableOptimizer, torch.optim.NAdam):
    """`torch.optim.NAdam`; its weight_decay is dense unless decoupled."""
