"""`rowwise convert`: write vectors in another format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rowwise.cli import _options as options
from rowwise.cli._errors import exit_on_error
from rowwise.cli._model_folder import load_vectors
from rowwise.cli._spinner import spinner
from rowwise.inspect._summary import counted
from rowwise.text._vocabulary import Vocabulary
from rowwise.vectors import FORMATS

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
    source_format: options.SourceFormat = None,
    target_format: Annotated[str | None, typer.Option("--to", help="Format of OUT.")] = None,
    limit: options.Limit = None,
    words: Annotated[
        Path | None, typer.Option(help="Vocabulary file (JSON); only its words are read.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="One of float16, float32, float64.")] = "float32",
    errors: options.Errors = "strict",
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Stand in for the help text below."""
    with exit_on_error("convert"), spinner("converting"):
        if target.exists() and not force:
            raise ValueError(f"{str(target)!r} is there already; --force replaces it")
        vectors = load_vectors(
            source,
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
