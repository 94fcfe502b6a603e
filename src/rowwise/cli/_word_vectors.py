"""Train word vectors, from the file to the folder."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import rich.progress
from numpy.typing import NDArray
from rich.console import Console

from rowwise.cli._model_folder import save_vectors
from rowwise.cli._new_folder import NewFolder, uninterrupted
from rowwise.cli._read import KINDS, Layout, UsageError, kind_of, read_columns, read_lines
from rowwise.cli._spinner import spinner
from rowwise.cli._summary import print_neighbors
from rowwise.word2vec import Corpus, Word2Vec

_WORDS_SHOWN = 8


def run(
    file: Path,
    text: str | None,
    out: NewFolder,
    words: list[str],
    console: Console,
    *,
    encoding: str | None,
    min_count: int,
    max_size: int | None,
    **settings: Any,
) -> dict[str, Any]:
    """Read, train, print neighbours and save; return a summary."""
    with spinner("reading"):
        corpus = _read(file, text, Layout(encoding), min_count=min_count, max_size=max_size)
    model = Word2Vec(corpus, **settings)
    start = model.table.to_numpy()
    seconds = _train(model, console)
    with uninterrupted():
        save_vectors(model.table, corpus.vocabulary, start, out.path)
        out.place()
        vectors = model.table.to_numpy()
        print_neighbors(corpus.vocabulary, vectors, words, _examples(model), console)
    return {
        "interrupted": model.fraction_done < 1,
        "words": len(corpus.ids),
        "rows": len(model.table),
        "untrained": len(model.table.untrained()),
        "seconds": seconds,
    }


def _read(file: Path, text: str | None, layout: Layout, **options: Any) -> Corpus:
    tabular = str(file) != "-" and kind_of(file) in KINDS
    if tabular and text is None:
        raise UsageError(f"{str(file)!r} has columns; --text names that of the texts")
    if text is not None and not tabular:
        raise UsageError(
            f"--text {text!r}: {str(file)!r} has no columns, being none of {', '.join(KINDS)}"
        )
    if text is not None:
        (cells,) = read_columns(file, text, layout=layout)
        return Corpus.from_texts([cell if isinstance(cell, str) else "" for cell in cells],
                                 **options)  # fmt: skip
    return Corpus.from_texts(read_lines(file, layout.encoding), **options)


def _train(model: Word2Vec, console: Console) -> float:
    """Train, and return how many seconds that took."""
    corpus = model.corpus
    bar = rich.progress.Progress(
        rich.progress.TextColumn("training"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TextColumn("{task.speed:,.0f} words/s", justify="right"),
        rich.progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    total = model.epochs * len(corpus.ids)
    task = bar.add_task("", total=total)
    begin = time.perf_counter()
    with suppress(KeyboardInterrupt):  # what was learned so far is worth keeping
        console.print(
            f"{len(corpus.ids):,} words, {len(corpus.vocabulary):,} different ones", soft_wrap=True
        )
        with bar:
            model.train(lambda words: bar.advance(task, words))
    seconds, read = time.perf_counter() - begin, round(model.fraction_done * total)
    console.print(
        f"trained in {seconds:.1f} s, {read / seconds:,.0f} words a second", soft_wrap=True
    )
    if model.fraction_done < 1:
        console.print(
            f"Interrupted at {model.fraction_done:.0%}; saving what was learned so far",
            soft_wrap=True,
        )
    return seconds


def _examples(model: Word2Vec) -> NDArray[np.int64]:
    """Return a few words, from frequent to rare; the most frequent ones say little."""
    count = len(model.corpus.vocabulary)
    return np.unique(np.geomspace(min(100, count), count, _WORDS_SHOWN).astype(np.int64) - 1)
