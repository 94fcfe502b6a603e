"""PyTorch on rowwise tables: `Embedding` and the optimizers in `optim`."""

from rowwise.torch import optim
from rowwise.torch.embedding import Embedding

__all__ = ["Embedding", "optim"]
