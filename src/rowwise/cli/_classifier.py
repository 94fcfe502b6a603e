"""The classifier that `rowwise train` trains: Embedding -> mean over words -> Dense."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rowwise import Table, Vocabulary
from rowwise.keras import Embedding
from rowwise.vectors import Vectors


@dataclass(frozen=True)
class Settings:
    """The options of `rowwise train`."""

    dim: int
    epochs: int
    batch_size: int
    length: int
    min_count: int
    max_size: int
    validation: float
    optimizer: str
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Trained:
    """A trained classifier and the part of the texts it did not see."""

    model: Any
    vocabulary: Vocabulary
    classes: list[str]
    words: NDArray[np.int64]  # (n, length) of the held-out texts
    answers: NDArray[np.int64]  # (n,)
    start: NDArray[np.float32]  # (rows, dim) the table before training
    history: dict[str, list[float]]  # a value per whole epoch
    interrupted: bool

    @property
    def table(self) -> Table:
        """The table of the embedding layer."""
        return self.model.layers[0].table

    def accuracy(self) -> float:
        """Part of the held-out texts that get the right label."""
        guesses = self.model.predict(self.words, verbose=0).argmax(axis=1)
        return float((guesses == self.answers).mean())

    def majority(self) -> float:
        """Part of the held-out texts with the label that is the most frequent among them."""
        return float(np.bincount(self.answers).max() / len(self.answers))

    def leaning(self) -> tuple[list[str], NDArray[np.float32]]:
        """The label of a text that is one word, for each word, and its probability (rows,)."""
        alone = np.arange(len(self.vocabulary))[:, None]
        alone[0] = self.vocabulary["[UNK]"]  # padding is no word
        parts = self.model.predict(alone, batch_size=4096, verbose=0)
        return [self.classes[i] for i in parts.argmax(axis=1)], parts.max(axis=1)


def fit(
    texts: list[str],
    labels: list[str],
    settings: Settings,
    pretrained: Vectors | None,
    console: Console,
) -> Trained:
    """Splits, builds the vocabulary of the training part, trains.

    With pretrained vectors, their words are in the vocabulary too, after those of the texts: they
    say something of texts to come that training never saw.
    """
    keras.utils.set_random_seed(settings.seed)
    classes = sorted(set(labels))
    answers = np.searchsorted(classes, labels).astype(np.int64)
    training, held_out = split(answers, settings.validation, settings.seed)

    vocabulary = Vocabulary.from_texts(
        (texts[i] for i in training),
        order="frequency",
        min_count=settings.min_count,
        max_size=settings.max_size,
        mask_token="",
        oov_token="[UNK]",
    )
    if pretrained is not None:
        vocabulary = _with_words_of(pretrained, vocabulary, settings.max_size, console)
    words = ids_of(texts, vocabulary, settings.length)
    console.print(
        f"{len(texts)} texts, {len(classes)} labels; {len(training)} to train on, "
        f"{len(held_out)} held out; {len(vocabulary)} words",
        soft_wrap=True,
    )
    model = keras.Sequential(
        [
            _embedding(vocabulary, settings, pretrained),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(len(classes), activation="softmax"),
        ]
    )
    optimizer = keras.optimizers.get(
        {"class_name": settings.optimizer, "config": {"learning_rate": settings.learning_rate}}
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.build((None, settings.length))
    start = model.layers[0].table.to_numpy()
    interrupted = False
    history = keras.callbacks.History()
    steps = -(-len(training) // settings.batch_size)
    with Progress(
        TextColumn("epoch {task.fields[epoch]:>3}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        try:
            model.fit(
                words[training],
                answers[training],
                batch_size=settings.batch_size,
                epochs=settings.epochs,
                validation_data=(words[held_out], answers[held_out]),
                callbacks=[history, _Show(bar, console, steps)],
                verbose=0,
            )
        except KeyboardInterrupt:  # what was learned so far is a model, too
            interrupted = True
    return Trained(
        model=model,
        vocabulary=vocabulary,
        classes=classes,
        words=words[held_out],
        answers=answers[held_out],
        start=start,
        history=history.history,
        interrupted=interrupted,
    )


def ids_of(texts: list[str], vocabulary: Vocabulary, length: int) -> NDArray[np.int64]:
    """Ids (n, length) of the first words of texts, padded."""
    words = vocabulary.encode_batch(texts, length)
    # The mean over no words would be 0/0: a text without words is one unknown word.
    words[(words == vocabulary[""]).all(axis=1), 0] = vocabulary["[UNK]"]
    return words


def split(
    answers: NDArray[np.int64], part: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on and indices held out.

    Held out is `part` of every class but never all of it; one text where that would be none.
    """
    rng = np.random.default_rng(seed)
    held_out: list[int] = []
    for label in np.unique(answers):
        members = rng.permutation(np.flatnonzero(answers == label))
        held_out.extend(members[: min(round(part * len(members)), len(members) - 1)].tolist())
    if not held_out:
        held_out.append(int(rng.integers(len(answers))))
    chosen = np.zeros(len(answers), dtype=bool)
    chosen[held_out] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _with_words_of(
    pretrained: Vectors, vocabulary: Vocabulary, max_size: int, console: Console
) -> Vocabulary:
    found = sum(pretrained.row_of(word) is not None for word in vocabulary.words)
    room = max(max_size - len(vocabulary), 0)
    new = (word for word in pretrained.words if word not in vocabulary)
    larger = vocabulary.with_tokens(islice(new, room))
    console.print(
        f"{found} of {len(vocabulary.words)} words of the texts start from their vectors, and "
        f"{len(larger) - len(vocabulary)} more words came with the vectors",
        soft_wrap=True,
    )
    return larger


def _embedding(vocabulary: Vocabulary, settings: Settings, pretrained: Vectors | None) -> Embedding:
    named: Any = {"mask_zero": True, "name": "embedding"}
    if pretrained is None:
        return Embedding(len(vocabulary), settings.dim, **named)
    return Embedding.from_pretrained(
        pretrained, vocabulary, seed=settings.seed, verbose=False, **named
    )


class _Show(keras.callbacks.Callback):
    """A bar per epoch on a terminal, and a line per epoch anywhere."""

    def __init__(self, bar: Progress, console: Console, steps: int) -> None:
        super().__init__()
        self.bar, self.console = bar, console
        self.task = bar.add_task("", total=steps, epoch=1)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.bar.reset(self.task, epoch=epoch + 1)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.bar.advance(self.task)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.console.print(
            f"epoch {epoch + 1:>3}  loss {logs['loss']:.4f}  accuracy {logs['accuracy']:.3f}  "
            f"held out: loss {logs['val_loss']:.4f}  accuracy {logs['val_accuracy']:.3f}",
            soft_wrap=True,
        )
