"""A vocabulary as JSON that a person can read, a token a line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rowwise.files.atomic import replacing
from rowwise.vocabulary import Vocabulary

_FORMAT = "rowwise vocabulary 1"
_FIELDS: dict[str, Any] = {
    "mask_token": str | None,
    "oov_token": str | None,
    "num_oov_indices": int,
    "lowercase": bool,
    "split": str | dict,
    "words": list,
}


def to_json(vocabulary: Vocabulary) -> bytes:
    """The file's content."""
    split: Any = vocabulary.split
    about = {
        "format": _FORMAT,
        "mask_token": vocabulary.mask_token,
        "oov_token": vocabulary.oov_token,
        "num_oov_indices": vocabulary.num_oov_indices,
        "lowercase": vocabulary.lowercase,
        "split": json.loads(split) if split.startswith("{") else split,
        "words": vocabulary.words,
    }
    # Tokens may hold lone surrogates. JSON's escapes would join two of them into one.
    text = json.dumps(about, ensure_ascii=False, indent=0) + "\n"
    return text.encode(errors="surrogatepass")


def from_json(content: bytes) -> Vocabulary:
    """The vocabulary of a file's content.

    Raises:
        ValueError: it is not a vocabulary's.
    """
    try:
        about = json.loads(content)
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            raise ValueError(f"it does not say {_FORMAT!r}")
        for key, kind in _FIELDS.items():
            if key not in about:
                raise ValueError(f"it has no {key!r}")
            if not isinstance(about[key], kind):
                raise ValueError(f"its {key!r} is {str(about[key])[:20]!r}")
        options = {key: about[key] for key in _FIELDS if key != "words"}
        if isinstance(options["split"], dict):
            options["split"] = json.dumps(options["split"])
        elif options["split"] not in ("words", "whitespace"):
            raise ValueError(f"its 'split' is {options['split'][:20]!r}")
        return Vocabulary(about["words"], **options)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def save_vocabulary(vocabulary: Vocabulary, path: str | os.PathLike[str]) -> None:
    """Writes a vocabulary, whole or not at all; see `Vocabulary.save`."""
    content = to_json(vocabulary)
    with replacing(path) as temporary:
        Path(temporary).write_bytes(content)


def load_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Reads a vocabulary; see `Vocabulary.load`."""
    try:
        return from_json(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r} is not a vocabulary's file: {error}") from error
