"""Words to ids and back."""

from __future__ import annotations

import json
import operator
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_FORMAT = "rowwise vocabulary 1"
_FIELDS: dict[str, Any] = {
    "words": list,
    "mask_token": str | None,
    "oov_token": str | None,
    "lowercase": bool,
}


def words(text: str, *, lowercase: bool = True) -> list[str]:
    """The words of a text: runs of letters, digits and underscores, apostrophes inside kept.

    Example:
        >>> words("Don't panic, it's 42.")
        ["don't", 'panic', "it's", '42']
    """
    if not isinstance(text, str):
        raise TypeError(f"text {text!r} is not a string")
    return _WORD.findall(text.lower() if lowercase else text)


class Vocabulary:
    """Tokens in a fixed order; a token's id is its place.

    Padding and unknown entries stand first, as in Keras's `StringLookup`: mask, unknown, words.

    Args:
        tokens: the words, each once, in the order of their ids.
        mask_token: entry that stands for padding, id 0; None for no such entry.
        oov_token: entry that stands for every word not in the vocabulary; None for no such entry.
        lowercase: whether texts are lowercased before they are split.

    Raises:
        ValueError: a token occurs twice.
        TypeError: a token that is not a string, or one string instead of a list.

    Example:
        >>> vocabulary = Vocabulary.from_texts(["Hope to see you soon", "Nice to see you again"])
        >>> vocabulary.encode("Nice to see you again")
        [5, 1, 2, 3, 6]
    """

    def __init__(
        self,
        tokens: Iterable[str],
        *,
        mask_token: str | None = None,
        oov_token: str | None = None,
        lowercase: bool = True,
    ) -> None:
        _refuse_text(tokens, "tokens")
        special = [token for token in (mask_token, oov_token) if token is not None]
        self.tokens = (*special, *tokens)
        self.mask_token, self.oov_token, self.lowercase = mask_token, oov_token, lowercase
        self._ids: dict[str, int] = {}
        for index, token in enumerate(self.tokens):
            if not isinstance(token, str):
                raise TypeError(f"token {token!r} with id {index} is not a string")
            if token in self._ids:
                raise ValueError(
                    f"token {token!r} occurs twice, with ids {self._ids[token]} and {index}"
                )
            self._ids[token] = index

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        *,
        order: Literal["appearance", "frequency"] = "appearance",
        min_count: int = 1,
        max_size: int | None = None,
        mask_token: str | None = None,
        oov_token: str | None = None,
        lowercase: bool = True,
    ) -> Vocabulary:
        """The vocabulary of some texts.

        Args:
            texts: strings, split by `words`.
            order: by first "appearance", or by "frequency" with ties by appearance.
            min_count: words that occur less often are left out.
            max_size: entries at most, mask and unknown included; the first in `order` stay.
            mask_token, oov_token, lowercase: see `Vocabulary`.
        """
        _refuse_text(texts, "texts")
        if order not in ("appearance", "frequency"):
            raise ValueError(f"order={order!r} is not 'appearance' or 'frequency'")
        special = {mask_token, oov_token} - {None}
        if max_size is not None and max_size < len(special):
            raise ValueError(f"max_size={max_size} is below the {len(special)} special tokens")
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(words(text, lowercase=lowercase))
        # A Counter keeps the order of first appearance, and so does most_common among equals.
        found = counts.most_common() if order == "frequency" else list(counts.items())
        kept = [word for word, count in found if count >= min_count and word not in special]
        if max_size is not None:
            kept = kept[: max_size - len(special)]
        return cls(kept, mask_token=mask_token, oov_token=oov_token, lowercase=lowercase)

    def encode(self, text: str) -> list[int]:
        """The ids of a text's words.

        Raises:
            KeyError: a word is unknown and there is no `oov_token`.
        """
        split = words(text, lowercase=self.lowercase)
        unknown = self._ids[self.oov_token] if self.oov_token is not None else None
        ids = [self._ids.get(word, unknown) for word in split]
        if unknown is None and None in ids:
            raise KeyError(
                f"word {split[ids.index(None)]!r} is not in the vocabulary; "
                "give it an oov_token, e.g. oov_token='[UNK]'"
            )
        return ids  # type: ignore[return-value]

    def encode_batch(
        self,
        texts: Iterable[str],
        length: int | None = None,
        *,
        padding: Literal["pre", "post"] = "post",
        truncating: Literal["pre", "post"] = "post",
    ) -> NDArray[np.int64]:
        """The ids of texts, padded with the mask's id and cut to one length.

        Args:
            texts: n strings.
            length: ids per text; the longest text's number unless given.
            padding, truncating: at which end.

        Returns:
            ids (n, length) int64.

        Raises:
            ValueError: a text has to be padded and there is no `mask_token`; a length below 0.
            KeyError: see `encode`.
        """
        _refuse_text(texts, "texts")
        for name, end in (("padding", padding), ("truncating", truncating)):
            if end not in ("pre", "post"):
                raise ValueError(f"{name}={end!r} is not 'pre' or 'post'")
        if length is not None and length < 0:
            raise ValueError(f"length={length} is below 0")
        encoded = [self.encode(text) for text in texts]
        if length is None:
            length = max(map(len, encoded), default=0)
        batch = np.zeros((len(encoded), length), dtype=np.int64)
        for row, (ids, to) in enumerate(zip(encoded, batch, strict=True)):
            cut = ids[:length] if truncating == "post" else ids[max(0, len(ids) - length) :]
            if len(cut) < length and self.mask_token is None:
                raise ValueError(
                    f"text {row} has {len(cut)} words and must be padded to {length}; "
                    "give the vocabulary a mask_token, e.g. mask_token=''"
                )
            if padding == "post":
                to[: len(cut)] = cut
            else:
                to[length - len(cut) :] = cut
        return batch

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The tokens of ids.

        Raises:
            IndexError: an id below 0 or not below the vocabulary's size.
            TypeError: an id that is not an integer.
        """
        tokens = []
        for i in map(operator.index, ids):
            if not 0 <= i < len(self.tokens):
                raise IndexError(
                    f"id {i} is outside the vocabulary's {len(self)} tokens (0..{len(self) - 1})"
                )
            tokens.append(self.tokens[i])
        return tokens

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the vocabulary as JSON, a token a line; the file appears whole or not at all."""
        from rowwise.files.atomic import replacing

        special = [token for token in (self.mask_token, self.oov_token) if token is not None]
        about = {
            "format": _FORMAT,
            "mask_token": self.mask_token,
            "oov_token": self.oov_token,
            "lowercase": self.lowercase,
            "words": self.tokens[len(special) :],
        }
        text = json.dumps(about, ensure_ascii=False, indent=0) + "\n"
        with replacing(path) as temporary:
            # Tokens may hold lone surrogates. JSON's escapes would join two of them into one.
            Path(temporary).write_bytes(text.encode(errors="surrogatepass"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a vocabulary's file.
        """
        try:
            about = json.loads(Path(path).read_bytes())
            if not isinstance(about, dict) or about.get("format") != _FORMAT:
                raise ValueError(f"it does not say {_FORMAT!r}")
            for key, kind in _FIELDS.items():
                if key not in about:
                    raise ValueError(f"it has no {key!r}")
                if not isinstance(about[key], kind):
                    raise ValueError(f"its {key!r} is {str(about[key])[:20]!r}")
            return cls(
                about["words"],
                mask_token=about["mask_token"],
                oov_token=about["oov_token"],
                lowercase=about["lowercase"],
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{os.fspath(path)!r} is not a vocabulary's file: {error}") from error

    def __getitem__(self, token: str) -> int:
        if token not in self._ids:
            raise KeyError(f"token {token!r} is not in the vocabulary of {len(self)}")
        return self._ids[token]

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.tokens[:5])) + (", ..." if len(self) > 5 else "")
        return f"Vocabulary([{shown}], size={len(self)})"

    def _key(self) -> tuple[Sequence[str], str | None, str | None, bool]:
        return self.tokens, self.mask_token, self.oov_token, self.lowercase


def _refuse_text(texts: Any, name: str) -> None:
    if isinstance(texts, str | bytes):
        raise TypeError(f"{name} must be a list of strings, not one string such as {texts[:20]!r}")
