"""Training on labelled texts, from the file to the folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console

from rowwise.cli._errors import exit_on_error
from rowwise.cli._model_folder import vectors
from rowwise.cli._read import UsageError, read_columns


def run(
    file: Path,
    text: str,
    label: str,
    out: Path,
    words: list[str],
    console: Console,
    *,
    init_from: Path | None,
    dim: int | None,
    **settings: Any,
) -> dict[str, Any]:
    """Reads, trains, prints the outcome, saves; says in short what came of it."""
    with exit_on_error("train"):
        texts, labels = read_columns(file, text, label)
        _check(file, texts, labels, label)
        check_optimizer(settings["optimizer"])
        pretrained = None if init_from is None else vectors(init_from)
        if pretrained is not None and dim not in (None, pretrained.dim):
            raise ValueError(
                f"--dim {dim}: the vectors of {str(init_from)!r} have {pretrained.dim} numbers; "
                "leave --dim out"
            )

    from rowwise.cli._classifier import Settings, fit
    from rowwise.cli._model_folder import save
    from rowwise.cli._summary import report

    trained = fit(texts, labels, Settings(dim=dim or 32, **settings), pretrained, console)
    if trained.interrupted:
        console.print("\nInterrupted: what was learned so far is kept", soft_wrap=True)
    report(trained, words, console)
    save(trained, out, settings["length"])
    return {
        "interrupted": trained.interrupted,
        "accuracy": trained.accuracy(),
        "majority": trained.majority(),
        "rows": len(trained.table),
        "untrained": len(trained.table.untrained()),
        "history": trained.history,
    }


def _check(file: Path, texts: list[str], labels: list[str], label: str) -> None:
    classes = set(labels)
    if len(classes) < 2:
        raise UsageError(
            f"{str(file)!r}: column {label!r} needs two labels or more, and has "
            f"{', '.join(map(repr, classes)) or 'none'} in {len(texts)} rows"
        )
    if not any(text.strip() for text in texts):
        raise UsageError(f"{str(file)!r}: every text is empty")


def check_optimizer(name: str) -> None:
    """Imports Keras, on PyTorch unless told otherwise, and sees whether it has this optimizer."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    try:
        keras.optimizers.get(name)
    except ValueError as error:
        raise UsageError(f"--optimizer {name!r} is not one of Keras's") from error
