"""Split texts into tokens."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_AT_ONCE = 4096  # texts handed to a tokenizer, which splits them on all cores


def words(text: str, *, lowercase: bool = True) -> list[str]:
    """Return the words of a text: runs of letters, digits and underscores, with apostrophes inside.

    Example:
        >>> words("Don't panic, it's 42.")
        ["don't", 'panic', "it's", '42']
    """
    return next(Splitter("words", lowercase)([text]))


class Splitter:
    """Split texts into tokens.

    "words" and "whitespace" use Python's regular expressions and `str.split`, five times as fast as
    the same through a tokenizer; everything else uses the `tokenizers` library.

    Args:
        split: "words" (runs of letters, digits and underscores, with apostrophes inside),
            "whitespace", the path of a `tokenizer.json`, or a `tokenizers.Tokenizer`.
        lowercase: whether texts are lowercased first; True unless given. A tokenizer has a
            normalizer of its own for that.

    Raises:
        ImportError: a tokenizer is asked for, and the `tokenizers` library is not installed.
        FileNotFoundError: there is no such tokenizer.json.
        ValueError: a file that is none, or `lowercase=True` with a tokenizer.
    """

    def __init__(self, split: Any = "words", lowercase: bool | None = None) -> None:
        self._tokenizer: Tokenizer | None = None
        if split not in ("words", "whitespace"):
            self._tokenizer = _tokenizer(split)
            if lowercase:
                raise ValueError(
                    "lowercase=True does not go with a tokenizer; leave it out, and give the "
                    "tokenizer a Lowercase normalizer"
                )
        self.split: str = split if self._tokenizer is None else self._tokenizer.to_str()
        self.lowercase = self._tokenizer is None if lowercase is None else lowercase

    def __call__(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Yield the tokens of each text.

        Raises:
            TypeError: a text that is not a string.
        """
        checked = _checked(texts)
        if self._tokenizer is not None:
            while batch := list(islice(checked, _AT_ONCE)):
                found = self._tokenizer.encode_batch(batch, add_special_tokens=False)
                yield from (encoding.tokens for encoding in found)
            return
        split = _WORD.findall if self.split == "words" else str.split
        yield from map(split, map(str.lower, checked) if self.lowercase else checked)

    def __reduce__(self) -> Any:
        return Splitter, (self.split, self.lowercase)


def _tokenizer(split: Any) -> Tokenizer:
    """Return a tokenizer that neither pads nor cuts: a copy, or from a file or from JSON."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(
            f"split={_abbreviated(split)} needs the tokenizers library (pip install tokenizers); "
            "'words' and 'whitespace' do without"
        ) from error
    if isinstance(split, Tokenizer):
        text = split.to_str()
    elif isinstance(split, str) and split.startswith("{"):
        text = split
    elif isinstance(split, str | os.PathLike):
        if not os.path.isfile(split):
            raise FileNotFoundError(
                f"split={_abbreviated(split)} is neither 'words' nor 'whitespace', and there "
                "is no such tokenizer.json"
            )
        with open(split, encoding="utf-8") as file:
            text = file.read()
    else:
        raise TypeError(
            f"split={_abbreviated(split)} is not 'words', 'whitespace', the path of a "
            "tokenizer.json or a tokenizers.Tokenizer"
        )
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"split={_abbreviated(split)} is not a tokenizer.json: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _abbreviated(split: Any) -> str:
    return repr(split if len(str(split)) < 100 else str(split)[:100] + "...")


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {text!r} at position {position} is not a string")
        yield text
