"""`rowwise neighbors` and `rowwise analogy`: print the words nearest to a vector."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from rowwise.cli._errors import exit_on_error

_Vectors = Annotated[
    Path,
    typer.Argument(
        metavar="VECTORS", help="Folder that train made, table file, or file of vectors."
    ),
]
_Count = Annotated[int, typer.Option("--count", "-k", min=1, help="Number of words to print.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


def neighbors(
    vectors: _Vectors,
    words: Annotated[list[str], typer.Argument(help="Words; - reads standard input, one a line.")],
    count: _Count = 10,
    as_json: _AsJson = False,
) -> None:
    """Replaced by the help text below."""
    from rowwise.cli._model_folder import vectors as load

    with exit_on_error("neighbors"):
        loaded = load(vectors)
        wanted = sys.stdin.read().split("\n") if words == ["-"] else words
        for word in filter(None, wanted):
            near = loaded.nearest(loaded.vector_of(word), count, without=[word])
            _show(word, near, as_json)


def analogy(
    vectors: _Vectors,
    a: Annotated[str, typer.Argument(help="First word of the known pair.")],
    b: Annotated[str, typer.Argument(help="Second word of the known pair.")],
    c: Annotated[str, typer.Argument(help="First word of the pair to complete.")],
    count: _Count = 10,
    as_json: _AsJson = False,
) -> None:
    """Replaced by the help text below."""
    from rowwise.cli._model_folder import vectors as load

    with exit_on_error("analogy"):
        loaded = load(vectors)
        _show(f"{a} : {b} = {c} : ?", loaded.analogy(a, b, c, count), as_json)


def _show(question: str, near: list[tuple[str, float]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"word": question, "nearest": near}))
        return
    typer.echo(question)
    for word, cosine in near:
        typer.echo(f"  {cosine:6.3f}  {word}")


neighbors.__doc__ = """Print the words whose vectors are nearest, with their cosines.

Example: rowwise neighbors demo/model thread socket -k 5
"""
analogy.__doc__ = """Print the words that are to C as B is to A: those nearest to B - A + C.

Example: rowwise analogy glove.6B.zip/glove.6B.50d.txt man king woman
"""
