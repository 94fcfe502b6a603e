"""PyTorch on rowwise tables: `Embedding`, `EmbeddingBag` and the optimizers in `optim`."""

from rowwise.torch import optim
from rowwise.torch.embedding import Embedding
from rowwise.torch.embedding_bag import EmbeddingBag

__all__ = ["Embedding", "EmbeddingBag", "optim"]
