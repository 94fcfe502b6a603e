"""Training on text without labels, from the file to the folder."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import rich.progress
from numpy.typing import NDArray
from rich.console import Console

from rowwise.cli._errors import exit_on_error
from rowwise.cli._model_folder import save_rows
from rowwise.cli._read import read_columns
from rowwise.cli._summary import show_neighbors
from rowwise.word2vec import Corpus, Word2Vec
from rowwise.word2vec._corpus import lines

_TABULAR = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_WORDS_SHOWN = 8


def run(
    file: Path,
    text: str | None,
    out: Path,
    words: list[str],
    console: Console,
    *,
    min_count: int,
    max_size: int | None,
    **settings: Any,
) -> dict[str, Any]:
    """Reads, trains, prints neighbours, saves; says in short what came of it."""
    with exit_on_error("train"):
        corpus = _read(file, text, console, min_count=min_count, max_size=max_size)
        model = Word2Vec(corpus, **settings)
    start = model.table.to_numpy()
    seconds = _train(model, console)
    show_neighbors(corpus.vocabulary, model.table.to_numpy(), words, _some(model), console)
    save_rows(model.table, corpus.vocabulary, start, out)
    return {
        "interrupted": model.fraction_done < 1,
        "words": len(corpus.ids),
        "rows": len(model.table),
        "untrained": len(model.table.untrained()),
        "seconds": seconds,
    }


def _read(file: Path, text: str | None, console: Console, **options: Any) -> Corpus:
    tabular = file.name.lower().removesuffix(".gz").endswith(_TABULAR)
    if tabular != (text is not None):
        raise ValueError(
            f"{str(file)!r} has columns; --text names that of the texts"
            if tabular
            else f"--text {text!r}: {str(file)!r} has no columns, being none of {_TABULAR}"
        )
    if text is not None:
        return Corpus.from_texts(*read_columns(file, text), **options)
    if file == Path("-"):
        return Corpus.from_texts(lines(sys.stdin.buffer, "-"), **options)
    quiet = not console.is_terminal
    with rich.progress.open(
        file, "rb", description="reading", console=console, transient=True, disable=quiet
    ) as opened:
        return Corpus.from_texts(lines(opened, str(file)), **options)


def _train(model: Word2Vec, console: Console) -> float:
    """Trains; how many seconds that took."""
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
            f"Interrupted at {model.fraction_done:.0%}: what was learned so far is kept",
            soft_wrap=True,
        )
    return seconds


def _some(model: Word2Vec) -> NDArray[np.int64]:
    """A few words, from frequent to rare; the most frequent ones say little."""
    count = len(model.corpus.vocabulary)
    return np.unique(np.geomspace(min(100, count), count, _WORDS_SHOWN).astype(np.int64) - 1)
