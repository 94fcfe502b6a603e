"""The fields of a vocabulary as JSON that a person can read, a token a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_FORMAT = "rowwise vocabulary 1"
_FIELDS: dict[str, Any] = {
    "mask_token": str | None,
    "oov_token": str | None,
    "num_oov_indices": int,
    "lowercase": bool,
    "split": str | dict,
    "words": list,
}


def encode(fields: Mapping[str, Any]) -> bytes:
    """Return the content of a vocabulary's file."""
    split = fields["split"]
    about = {
        "format": _FORMAT,
        **{name: fields[name] for name in _FIELDS},
        "split": json.loads(split) if split.startswith("{") else split,
    }
    # Tokens may hold lone surrogates. JSON's escapes would join two of them into one.
    text = json.dumps(about, ensure_ascii=False, indent=0) + "\n"
    return text.encode(errors="surrogatepass")


def decode(content: bytes) -> dict[str, Any]:
    """Return the fields of a vocabulary's file.

    Raises:
        ValueError: the content is not a vocabulary's.
    """
    try:
        about = json.loads(content)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise ValueError(f"it does not say {_FORMAT!r}")
    for key, kind in _FIELDS.items():
        if key not in about:
            raise ValueError(f"it has no {key!r}")
        if not isinstance(about[key], kind):
            raise ValueError(f"its {key!r} is {str(about[key])[:20]!r}")
    fields = {key: about[key] for key in _FIELDS}
    if isinstance(fields["split"], dict):
        fields["split"] = json.dumps(fields["split"])
    elif fields["split"] not in ("words", "whitespace"):
        raise ValueError(f"its 'split' is {fields['split'][:20]!r}")
    return fields
