"""How good a classifier is, and which words decide, for people and programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from rowwise.cli._labelled import Labelled
from rowwise.inspect import nearest
from rowwise.inspect._summary import counted
from rowwise.text import Vocabulary

if TYPE_CHECKING:
    from rowwise.sklearn import FastTextClassifier, TextClassifier

_WORDS_SHOWN = 8
_NEIGHBORS_SHOWN = 5
_LABELS_SHOWN = 12
_WORDS_OF_A_MISTAKE = 60


def score(model: TextClassifier | FastTextClassifier, data: Labelled, k: int = 1) -> dict[str, Any]:
    """Return how good predictions of texts are.

    Returns:
        texts; accuracy, the part of texts whose labels are all right; majority, the accuracy of
        always the most frequent label; precision_at_k and recall_at_k, of the k most probable
        labels; labels, each with precision, recall, f1 and support; confusion (K, K): how many
        texts of the row's label are given the column's, for texts with one label. Labels that the
        model does not have count as missed.
    """
    classes = [str(label) for label in model.classes_]
    column = {label: i for i, label in enumerate(classes)}
    probabilities = model.predict_proba(data.texts)
    wanted = np.zeros((len(data.texts), len(classes)), bool)
    for row, labels in enumerate(data.labels):
        wanted[row, [column[label] for label in labels if label in column]] = True
    counts = np.array([len(labels) for labels in data.labels])
    best = model._ranking(probabilities)[:, :k]
    given = np.zeros_like(wanted)
    if model.multilabel_:
        given = probabilities > 0.5
    else:
        given[np.arange(len(given)), best[:, 0]] = True
    hits = np.take_along_axis(wanted, best, axis=1).sum()
    right = (given == wanted).all(axis=1) & (wanted.sum(axis=1) == counts)
    frequent = 0 if model.multilabel_ else wanted.sum(axis=0).max(initial=0)
    both, support = (given & wanted).sum(axis=0), wanted.sum(axis=0)
    precision = _ratio(both, given.sum(axis=0))
    recall = _ratio(both, support)
    f1 = _ratio(2 * both, given.sum(axis=0) + support)
    texts = len(data.texts)
    return {
        "texts": texts,
        "accuracy": float(right.sum() / texts) if texts else None,
        "majority": None if model.multilabel_ or not texts else float(frequent / texts),
        "k": k,
        "precision_at_k": float(hits / best.size) if best.size else None,
        "recall_at_k": float(hits / counts.sum()) if counts.sum() else None,
        "unknown_labels": sorted({x for labels in data.labels for x in labels} - set(classes)),
        "labels": [
            {"label": label, "precision": p, "recall": r, "f1": f, "support": int(s)}
            for label, p, r, f, s in zip(classes, precision, recall, f1, support, strict=True)
        ],
        "confusion": None
        if model.multilabel_
        else (wanted.astype(np.int64).T @ given.astype(np.int64)).tolist(),
    }


def mistakes(model: TextClassifier, data: Labelled, count: int = 20) -> list[dict[str, Any]]:
    """Return the texts whose wrong label the model is most sure of.

    Returns:
        for each text, labels, the label given, its probability, and words: those of the text with
        their shares of the given label's score less the right one's.
    """
    if model.multilabel_ or not data.texts:
        return []
    classes = [str(label) for label in model.classes_]
    probabilities = model.predict_proba(data.texts)
    given = probabilities.argmax(axis=1)
    wrong = np.flatnonzero([classes[g] not in x for g, x in zip(given, data.labels, strict=True)])
    chosen = wrong[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")[:count]]
    found = []
    for row in chosen.tolist():
        right = [classes.index(label) for label in data.labels[row] if label in classes]
        words = [
            [word, float(share[given[row]] - (share[right[0]] if right else share.mean()))]
            for word, share in model.explain(data.texts[row])[:_WORDS_OF_A_MISTAKE]
        ]
        found.append(
            {
                "text": data.texts[row],
                "labels": data.labels[row],
                "given": classes[given[row]],
                "probability": float(probabilities[row, given[row]]),
                "words": words,
            }
        )
    return found


def telling_words(model: TextClassifier, count: int) -> dict[str, list[list[Any]]]:
    """Return the words whose rows add most to each label's score, with their shares.

    Of one label's score counts what is above the mean of all labels'. Words in few texts are left
    out.
    """
    words = len(model._features.words)
    seen = model._features.counts[:words]
    often = seen >= min(3, seen.max(initial=0))
    shares = model.table_[np.arange(words)] @ model._model.head.to_numpy()[:-1]
    if not model.multilabel_:
        shares = shares - shares.mean(axis=1, keepdims=True)
    shares[~often] = 0
    found = {}
    for label, of_label in zip(model.classes_, shares.T, strict=True):
        top = np.argsort(-of_label, kind="stable")[:count]
        found[str(label)] = [
            [model._features.words[i], float(of_label[i])] for i in top if of_label[i] > 0
        ]
    return found


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> list[float]:
    ratio = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return [float(value) for value in ratio]


def print_outcome(
    model: TextClassifier, summary: dict[str, Any], words: list[str], console: Console
) -> None:
    """Print accuracies, the words that decide, and neighbours of `words`."""
    console.print(
        f"\nKept: epoch {summary['best_epoch']} of {summary['epochs']}, with the lowest held-out "
        f"loss; {model._reading}",
        soft_wrap=True,
    )
    for name, found in (("Held-out", summary["held_out"]), ("Test", summary["test"])):
        if found is not None and found["texts"]:
            console.print(_accuracy(name, found), soft_wrap=True)
        if name == "Held-out" and summary["refitted"]:
            console.print(
                f"Trained again for {counted(summary['best_epoch'], 'epoch')}, on the held-out "
                "texts too",
                soft_wrap=True,
            )
    _print_words(summary["telling_words"], console)
    vocabulary = Vocabulary(model._features.words)
    if words:
        vectors = model.table_[np.arange(len(vocabulary))]
        found = [word if word in vocabulary else word.lower() for word in words]
        print_neighbors(vocabulary, vectors, found, [], console)


def _accuracy(name: str, found: dict[str, Any]) -> str:
    told = f"{name} accuracy {found['accuracy']:.3f}"
    if found["majority"] is not None:
        told += f"; always the most frequent label: {found['majority']:.3f}"
    return f"{told} ({counted(found['texts'], 'text')})"


def _print_words(telling: dict[str, list[list[Any]]], console: Console) -> None:
    grid = Grid("label", "words that speak for it", box=None, pad_edge=False)
    for label, words in list(telling.items())[:_LABELS_SHOWN]:
        grid.add_row(escape(label), escape(", ".join(word for word, _ in words[:_WORDS_SHOWN])))
    console.print()
    console.print(grid)


def print_neighbors(
    vocabulary: Vocabulary,
    vectors: NDArray[np.float32],
    words: list[str],
    otherwise: Iterable[int],
    console: Console,
) -> None:
    """Print the words nearest to `words`; if there are none, to the rows `otherwise`."""
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


def print_score(found: dict[str, Any], console: Console) -> None:
    """Print what `score` returned."""
    console.print(_accuracy("", found).strip().capitalize(), soft_wrap=True)
    k = found["k"]
    console.print(
        f"Precision at {k} {found['precision_at_k']:.3f}, recall at {k} {found['recall_at_k']:.3f}",
        soft_wrap=True,
    )
    if found["unknown_labels"]:
        console.print(
            f"Labels that the model does not have: {', '.join(found['unknown_labels'])}",
            soft_wrap=True,
            markup=False,
        )
    grid = Grid("label", "precision", "recall", "f1", "texts", box=None, pad_edge=False)
    for label in found["labels"]:
        figures = (f"{label[name]:.3f}" for name in ("precision", "recall", "f1"))
        grid.add_row(escape(label["label"]), *figures, f"{label['support']:,}")
    console.print(grid)
    if found["confusion"] is not None and len(found["labels"]) <= _LABELS_SHOWN:
        console.print()
        console.print(_confusion(found))


def _confusion(found: dict[str, Any]) -> Grid:
    """Return a table: of the texts of each label (rows), how many are given which (columns)."""
    numbers = [str(i) for i in range(1, len(found["labels"]) + 1)]
    grid = Grid("texts of, given", *numbers, box=None, pad_edge=False)
    for number, label, row in zip(numbers, found["labels"], found["confusion"], strict=True):
        grid.add_row(f"{number} {escape(label['label'])}", *(f"{count:,}" for count in row))
    return grid
