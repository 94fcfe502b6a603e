"""Tables in JAX's programs, without Keras: for plain JAX, Flax and Equinox, with optax."""

from rowwise.jax._embedding import Embedding, Token
from rowwise.jax._optimizer import clip_by_global_norm, global_norm, multi_steps, optimizer
from rowwise.jax._row_optimizers import (
    RowOptimizer,
    adadelta,
    adagrad,
    adam,
    adamax,
    adamaxw,
    adamw,
    lion,
    nadam,
    nadamw,
    rmsprop,
    sgd,
)

__all__ = [
    "Embedding",
    "RowOptimizer",
    "Token",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "clip_by_global_norm",
    "global_norm",
    "lion",
    "multi_steps",
    "nadam",
    "nadamw",
    "optimizer",
    "rmsprop",
    "sgd",
]
