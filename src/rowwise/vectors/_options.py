"""The options of `load`, checked."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

_DTYPES = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Options:
    """Hold the options of `rowwise.vectors.load`, validated."""

    limit: int | None = None
    words: frozenset[str] | None = None
    dtype: np.dtype[Any] = field(default=np.dtype("float32"))
    errors: str = "strict"
    finite: bool = True

    @classmethod
    def validated(
        cls,
        limit: int | None,
        words: Iterable[str] | None,
        dtype: Any,
        errors: str,
        finite: bool,
    ) -> Options:
        """Return the options of a call of `load`.

        Raises:
            ValueError: a limit below 0, another dtype, an unknown handler of decoding errors.
            TypeError: one string in place of words, a word that is not a string.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit={limit} is below 0")
        if isinstance(words, str | bytes):
            raise TypeError(f"words must be a vocabulary or a list, not one string {words[:20]!r}")
        wanted = None if words is None else frozenset(words)
        for word in wanted or ():
            if not isinstance(word, str):
                raise TypeError(f"word {word!r} is not a string")
        if np.dtype(dtype).name not in _DTYPES:
            raise ValueError(f"dtype={str(dtype)!r} is not one of {', '.join(_DTYPES)}")
        try:
            codecs.lookup_error(errors)
        except LookupError:
            raise ValueError(
                f"errors={errors!r} is not a handler of decoding errors; "
                "use 'strict', 'replace', 'ignore', 'backslashreplace' or 'surrogateescape'"
            ) from None
        return cls(limit, wanted, np.dtype(dtype), errors, finite)

    def in_float32(self) -> Options:
        """Return the same options with dtype float32."""
        return replace(self, dtype=np.dtype("float32"))

    def decode(self, word: bytes | memoryview) -> str:
        """Return a word's bytes as text.

        Raises:
            UnicodeDecodeError: they are not UTF-8, and `errors` is "strict".
        """
        return str(word, "utf-8", self.errors)
