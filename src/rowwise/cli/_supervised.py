"""Train a text classifier, from the file to the folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rowwise.cli._labelled import Columns, Labelled, read_labelled
from rowwise.cli._model_folder import load_vectors, save_classifier
from rowwise.cli._new_folder import NewFolder, uninterrupted
from rowwise.cli._read import UsageError
from rowwise.cli._summary import mistakes, print_outcome, score, telling_words
from rowwise.inspect._summary import counted

if TYPE_CHECKING:
    from rowwise.sklearn import TextClassifier
    from rowwise.sklearn._training import OnStep


def read(
    file: Path, columns: Columns, validation_file: Path | None, console: Console
) -> tuple[Labelled, Labelled | None, list[str]]:
    """Read the texts to train on, those of a file held out, and all labels."""
    data = read_labelled(file, columns)
    classes = data.classes()
    if len(classes) < 2:
        raise UsageError(
            f"{str(file)!r}: column {columns.label!r} needs two labels or more, and has "
            f"{', '.join(map(repr, classes)) or 'none'} in {counted(len(data.texts), 'row')}"
        )
    if not any(text.strip() for text in data.texts):
        raise UsageError(f"{str(file)!r}: every text is empty")
    held_out = None
    if validation_file is not None:
        held_out = _matching(read_labelled(validation_file, columns), data, validation_file)
        unknown = sorted(set(held_out.classes()) - set(classes))
        if unknown:
            raise UsageError(
                f"{str(validation_file)!r} has the label {unknown[0]!r}, which {str(file)!r} has "
                "not"
            )
    for path, part in ((file, data), (validation_file, held_out)):
        if part is not None and part.unlabelled:
            console.print(
                f"{path}: {counted(part.unlabelled, 'row')} without a label left out",
                soft_wrap=True,
                markup=False,
            )
    return data, held_out, classes


def _matching(held_out: Labelled, data: Labelled, path: Path) -> Labelled:
    if held_out.several and not data.several:
        raise UsageError(f"{str(path)!r} has texts with several labels, the training file none")
    return Labelled(held_out.texts, held_out.labels, data.several, held_out.unlabelled)


def train_model(
    model: TextClassifier,
    data: Labelled,
    held_out: Labelled | None,
    classes: list[str],
    console: Console,
) -> bool:
    """Train on texts, with a bar and a line per epoch; return whether an interrupt ended it."""
    validation = None if held_out is None else (held_out.texts, held_out.targets(classes))

    def tell(line: object) -> None:
        console.print(str(line), soft_wrap=True, markup=False, highlight=False)

    try:
        with _progress(console) as on_step:
            interrupted = model._train(
                data.texts,
                data.targets(classes),
                validation=validation,
                on_step=on_step,
                on_epoch=tell,
                on_try=tell,
            )
    except KeyboardInterrupt:
        tell("\nInterrupted before the first epoch; there is nothing to save")
        raise
    if data.several:
        model.classes_ = np.array(classes)
    return interrupted


@contextmanager
def _progress(console: Console) -> Iterator[OnStep]:
    bar = Progress(
        TextColumn("epoch {task.fields[epoch]:>3}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=None, epoch=1)
    with bar:
        yield lambda epoch, done, count: bar.update(task, epoch=epoch, completed=done, total=count)


def run(
    file: Path,
    columns: Columns,
    out: NewFolder,
    words: list[str],
    console: Console,
    *,
    validation_file: Path | None,
    test_file: Path | None,
    init_from: Path | None,
    **parameters: Any,
) -> dict[str, Any]:
    """Read, train, print the outcome and save; return a summary of it."""
    from rowwise.sklearn import TextClassifier

    data, held_out, classes = read(file, columns, validation_file, console)
    test = None if test_file is None else _matching(read_labelled(test_file, columns), data,
                                                    test_file)  # fmt: skip
    vectors = None if init_from is None else load_vectors(init_from)
    if vectors is not None and parameters["dim"] not in (None, vectors.dim):
        raise UsageError(
            f"--dim {parameters['dim']}: the vectors of {str(init_from)!r} have {vectors.dim} "
            "numbers; leave --dim out"
        )
    model = TextClassifier(init_from=vectors, **parameters)
    console.print(f"{len(data.texts):,} texts, {len(classes)} labels", soft_wrap=True)
    interrupted = train_model(model, data, held_out, classes, console)
    return finish(model, data, held_out, test, words, console, out, interrupted)


def finish(
    model: TextClassifier,
    data: Labelled,
    held_out: Labelled | None,
    test: Labelled | None,
    words: list[str],
    console: Console,
    out: NewFolder,
    interrupted: bool,
) -> dict[str, Any]:
    """Score a trained classifier, save it and print the outcome; return a summary of it."""
    with uninterrupted():
        if interrupted:
            console.print("\nInterrupted; saving the best epoch so far", soft_wrap=True)
        if held_out is None:
            chosen = model.held_out_.tolist()
            held_out = Labelled(
                [data.texts[i] for i in chosen], [data.labels[i] for i in chosen], data.several
            )
        measured = score(model, held_out), mistakes(model, held_out)
        labels = [str(label) for label in model.classes_]
        refitted = not interrupted and model._refit(data.texts, data.targets(labels))
        summary: dict[str, Any] = {
            "interrupted": interrupted,
            "texts": len(data.texts),
            "unlabelled": data.unlabelled,
            "labels": labels,
            "lowercase": model.lowercase_,
            "char_ngrams": list(model.char_ngrams_),
            "refitted": refitted,
            "held_out": measured[0],
            "test": None if test is None else score(model, test),
            "rows": len(model.table_),
            "words": len(model._features.words),
            "best_epoch": model.best_epoch_,
            "epochs": model.n_iter_,
            "history": model.history_,
            "mistakes": measured[1],
            "telling_words": telling_words(model, 20),
        }
        save(model, summary, out, console)
        print_outcome(model, summary, words, console)
    return summary


def save(model: TextClassifier, summary: dict[str, Any], out: NewFolder, console: Console) -> None:
    """Save a classifier where it was asked for; in a temporary folder if that fails."""
    try:
        save_classifier(model, summary, out.path)
        out.place()
    except OSError as error:
        out.remove()
        rescue = Path(tempfile.mkdtemp(prefix="rowwise-"))
        save_classifier(model, summary, rescue)
        raise UsageError(
            f"{str(out.out)!r} could not be written: {error}; the model is in {str(rescue)!r}"
        ) from None
