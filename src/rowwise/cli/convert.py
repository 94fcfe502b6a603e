"""`rowwise convert`: pretrained vectors, or a table's rows, from one format into another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rowwise.cli.errors import said_plainly
from rowwise.cli.waiting import waiting
from rowwise.text._vocabulary import Vocabulary
from rowwise.vectors import FORMATS, load

_FORMATS = ", ".join(name for name in FORMATS if name != "gensim")

_EXAMPLE = f"""Write vectors in another format.

Reads and writes {_FORMATS}; gz and zip too. Reads a trained table that has a vocabulary.

Formats follow from content and ending unless given.

Example: rowwise convert glove.6B.zip/glove.6B.50d.txt glove.safetensors --limit 100000
"""


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="File or folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File or folder.")],
    source_format: Annotated[str | None, typer.Option("--from", help="IN's format.")] = None,
    target_format: Annotated[str | None, typer.Option("--to", help="OUT's format.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first rows alone.")] = None,
    words: Annotated[
        Path | None, typer.Option(help="Only the words of this vocabulary (JSON).")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float16, float32 or float64.")] = "float32",
    errors: Annotated[str, typer.Option(help="For words that are no UTF-8.")] = "strict",
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Replaced by the help text below."""
    with said_plainly("convert"), waiting("converting"):
        if target.exists() and not force:
            raise ValueError(f"{str(target)!r} is there already; --force replaces it")
        vectors = load(
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
    typer.echo(f"{target}: {len(vectors):,} words, {vectors.dim} numbers each")


convert.__doc__ = _EXAMPLE
