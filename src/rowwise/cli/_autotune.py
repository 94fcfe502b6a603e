"""`rowwise autotune`: train classifiers with many settings and keep the best."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from rowwise.cli import _options as options
from rowwise.cli._errors import exit_on_error
from rowwise.cli._json import to_json
from rowwise.cli._new_folder import NewFolder
from rowwise.cli._read import Layout

_CHOICES: dict[str, list[Any]] = {
    "dim": [16, 32, 64],
    "word_ngrams": [1, 2, 3],
    "char_ngrams": [0, 3, 4, 5, (2, 4), (2, 5), (3, 5)],
    "min_count": [1, 2, 3],
    "min_ngram_count": [1, 2],
    "learning_rate": [0.0003, 0.0005, 0.001, 0.002, 0.004],
    "lowercase": [True, False],
}
# The settings that `train` compares come first.
_FIRST: list[dict[str, Any]] = [
    {"lowercase": True, "char_ngrams": 4},
    {"lowercase": False},
    {"char_ngrams": (2, 5)},
]
_CHANGED = 0.5  # probability that a trial changes a parameter of the best so far


def autotune(
    file: Annotated[Path, typer.Argument(help="File or folder of texts with labels.")],
    out: Annotated[Path, typer.Option(help="Folder for the best model.")],
    seconds: Annotated[float, typer.Option(min=1, help="Time to spend on training.")] = 300.0,
    validation_file: Annotated[
        Path | None, typer.Option(help="File of held-out texts, in place of a part of FILE.")
    ] = None,
    test_file: Annotated[
        Path | None, typer.Option(help="File of texts to test the best model on.")
    ] = None,
    text: options.Text = "text",
    label: options.Label = "label",
    separator: options.Separator = None,
    header: options.Header = True,
    quotes: options.Quotes = None,
    encoding: options.Encoding = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed for the settings, the split and the weights.")
    ] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the model in a folder that has files.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Train classifiers with many settings, for some time, and keep the best.

    The first have the settings that train compares; each other changes some settings of the best so
    far. The best is the one with the highest accuracy on the held-out texts.

    Example: rowwise autotune reviews.csv --text review --label stars --out model --seconds 600
    """
    from rich.console import Console

    from rowwise.cli._labelled import Columns, Labelled, read_labelled
    from rowwise.cli._supervised import finish, read
    from rowwise.cli._train import print_saved

    console = Console(stderr=as_json)
    with exit_on_error("autotune"), NewFolder(out, force) as folder:
        columns = Columns(text, label, separator, Layout(encoding, header, quotes))
        data, held_out, classes = read(file, columns, validation_file, console)
        test = None
        if test_file is not None:
            found = read_labelled(test_file, columns)
            test = Labelled(found.texts, found.labels, data.several, found.unlabelled)
        model, settings, trials, interrupted = _search(
            data, held_out, classes, seconds, seed, console
        )
        outcome = finish(model, data, held_out, test, [], console, folder, interrupted)
    print_saved(out, console)
    if as_json:
        typer.echo(to_json({"out": str(out), "trials": trials, "settings": settings, **outcome}))
    if interrupted:
        raise typer.Exit(130)


def _search(
    data: Any, held_out: Any, classes: list[str], seconds: float, seed: int, console: Any
) -> tuple[Any, dict[str, Any], int, bool]:
    """Return the best model, its settings, how many were tried, and whether a user interrupted."""
    from rowwise.sklearn import TextClassifier

    end = time.monotonic() + seconds
    validation = None if held_out is None else (held_out.texts, held_out.targets(classes))
    rng = np.random.default_rng(seed)
    best: Any = None
    best_settings: dict[str, Any] = {}
    best_score, trials, asked = (-1.0, 0.0), 0, False

    def stop_when_due(_: Any) -> None:
        if time.monotonic() > end:
            raise KeyboardInterrupt

    first = iter(_FIRST)
    while not asked and (best is None or time.monotonic() < end):
        given = next(first, None)
        settings = best_settings | (given or {})
        if given is None:
            for name, values in _CHOICES.items():
                if rng.random() < _CHANGED:
                    settings[name] = values[rng.integers(len(values))]
        model = TextClassifier(random_state=seed, **settings)
        ended = model._train(
            data.texts, data.targets(classes), validation=validation, on_epoch=stop_when_due
        )
        asked = ended and time.monotonic() <= end
        if not model.best_epoch_:
            continue
        trials += 1
        at = model.best_epoch_ - 1
        score = model.history_["val_accuracy"][at], -model.history_["val_loss"][at]
        if score > best_score:
            best, best_settings, best_score = model, settings, score
        told = ", ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"
        console.print(
            f"trial {trials:>3}  held out: accuracy {score[0]:.4f}  loss {-score[1]:.4f}  "
            f"(best {best_score[0]:.4f})  {told}",
            soft_wrap=True,
            markup=False,
        )
    if best is None:
        raise KeyboardInterrupt
    if data.several:
        best.classes_ = np.array(classes)
    return best, best_settings, trials, asked
