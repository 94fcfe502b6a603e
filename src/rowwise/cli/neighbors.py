"""`rowwise neighbors` and `rowwise analogy`: words near a word, or near a sum of words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from rowwise.cli.errors import said_plainly

_Vectors = Annotated[
    Path, typer.Argument(metavar="VECTORS", help="A folder that train made, a table, or vectors.")
]
_Count = Annotated[int, typer.Option("--count", "-k", min=1, help="How many to show.")]
_AsJson = Annotated[bool, typer.Option("--json", help="A JSON object per line.")]


def neighbors(
    vectors: _Vectors,
    words: Annotated[list[str], typer.Argument(help="Words; - reads them, one a line.")],
    count: _Count = 10,
    as_json: _AsJson = False,
) -> None:
    """Replaced by the help text below."""
    from rowwise.cli.model_folder import vectors as load

    with said_plainly("neighbors"):
        loaded = load(vectors)
        wanted = sys.stdin.read().split("\n") if words == ["-"] else words
        for word in filter(None, wanted):
            near = loaded.nearest(loaded.vector_of(word), count, without=[word])
            _show(word, near, as_json)


def analogy(
    vectors: _Vectors,
    a: Annotated[str, typer.Argument(help="A word.")],
    b: Annotated[str, typer.Argument(help="What it goes with.")],
    c: Annotated[str, typer.Argument(help="Another such word.")],
    count: _Count = 10,
    as_json: _AsJson = False,
) -> None:
    """Replaced by the help text below."""
    from rowwise.cli.model_folder import vectors as load

    with said_plainly("analogy"):
        loaded = load(vectors)
        _show(f"{a} : {b} = {c} : ?", loaded.analogy(a, b, c, count), as_json)


def _show(question: str, near: list[tuple[str, float]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"word": question, "nearest": near}))
        return
    typer.echo(question)
    for word, cosine in near:
        typer.echo(f"  {cosine:6.3f}  {word}")


neighbors.__doc__ = """Show the words whose vectors are nearest, with their cosines.

Example: rowwise neighbors demo/model thread socket -k 5
"""
analogy.__doc__ = """Show what stands to C as B stands to A: the words nearest to B - A + C.

Example: rowwise analogy glove.6B.zip/glove.6B.50d.txt man king woman
"""
