"""`rowwise neighbors` and `rowwise analogy`: print the words nearest to a vector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rowwise.cli import _options as options
from rowwise.cli._errors import exit_on_error
from rowwise.cli._json import to_json
from rowwise.cli._read import UsageError, read_lines
from rowwise.vectors import Vectors

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
    source_format: options.SourceFormat = None,
    limit: options.Limit = None,
    errors: options.Errors = "strict",
    encoding: options.Encoding = None,
    as_json: _AsJson = False,
) -> None:
    """Stand in for the help text below."""
    from rowwise.cli._model_folder import load_vectors

    with exit_on_error("neighbors"):
        loaded = load_vectors(vectors, format=source_format, limit=limit, errors=errors)
        wanted = list(read_lines(Path("-"), encoding)) if words == ["-"] else words
        unknown = []
        for word in filter(None, wanted):
            try:
                found = _find(loaded, word)
            except UsageError as error:  # the others have an answer all the same
                unknown.append(str(error))
                continue
            near = loaded.nearest(loaded.vector_of(found), count, without=[found])
            _show(found, near, as_json)
        if unknown:
            raise UsageError("; ".join(unknown))


def analogy(
    vectors: _Vectors,
    a: Annotated[str, typer.Argument(help="First word of the known pair.")],
    b: Annotated[str, typer.Argument(help="Second word of the known pair.")],
    c: Annotated[str, typer.Argument(help="First word of the pair to complete.")],
    count: _Count = 10,
    source_format: options.SourceFormat = None,
    limit: options.Limit = None,
    errors: options.Errors = "strict",
    as_json: _AsJson = False,
) -> None:
    """Stand in for the help text below."""
    from rowwise.cli._model_folder import load_vectors

    with exit_on_error("analogy"):
        loaded = load_vectors(vectors, format=source_format, limit=limit, errors=errors)
        a, b, c = (_find(loaded, word) for word in (a, b, c))
        _show(f"{a} : {b} = {c} : ?", loaded.analogy(a, b, c, count), as_json)


def _find(vectors: Vectors, word: str) -> str:
    """Return a word as the vectors have it: as it is, or in lower case.

    Raises:
        UsageError: they have neither.
    """
    for form in (word, word.lower()):
        if vectors.row_of(form) is not None:
            return form
    try:
        vectors.vector_of(word)  # made of its n-grams, if the vectors have those
    except KeyError:
        raise UsageError(f"word {word!r} has no vector, as it is or in lower case") from None
    return word


def _show(question: str, near: list[tuple[str, float]], as_json: bool) -> None:
    if as_json:
        typer.echo(to_json({"word": question, "nearest": near}))
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
