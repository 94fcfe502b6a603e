"""What `rowwise train` prints at the end: accuracy, neighbours, rows untrained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from rowwise.inspect import nearest
from rowwise.inspect._summary import display_name
from rowwise.text._vocabulary import Vocabulary

if TYPE_CHECKING:
    from rowwise.cli._classifier import Trained

_WORDS_SHOWN = 8
_NEIGHBORS_SHOWN = 5


def report(trained: Trained, words: list[str], console: Console) -> None:
    """Prints the outcome. Neighbours are those of `words`, or of the rows that moved most."""
    console.print(
        f"\nHeld-out accuracy {trained.accuracy():.3f}; always the most frequent label: "
        f"{trained.majority():.3f}",
        soft_wrap=True,
    )
    vectors = trained.table.to_numpy()
    show_neighbors(trained.vocabulary, vectors, words, _longest(trained), console)
    _untrained(trained, console)


def show_neighbors(
    vocabulary: Vocabulary,
    vectors: NDArray[np.float32],
    words: list[str],
    otherwise: Iterable[int],
    console: Console,
) -> None:
    """Prints the words nearest to `words`; if there are none, to the rows `otherwise`."""
    for word in words:
        if word not in vocabulary:
            console.print(f"{word!r} is not in the vocabulary", soft_wrap=True, markup=False)
    rows = [vocabulary[word] for word in words if word in vocabulary] if words else otherwise
    grid = Grid("word", "nearest, with cosine", box=None, pad_edge=False)
    for row in rows:
        ids, cosines = nearest(vectors, row, _NEIGHBORS_SHOWN)
        near = zip(vocabulary.decode(ids), cosines, strict=True)
        grid.add_row(
            escape(vocabulary.tokens[row]),
            escape(", ".join(f"{word} {cosine:.2f}" for word, cosine in near)),
        )
    console.print(grid)


def _longest(trained: Trained) -> list[int]:
    """The longest vectors belong to the words that say most about the label."""
    lengths = np.linalg.norm(trained.table.to_numpy(), axis=1)
    lengths[trained.table.update_counts < np.median(trained.table.update_counts)] = 0
    lengths[:2] = 0  # padding and unknown
    longest = np.argsort(-lengths, kind="stable")[:_WORDS_SHOWN]
    return list(longest[lengths[longest] > 0].tolist())


def _untrained(trained: Trained, console: Console) -> None:
    rows = trained.table.untrained()
    names = [display_name(word) for word in trained.vocabulary.decode(rows[:_WORDS_SHOWN])]
    named = f": {', '.join(names)}{', ...' if len(rows) > len(names) else ''}" if names else ""
    console.print(
        f"\n{len(rows)} of {len(trained.table)} rows are untrained{escape(named)}",
        soft_wrap=True,
    )
