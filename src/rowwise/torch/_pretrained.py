"""Tables for modules made of vectors that were trained elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from rowwise._init import Init
from rowwise.table import Table
from rowwise.text import Vocabulary
from rowwise.torch._weight import Weight, table_can_hold
from rowwise.vectors import Coverage, pretrained_rows


def pretrained_weight(
    embeddings: Any,
    freeze: bool,
    vocabulary: Vocabulary | Iterable[str] | None,
    init: Init,
    seed: int | None,
) -> tuple[torch.Tensor, Coverage | None]:
    """Return the weight of `from_pretrained`, and how many words were found.

    Args:
        embeddings: (V, D), a tensor or an array, or words with their vectors.
        freeze: whether the weight asks for no gradient.
        vocabulary, init, seed: see `rowwise.vectors.rows_for`; only with words.

    Returns:
        A `Weight` on a table of its own, in which these rows count as trained; what a table of the
        host cannot hold stays a tensor. The coverage is None without words.

    Raises:
        TypeError: vocabulary without words to look up.
        ValueError: embeddings that are not (V, D).
    """
    if isinstance(embeddings, torch.Tensor) and embeddings.dim() == 2 and vocabulary is None:
        if embeddings.device.type != "cpu":
            return embeddings.detach().clone(), None
        if not table_can_hold(embeddings):
            return embeddings, None
    pretrained = pretrained_rows(embeddings, vocabulary, init, seed=seed)
    table = Table(*pretrained.rows.shape, init=lambda _: pretrained.rows)
    table.mark_trained(pretrained.found.nonzero()[0])
    if isinstance(vocabulary, Vocabulary):
        table.vocabulary = vocabulary
    return Weight.over(table, not freeze), pretrained.coverage
