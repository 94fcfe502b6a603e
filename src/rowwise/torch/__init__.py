"""PyTorch modules and optimizers on rowwise tables.

`Embedding` and `EmbeddingBag` are `torch.nn`'s; with an optimizer of `rowwise.torch.optim` their
training step costs what the batch costs, and its numbers are those of PyTorch's dense step.
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as _error:
    raise ImportError("rowwise.torch needs PyTorch; install it: pip install torch") from _error

from rowwise.torch import (
    _dlpack,  # noqa: F401
    _quantization,  # noqa: F401
    optim,
)
from rowwise.torch._beside import clip_grad_norm_, exclude_sharded
from rowwise.torch._dynamic import DynamicEmbedding
from rowwise.torch._embedding import Embedding
from rowwise.torch._embedding_bag import EmbeddingBag
from rowwise.torch._sharded import ShardedEmbedding, ShardedEmbeddingBag
from rowwise.torch._sharded_dynamic import ShardedDynamicEmbedding

__all__ = [
    "DynamicEmbedding",
    "Embedding",
    "EmbeddingBag",
    "ShardedDynamicEmbedding",
    "ShardedEmbedding",
    "ShardedEmbeddingBag",
    "clip_grad_norm_",
    "exclude_sharded",
    "optim",
]
