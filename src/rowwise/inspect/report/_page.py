"""`write_report`: the report's page."""

from __future__ import annotations

import gzip
import json
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from rowwise.files._atomic import replacing
from rowwise.inspect._summary import counted, summary
from rowwise.inspect.report import _figures as figures
from rowwise.inspect.report._classifier import classifier_sections
from rowwise.inspect.report._neighbors import neighbors
from rowwise.inspect.report._rows import DRAWN_IN_SPACE, Rows
from rowwise.table import Table

_NAMED = 300
_FURTHEST = 20
_LISTED = 500  # words that the browser offers


def write_report(
    path: str | os.PathLike[str],
    table: Table,
    *,
    title: str = "What the rows learned",
    history: Mapping[str, Sequence[float]] | None = None,
    start: NDArray[Any] | None = None,
    row_labels: Sequence[str] | None = None,
    classifier: Mapping[str, Any] | None = None,
) -> None:
    """Write one HTML file: curves, pictures of the rows, neighbours, updates, movement.

    It opens with no network, in browsers from 2023 on (they unpack its compressed part). Rows are
    named by the table's vocabulary, if it has one.

    Args:
        path: of the file; it is replaced whole or not at all.
        table: V rows of length D.
        title: of the page.
        history: a list of values per metric, an epoch each: `history` of what Keras's `fit`
            returns. Held-out values have "val_" before the metric's name.
        start: (V, D), the rows before training; shows how far they moved.
        row_labels: V labels, of the text that is each row's word alone; colours the picture.
        classifier: what `rowwise train` writes in classifier.json; the page begins with it.

    Raises:
        ValueError: start or row_labels does not fit the table.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> table = Table(4, 3, "adam", seed=0)
        >>> table.update([1, 2], np.ones((2, 3)))
        >>> path = os.path.join(tempfile.mkdtemp(), "report.html")
        >>> write_report(path, table, title="Four rows")
        >>> "Four rows" in Path(path).read_text(encoding="utf-8")
        True
    """
    rows = Rows.of(table, start, row_labels)
    sections = [] if classifier is None else classifier_sections(classifier)
    sections += [_facts(table)] if classifier is None else ["<h2>The table</h2>", _facts(table)]
    drawn = _Pictures()
    if history:
        sections.append(drawn.section("Training", "", *figures.curves(history).values()))
    near = neighbors(rows)
    sections += [_picture(rows, drawn), _neighbors(near), _updates(rows, drawn)]
    if rows.moved is not None:
        sections.append(_movement(rows, drawn))
    # Plotly alone has 5 MB: packed, as any browser unpacks it, the page has less than a half.
    parts = f'{{"plotly":{json.dumps(get_plotlyjs())},"near":{json.dumps(near)},'
    parts += f'"pictures":[{",".join(drawn.as_json)}]}}'
    packed = b64encode(gzip.compress(parts.encode(), mtime=0)).decode()
    page = Template((files("rowwise.inspect.report") / "page.html").read_text(encoding="utf-8"))
    text = page.substitute(title=escape(title), packed=packed, body="\n".join(sections))
    with replacing(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


def _facts(table: Table) -> str:
    facts = summary(table)
    lines = {
        "rows": f"{facts['rows']:,} of {counted(facts['dim'], 'number')}",
        "rule": facts["rule"] or "none",
        "steps": f"{facts['steps']:,}",
        "untrained": counted(facts["untrained"], "row"),
        "most updates": ", ".join(str(name) or "(padding)" for name in facts["most_updated_rows"]),
        "median norm": f"{facts['norms']['p50']:.3g}",
    }
    cells = (f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in lines.items())
    return f"<table>{''.join(cells)}</table>"


def _picture(rows: Rows, drawn_on: _Pictures) -> str:
    projection, drawn = rows.projection(), rows.drawn()
    coordinates = projection(rows.vectors)
    shares = [f"{share:.1%}" for share in projection.variance_explained]
    told = f"The rows along their first principal components, which explain {', '.join(shares)} of "
    told += "the variance of the trained rows. What the picture shows near may be far in the other "
    told += "directions: neighbours below are those of the whole space."
    if len(rows.names) > DRAWN_IN_SPACE:
        told += (
            f" Drawn are {len(drawn):,} of {len(rows.names):,} rows, in space {DRAWN_IN_SPACE:,}: "
        )
        told += "those with the most updates, and an even choice of the untrained."
    if rows.row_labels is not None:
        told += " A row's label is the one that a text of this word alone is given."
    flat = coordinates if coordinates.shape[1] > 1 else np.pad(coordinates, ((0, 0), (0, 1)))
    picture, shown = figures.cloud(rows, flat[:, :2], drawn)
    pictures = [picture]
    if flat.shape[1] > 2:
        pictures.append(figures.cloud(rows, flat, rows.drawn(DRAWN_IN_SPACE))[0])
    for picture in pictures:
        picture.update_layout(height=560)
    choices = "".join(
        f"<option value='{json.dumps(visible)}'>{name}</option>" for name, visible in shown.items()
    )
    return (
        drawn_on.section("The rows", told)
        + f'<label>Coloured by <select id="colouring">{choices}</select></label>'
        + f"<div id=clouds>{drawn_on.pair(pictures)}</div>"
    )


def _neighbors(near: dict[str, Any]) -> str:
    first = escape(near["first"], quote=True)
    listed = near["names"][: near["asked"]][:_LISTED]
    words = "".join(f'<option value="{escape(name, quote=True)}">' for name in listed)
    all_asked = near["asked"] == len(near["names"])
    which = "every trained row" if all_asked else f"the {near['asked']:,} rows updated most"
    return (
        f"<h2>Nearest neighbours</h2><p>By cosine, in the whole space, of {which}.</p>"
        f'<label>Word <input id="word" list="words" value="{first}"></label>'
        f'<datalist id="words">{words}</datalist><table id="answer"></table>'
    )


def _updates(rows: Rows, drawn_on: _Pictures) -> str:
    never = np.flatnonzero(~rows.trained)
    named = ", ".join(escape(rows.names[row]) for row in never[:_NAMED])
    more = f" and {len(never) - _NAMED:,} more" if len(never) > _NAMED else ""
    told = ""
    if len(never):
        verb = "is" if len(never) == 1 else "are"
        told = f"{counted(len(never), 'row')} {verb} untrained: what they hold is their start."
    section = drawn_on.section("Updates of a row", told, figures.histogram_of_updates(rows))
    if not len(never):
        return section
    return section + f"<details><summary>Which</summary><p>{named}{more}</p></details>"


def _movement(rows: Rows, drawn_on: _Pictures) -> str:
    assert rows.moved is not None
    furthest = np.argsort(-rows.moved, kind="stable")[:_FURTHEST]
    named = ", ".join(f"{escape(rows.names[row])} {rows.moved[row]:.3g}" for row in furthest)
    told = f"Distance of each row from where it started. Furthest went: {named}."
    picture = figures.movement(rows, rows.drawn())
    return drawn_on.section("How far rows moved", told, picture)


class _Pictures:
    """The page's pictures, each as JSON; `section` and `pair` return the elements they fill."""

    def __init__(self) -> None:
        self.as_json: list[str] = []

    def section(self, title: str, told: str, *pictures: Any) -> str:
        """Return a heading, a paragraph and the elements of pictures."""
        return f"<h2>{title}</h2>{told and f'<p>{told}</p>'}{self.pair(pictures)}"

    def pair(self, pictures: Sequence[Any]) -> str:
        """Return the elements of pictures, side by side where there is room."""
        elements = ""
        for picture in pictures:
            _lay_out(picture)
            self.as_json.append(picture.to_json())
            elements += f"<div class=picture style='height:{picture.layout.height or 450}px'></div>"
        return f"<div class=pair>{elements}</div>" if elements else ""


def _lay_out(picture: Any) -> None:
    clear = "rgba(0,0,0,0)"
    picture.update_layout(
        paper_bgcolor=clear,
        plot_bgcolor=clear,
        modebar={"bgcolor": clear, "color": "gray", "activecolor": "#3b82f6"},
        margin={"l": 50, "r": 10, "t": 35, "b": 45},
        legend={"orientation": "h", "y": -0.15, "itemsizing": "constant"},
    )
    picture.update_xaxes(automargin=True)
    picture.update_yaxes(automargin=True)
    if picture.data[0].type == "scatter3d":
        axes = ("xaxis", "yaxis", "zaxis")
        picture.update_layout(scene={axis: {"showbackground": False} for axis in axes})
