"""The report's pictures, as Plotly figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import qualitative

from rowwise.inspect._summary import counted
from rowwise.inspect.report._rows import Rows

_PALETTE = qualitative.Safe  # told apart by eyes that do not tell all colours apart
_OTHER = "other labels"
_ZERO = 0.3  # where a logarithmic axis has 0


def curves(history: Mapping[str, Sequence[float]]) -> dict[str, go.Figure]:
    """Return a figure per metric: epochs 1..n against its value in training and held out."""
    figures = {}
    for metric in dict.fromkeys(name.removeprefix("val_") for name in history):
        figure = go.Figure()
        for name, label in ((metric, "training"), (f"val_{metric}", "held out")):
            if name in history:
                epochs = list(range(1, len(history[name]) + 1))
                figure.add_scatter(
                    x=epochs, y=list(history[name]), name=label, mode="lines+markers"
                )
        figure.update_layout(
            xaxis={"title": "epoch", "tickformat": "d"}, yaxis_title=metric.replace("_", " ")
        )
        figures[metric] = figure
    return figures


def cloud(
    rows: Rows, coordinates: NDArray[np.float32], drawn: NDArray[np.int64]
) -> tuple[go.Figure, dict[str, list[bool]]]:
    """Draw rows at coordinates (V, 2) or (V, 3), once for each thing that can colour them.

    Returns:
        the figure, and for each of those things which traces show it; the first is shown.
    """
    figure = go.Figure()
    traces: list[str] = []  # what each trace is coloured by
    trained = drawn[rows.trained[drawn]]
    if rows.row_labels is not None:
        groups = _by_label(rows, trained)
        for label, colour, members in groups:
            _points(
                figure, rows, coordinates, members, name=escape(label), marker={"color": colour}
            )
        traces += ["label"] * len(groups)
    scales = {"updates": np.log10(1.0 + rows.updates), "norm": rows.norms}
    if rows.moved is not None:
        scales["distance moved"] = rows.moved
    for name, values in scales.items():
        bar: dict[str, Any] = {"title": {"text": name, "side": "right"}, "thickness": 12}
        if name == "updates":
            ticks = _log_ticks(int(rows.updates.max(initial=0)))
            bar |= {
                "tickvals": np.log10(1.0 + np.array(ticks)),
                "ticktext": [f"{tick:,}" for tick in ticks],
            }
        marker = {"color": values[trained], "colorscale": "Viridis", "colorbar": bar}
        _points(figure, rows, coordinates, trained, name=name, marker=marker, showlegend=False)
        traces.append(name)
    never = drawn[~rows.trained[drawn]]
    hollow = {"color": "gray", "symbol": "circle-open", "opacity": 0.6}
    _points(figure, rows, coordinates, never, name="untrained", marker=hollow, showlegend=True)
    titles = [f"component {place + 1}" for place in range(coordinates.shape[1])]
    if len(titles) == 2:
        figure.update_layout(xaxis_title=titles[0], yaxis_title=titles[1])
    else:
        axes = zip(("xaxis", "yaxis", "zaxis"), titles, strict=True)
        scene = {axis: {"title": {"text": title, "font": {"size": 11}}} for axis, title in axes}
        # From a little farther off than by default, so that no title is cut off.
        figure.update_layout(scene=scene, scene_camera_eye={"x": 1.9, "y": 1.9, "z": 1.2})
    # The untrained rows are always visible.
    shown = {name: [*(trace == name for trace in traces), True] for name in dict.fromkeys(traces)}
    for trace, visible in zip(figure.data, next(iter(shown.values())), strict=True):
        trace.visible = visible
    return figure, shown


def histogram_of_updates(rows: Rows) -> go.Figure:
    """Return a histogram of updates per row: 0, 1, 2-3, 4-7, 8-15..."""
    most = int(rows.updates.max(initial=0))
    edges = [0, *(2**power for power in range(max(most, 1).bit_length() + 1))]
    counts, _ = np.histogram(rows.updates, edges)
    names = ["0"] + [
        str(low) if low == high - 1 else f"{low:,}-{high - 1:,}"
        for low, high in pairwise(edges[1:])
    ]
    colours = ["gray"] + [_PALETTE[0]] * (len(names) - 1)
    figure = go.Figure(go.Bar(x=names, y=counts, marker_color=colours, text=counts))
    figure.update_layout(xaxis_title="updates of a row", yaxis_title="rows", xaxis_type="category")
    return figure


def movement(rows: Rows, drawn: NDArray[np.int64]) -> go.Figure:
    """Draw the distance of each drawn row from its start against its updates."""
    assert rows.moved is not None
    figure = go.Figure()
    for name, colour, members in (
        ("trained", _PALETTE[0], drawn[rows.trained[drawn]]),
        ("untrained", "gray", drawn[~rows.trained[drawn]]),
    ):
        figure.add_scattergl(
            x=np.maximum(rows.updates[members], _ZERO),
            y=rows.moved[members],
            text=_hover(rows, members),
            hoverinfo="text",
            mode="markers",
            name=name,
            marker={"size": 5, "opacity": 0.6, "color": colour},
        )
    figure.update_layout(xaxis_title="updates", yaxis_title="distance from the start")
    ticks = _log_ticks(int(rows.updates.max(initial=0)))
    figure.update_xaxes(
        type="log", tickvals=[_ZERO, *ticks], ticktext=["0", *(f"{tick:,}" for tick in ticks)]
    )
    return figure


def _log_ticks(most: int) -> list[int]:
    """Return 1, 3, 10, 30, ... up to a number; of many decades the powers of ten alone."""
    powers = [10**power for power in range(len(str(most)))]
    ticks = powers if len(powers) > 4 else [tick for power in powers for tick in (power, 3 * power)]
    return [tick for tick in ticks if tick <= max(most, 1)]


def _points(
    figure: go.Figure,
    rows: Rows,
    coordinates: NDArray[np.float32],
    members: NDArray[np.int64],
    marker: dict[str, Any],
    **options: Any,
) -> None:
    x, y, *z = coordinates[members].T
    flat = not z
    (figure.add_scattergl if flat else figure.add_scatter3d)(
        x=x,
        y=y,
        **({} if flat else {"z": z[0]}),
        text=_hover(rows, members),
        hoverinfo="text",
        mode="markers",
        marker={"size": 6 if flat else 3, "opacity": 0.75} | marker,
        **options,
    )


def _hover(rows: Rows, members: NDArray[np.int64]) -> list[str]:
    """Return the tips of points; words are text, whatever markup they hold."""
    lines = []
    for row in members:
        line = f"<b>{escape(rows.names[row])}</b><br>{counted(int(rows.updates[row]), 'update')}"
        line += f"<br>norm {rows.norms[row]:.3g}"
        if rows.moved is not None:
            line += f"<br>moved {rows.moved[row]:.3g}"
        if rows.row_labels is not None and rows.trained[row]:
            line += f"<br>label: {escape(rows.row_labels[row])}"
        lines.append(line)
    return lines


def _by_label(rows: Rows, members: NDArray[np.int64]) -> list[tuple[str, str, NDArray[np.int64]]]:
    """Return label, colour and members; labels past the palette are one group.

    The table's frequent labels come first, so that each has one colour in every picture.
    """
    labels = np.array(rows.row_labels, dtype=str)
    names, counts = np.unique(labels[rows.trained], return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")]
    own = frequent if len(frequent) <= len(_PALETTE) else frequent[: len(_PALETTE) - 1]
    groups = [(str(name), members[labels[members] == name]) for name in own]
    if len(own) < len(frequent):
        groups.append((_OTHER, members[~np.isin(labels[members], own)]))
    return [(name, colour, part) for (name, part), colour in zip(groups, _PALETTE, strict=False)]
