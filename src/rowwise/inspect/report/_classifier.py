"""The report on a text classifier: how good it is, its mistakes, the words that decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rowwise.inspect._summary import counted

_MOST_LABELS = 30  # whose confusion table can be read


def classifier_sections(outcome: Mapping[str, Any]) -> list[str]:
    """Return the report's sections on a classifier.

    Args:
        outcome: what `rowwise train` writes in classifier.json: texts, labels, held_out and test
            (texts, accuracy, majority, confusion), mistakes (text, labels, given, probability, and
            words with their shares), telling_words (per label, words with their shares).

    Raises:
        ValueError: it is something else.
    """
    try:
        return [
            _facts(outcome),
            _confusion(outcome["labels"], outcome["held_out"].get("confusion")),
            _mistakes(outcome.get("mistakes", [])),
            _words(outcome.get("telling_words", {})),
        ]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "a classifier's outcome is not what rowwise train writes in classifier.json "
            f"({type(error).__name__}: {error}); remove the file to report on its words alone"
        ) from error


def _facts(outcome: Mapping[str, Any]) -> str:
    kept = f"epoch {outcome['best_epoch']} of {outcome['epochs']}, by the held-out loss"
    if outcome.get("refitted"):
        kept += "; then trained again, on the held-out texts too"
    lines = {
        "texts": f"{outcome['texts']:,}",
        "labels": f"{len(outcome['labels']):,}",
        "kept": kept,
    }
    for name, found in (("held out", outcome["held_out"]), ("test", outcome.get("test"))):
        if found and found["texts"]:
            lines[name] = f"{counted(found['texts'], 'text')}: accuracy {found['accuracy']:.3f}"
            if found.get("majority") is not None:
                lines[name] += f"; always the most frequent label: {found['majority']:.3f}"
    cells = (f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in lines.items())
    return f"<table>{''.join(cells)}</table>"


def _confusion(labels: Sequence[str], counts: Sequence[Sequence[int]] | None) -> str:
    if not counts or len(labels) > _MOST_LABELS:
        return ""
    head = "".join(f"<th title='{escape(x, quote=True)}'>{i}</th>" for i, x in enumerate(labels, 1))
    rows = []
    for number, (label, row) in enumerate(zip(labels, counts, strict=True), 1):
        total = sum(row) or 1
        cells = "".join(
            f'<td class="share" style="--share:{count / total:.3f}">{count:,}</td>' for count in row
        )
        rows.append(f"<tr><th>{number} {escape(label)}</th>{cells}</tr>")
    return (
        "<h2>Held-out texts by label</h2><p>A row has the texts of one label, a column those that "
        f'were given one.</p><div class="wide"><table class="confusion"><tr><th></th>{head}</tr>'
        f"{''.join(rows)}</table></div>"
    )


def _mistakes(mistakes: Sequence[Mapping[str, Any]]) -> str:
    if not mistakes:
        return ""
    items = []
    for mistake in mistakes:
        right = ", ".join(mistake["labels"]) or "no label"
        items.append(
            f"<li><b>{escape(mistake['given'])}</b> {mistake['probability']:.3f}, and it is "
            f"<b>{escape(right)}</b><br>{_marked(mistake['words'])}</li>"
        )
    return (
        "<h2>The most confident mistakes</h2><p>Held-out texts. A word's colour is its share of "
        "the score: <mark class=for>for the label that was given</mark>, <mark class=against>for "
        f"the right one</mark>.</p><ol class=mistakes>{''.join(items)}</ol>"
    )


def _marked(words: Sequence[tuple[str, float]]) -> str:
    largest = max((abs(share) for _, share in words), default=0) or 1
    return " ".join(
        f'<mark class="{"for" if share > 0 else "against"}" '
        f'style="--share:{abs(share) / largest:.2f}" title="{share:+.2f}">{escape(word)}</mark>'
        for word, share in words
    )


def _words(telling: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    if not telling:
        return ""
    rows = "".join(
        f"<tr><th>{escape(label)}</th><td>"
        + ", ".join(f'<span title="{share:+.2f}">{escape(word)}</span>' for word, share in words)
        + "</td></tr>"
        for label, words in telling.items()
    )
    return (
        "<h2>Words that decide</h2><p>The model is linear: these words add most to a label's "
        f"score, against the mean of all labels.</p><table>{rows}</table>"
    )
