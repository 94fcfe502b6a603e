"""The pictures of docs/how-it-works.md, from the program that stands there.

python examples/how_it_works.py FOLDER
"""

import os
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")
matplotlib.use("agg")
import matplotlib.pyplot as plt

PAGE = Path(__file__).parent.parent / "docs" / "how-it-works.md"
PLEASED, NOT, BOTH = "#1f77b4", "#d1495b", "#777777"


def program():
    """Return the names that the page's snippets leave behind."""
    names = {}
    for snippet in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        exec(snippet, names)
    return names


def draw_one_hot(one_hot, table, path):
    """One-hot (n, V) @ table (V, D) = rows (n, D), as three matrices."""
    figure, axes = plt.subplots(1, 3, figsize=(8, 3), width_ratios=[5, 2, 2])
    parts = ((one_hot, "one-hot ids"), (table, "@ table"), (one_hot @ table, "= vectors"))
    for axis, (matrix, title) in zip(axes, parts, strict=True):
        if matrix is one_hot:
            axis.imshow(matrix, cmap="Blues")
        else:
            axis.imshow(matrix, cmap="RdBu", vmin=-0.06, vmax=0.06)
        for (row, column), value in np.ndenumerate(matrix):
            text = f"{value:.0f}" if matrix is one_hot else f"{value:.3f}"
            dark = abs(value) > (0.5 if matrix is one_hot else 0.04)
            color = "white" if dark else "black"
            axis.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([] if matrix is one_hot else range(len(matrix)))
    axes[2].set_yticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def apart(ends, least=0.19):
    """Return a height for each word's label: its row's, or where it is readable beside others."""
    runs = []  # of words whose labels touch
    for word in sorted(ends, key=lambda word: ends[word][1]):
        height = ends[word][1]
        if runs and height - ends[runs[-1][-1]][1] < least:
            runs[-1].append(word)
        else:
            runs.append([word])
    heights = {}
    for run in runs:
        middle = np.mean([ends[word][1] for word in run])
        places = middle + least * (np.arange(len(run)) - (len(run) - 1) / 2)
        heights |= dict(zip(run, places, strict=True))
    return heights


def draw_rows(names, path):
    """Each row before and after training, and the loss meanwhile."""
    vocabulary, before, after = names["vocabulary"], names["before"], names["after"]
    words = {0: set(), 1: set()}
    for text, answer in names["reviews"]:
        words[answer] |= set(text.split())
    untrained = set(names["untrained"].split())

    figure, (axis, curve) = plt.subplots(1, 2, figsize=(9.5, 5), width_ratios=[3, 1.2])
    ends = dict(zip(vocabulary, after, strict=True))
    del ends[""]  # padding
    for word, height in apart(ends).items():
        pleased, not_pleased = word in words[1], word in words[0]
        color = BOTH if pleased == not_pleased else PLEASED if pleased else NOT
        start, end = before[vocabulary[word]], ends[word]
        style = "normal"
        if word in untrained:
            style = "italic"
            axis.plot(*start, "o", color=color, markersize=4, fillstyle="none")
        else:
            arrow = {"arrowstyle": "->", "color": color, "alpha": 0.6}
            axis.annotate("", end, start, arrowprops=arrow)
        line = {"arrowstyle": "-", "color": color, "alpha": 0.3, "lw": 0.6}
        axis.annotate(word, end, xytext=(end[0] + 0.35, height), color=color, fontsize=9,
                      style=style, va="center", arrowprops=line)  # fmt: skip
        axis.plot(*end, "o", color=color, markersize=3 if word not in untrained else 0)
    reach = np.abs(after).max() * 1.15
    axis.set_xlim(-reach, reach * 1.35)
    axis.set_ylim(-reach, reach)
    axis.set_title("rows, from where they started to where training left them", fontsize=10)
    for color, label in ((PLEASED, "in pleased reviews"), (NOT, "in the others"),
                         (BOTH, "in both, or (italic) in none")):  # fmt: skip
        axis.plot([], [], "o", color=color, label=label)
    axis.legend(fontsize=8)
    curve.plot(range(1, len(names["losses"]) + 1), names["losses"], color="black")
    curve.set_title("loss", fontsize=10)
    curve.set_xlabel("epoch")
    for panel in (axis, curve):
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main(folder):
    """Draws both."""
    names = program()
    draw_one_hot(names["one_hot"], names["table"], folder / "how-it-works-one-hot.png")
    draw_rows(names, folder / "how-it-works-rows.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
