"""`rowwise convert`: write vectors in another format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rowwise.cli._errors import exit_on_error
from rowwise.cli._model_folder import TABLE
from rowwise.cli._spinner import spinner
from rowwise.inspect._summary import counted
from rowwise.text._vocabulary import Vocabulary
from rowwise.vectors import FORMATS, load

_FORMATS = ", ".join(name for name in FORMATS if name != "gensim")

_EXAMPLE = f"""Write vectors in another format.

Reads and writes {_FORMATS}; gz, bz2, xz and zip too. Reads a trained table
that has a vocabulary, and a folder that train made.

The formats are recognised from content and ending unless given.

Example: rowwise convert glove.6B.zip/glove.6B.50d.txt glove.safetensors --limit 100000
"""


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="File or folder to read.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File or folder to write.")],
    source_format: Annotated[str | None, typer.Option("--from", help="Format of IN.")] = None,
    target_format: Annotated[str | None, typer.Option("--to", help="Format of OUT.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read no more rows than this.")] = None,
    words: Annotated[
        Path | None, typer.Option(help="Vocabulary file (JSON); only its words are read.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="One of float16, float32, float64.")] = "float32",
    errors: Annotated[
        str,
        typer.Option(help="What to do with words that are not UTF-8: strict, replace or ignore."),
    ] = "strict",
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Stand in for the help text below."""
    with exit_on_error("convert"), spinner("converting"):
        if target.exists() and not force:
            raise ValueError(f"{str(target)!r} is there already; --force replaces it")
        vectors = load(
            source / TABLE if (source / TABLE).is_file() else source,
            format=source_format,
            limit=limit,
            dtype=dtype,
            words=None if words is None else Vocabulary.load(words),
            errors=errors,
        )
        vectors.save(target, target_format)
    if as_json:
        typer.echo(json.dumps({"out": str(target), "words": len(vectors), "dim": vectors.dim}))
        return
    words_told, numbers = counted(len(vectors), "word"), counted(vectors.dim, "number")
    typer.echo(f"{target}: {words_told}, {numbers} each")


convert.__doc__ = _EXAMPLE
