"""`Vocabulary`: words to ids and back."""

from __future__ import annotations

import operator
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rowwise.files._atomic import replacing
from rowwise.text import _vocabulary_json
from rowwise.text._columns import cells
from rowwise.text._tokenizing import Splitter

Order = Literal["appearance", "frequency"]
End = Literal["pre", "post"]


class Vocabulary:
    """Tokens in a fixed order; a token's id is its place.

    Padding and unknown entries stand first, as in Keras's `StringLookup`: mask, unknown, words.
    A vocabulary does not change: `with_texts` and `with_tokens` give a longer one, in which every
    token has the id it had.

    Args:
        tokens: the words, each once, in the order of their ids; a list or a column (NumPy,
            pandas, polars, pyarrow).
        mask_token: entry that stands for padding, id 0; None for no such entry.
        oov_token: entry that stands for every word not in the vocabulary; None for no such entry.
        num_oov_indices: number of entries for unknown words; a word's own is chosen by its hash
            (BLAKE2b), the same in every process.
        lowercase: whether texts are lowercased before they are split; True unless given. A
            tokenizer has a normalizer of its own for that.
        split: how a text becomes tokens: "words", "whitespace", the path of a `tokenizer.json`
            or a `tokenizers.Tokenizer`.

    Raises:
        ValueError: a token occurs twice; more than one unknown entry and no `oov_token`.
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
        num_oov_indices: int = 1,
        lowercase: bool | None = None,
        split: Any = "words",
    ) -> None:
        if num_oov_indices < 1 or (num_oov_indices > 1 and oov_token is None):
            raise ValueError(
                f"num_oov_indices={num_oov_indices} "
                + ("is below 1" if num_oov_indices < 1 else "needs an oov_token, e.g. '[UNK]'")
            )
        self.mask_token, self.oov_token = mask_token, oov_token
        self.num_oov_indices = num_oov_indices
        self._splitter = Splitter(split, lowercase)
        special = [] if mask_token is None else [mask_token]
        first_oov = len(special)
        special += [] if oov_token is None else [oov_token] * num_oov_indices
        self.tokens: tuple[str, ...] = (*special, *cells(tokens, "tokens"))
        self._words_from = len(special)
        self._ids = _Ids(first_oov, 0 if oov_token is None else num_oov_indices)
        named = enumerate(special[: first_oov + 1])  # of the unknown entries, the first
        words = enumerate(islice(self.tokens, len(special), None), len(special))
        for index, token in chain(named, words):
            if not isinstance(token, str):
                raise TypeError(f"token {token!r} with id {index} is not a string")
            first = self._ids.setdefault(token, index)
            if first != index:
                raise ValueError(f"token {token!r} occurs twice, with ids {first} and {index}")

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        *,
        order: Order = "appearance",
        min_count: int = 1,
        max_size: int | None = None,
        lowercase: bool | None = None,
        split: Any = "words",
        **options: Any,
    ) -> Vocabulary:
        """Return the vocabulary of texts.

        Args:
            texts: strings; a list, an iterable or a column.
            order: by first "appearance", or by "frequency" with ties by appearance.
            min_count: words that occur less often are left out.
            max_size: entries at most, mask and unknown included; the first in `order` stay.
            lowercase, split: how texts become tokens, see `Vocabulary`.
            **options: mask_token, oov_token, num_oov_indices of `Vocabulary`.
        """
        empty = cls([], lowercase=lowercase, split=split, **options)
        found = empty._splitter(cells(texts, "texts"))
        return empty._with(
            _new_tokens(chain.from_iterable(found), empty, order, min_count, max_size)
        )

    @classmethod
    def from_tokens(
        cls,
        tokens: Iterable[str],
        *,
        order: Order = "appearance",
        min_count: int = 1,
        max_size: int | None = None,
        **options: Any,
    ) -> Vocabulary:
        """Return the vocabulary of a column with one token a cell, such as users or items.

        Arguments are those of `from_texts`; the cells are not split.

        Example:
            >>> vocabulary = Vocabulary.from_tokens(["u7", "u9", "u7"], oov_token="[UNK]")
            >>> vocabulary.lookup(["u9", "u8"])
            array([2, 0])
        """
        empty = cls([], **options)
        return empty._with(_new_tokens(cells(tokens, "tokens"), empty, order, min_count, max_size))

    # ------------------------------------------------------------------ to ids

    def lookup(self, tokens: Any) -> NDArray[np.int64]:
        """Return the ids of tokens, which are not split.

        Args:
            tokens: strings: a list, a column, or a NumPy array of any shape (...,).

        Returns:
            ids (...,) int64.

        Raises:
            KeyError: a token is unknown and there is no `oov_token`.
            TypeError: something that is not a string.
        """
        shape = tokens.shape if isinstance(tokens, np.ndarray) else (-1,)
        flat = tokens.ravel() if isinstance(tokens, np.ndarray) else tokens
        ids = np.fromiter(map(self._ids.__getitem__, cells(flat, "tokens")), np.int64)
        return ids.reshape(shape)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's words.

        Raises:
            KeyError: a word is unknown and there is no `oov_token`.
        """
        (tokens,) = self._splitter([text])
        return list(map(self._ids.__getitem__, tokens))

    def encode_ragged(self, texts: Iterable[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the ids of texts of any length, one after the other.

        Args:
            texts: n strings.

        Returns:
            ids (m,) int64, and offsets (n + 1,) int64: those of text i are
            ids[offsets[i]:offsets[i + 1]]. `EmbeddingBag` takes them with
            `include_last_offset=True`, and Arrow's `ListArray.from_arrays` does too.

        Raises:
            KeyError: see `encode`.
        """
        encoded: list[int] = []
        ends = [0]
        for tokens in self._splitter(cells(texts, "texts")):
            encoded.extend(map(self._ids.__getitem__, tokens))
            ends.append(len(encoded))
        return np.array(encoded, dtype=np.int64), np.array(ends, dtype=np.int64)

    def encode_batch(
        self,
        texts: Iterable[str],
        length: int | None = None,
        *,
        padding: End = "post",
        truncating: End = "post",
    ) -> NDArray[np.int64]:
        """Return the ids of texts, padded with the mask's id and cut to one length.

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
        for name, end in (("padding", padding), ("truncating", truncating)):
            if end not in ("pre", "post"):
                raise ValueError(f"{name}={end!r} is not 'pre' or 'post'")
        if length is not None and length < 0:
            raise ValueError(f"length={length} is below 0")
        ids, offsets = self.encode_ragged(texts)
        counts = np.diff(offsets)
        if length is None:
            length = int(counts.max(initial=0))
        kept = np.minimum(counts, length)
        if self.mask_token is None and (kept < length).any():
            short = int(np.argmax(kept < length))
            raise ValueError(
                f"text {short} has {counts[short]} words and must be padded to {length}; "
                "give the vocabulary a mask_token, e.g. mask_token=''"
            )
        first_read = offsets[:-1] + (counts - kept if truncating == "pre" else 0)
        first_written = length - kept if padding == "pre" else np.zeros_like(kept)
        # The position of each kept id within its text.
        within = np.arange(int(kept.sum())) - np.repeat(np.cumsum(kept) - kept, kept)
        batch = np.zeros((len(counts), length), dtype=np.int64)
        rows = np.repeat(np.arange(len(counts)), kept)
        batch[rows, np.repeat(first_written, kept) + within] = ids[
            np.repeat(first_read, kept) + within
        ]
        return batch

    # ------------------------------------------------------------------ to tokens

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the tokens of ids.

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

    # ------------------------------------------------------------------ growth

    def with_tokens(self, tokens: Iterable[str]) -> Vocabulary:
        """Return this vocabulary with new tokens at its end; the others keep their ids.

        `layer.grow(len(vocabulary))` then gives the new tokens rows.

        Example:
            >>> vocabulary = Vocabulary(["tea", "cup"])
            >>> list(vocabulary.with_tokens(["pot", "tea"]))
            ['tea', 'cup', 'pot']
        """
        return self._with(_new_tokens(cells(tokens, "tokens"), self, "appearance", 1, None))

    def with_texts(
        self,
        texts: Iterable[str],
        *,
        order: Order = "appearance",
        min_count: int = 1,
        max_size: int | None = None,
    ) -> Vocabulary:
        """Return this vocabulary with the new words of texts at its end.

        Arguments are those of `from_texts`; counts are of these texts alone.
        """
        found = self._splitter(cells(texts, "texts"))
        return self._with(_new_tokens(chain.from_iterable(found), self, order, min_count, max_size))

    def indexer_from(self, other: Vocabulary) -> NDArray[np.int64]:
        """Return the ids (len(self),) int64 that this vocabulary's tokens have in another, or -1.

        `Table.remap` takes them, to bring rows from the other's order into this one's.

        Example:
            >>> Vocabulary(["cup", "pot"]).indexer_from(Vocabulary(["tea", "cup"]))
            array([ 1, -1])
        """
        source_rows = np.array([other._ids.get(token, -1) for token in self.tokens], dtype=np.int64)
        mine, theirs = self._ids, other._ids
        for j in range(mine.oov):
            source_rows[mine.first_oov + j] = theirs.first_oov + j if j < theirs.oov else -1
        return source_rows

    def _with(self, words: Iterable[str]) -> Vocabulary:
        return type(self)(
            [*self.words, *words],
            mask_token=self.mask_token,
            oov_token=self.oov_token,
            num_oov_indices=self.num_oov_indices,
            lowercase=self.lowercase,
            split=self.split,
        )

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary as JSON, a token a line; the file appears whole or not at all."""
        content = self.to_json()
        with replacing(path) as temporary:
            Path(temporary).write_bytes(content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a vocabulary's file.
        """
        try:
            return cls.from_json(Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)!r} is not a vocabulary's file: {error}") from error

    def to_json(self) -> bytes:
        """Return the content of the vocabulary's file."""
        return _vocabulary_json.encode(
            {
                "mask_token": self.mask_token,
                "oov_token": self.oov_token,
                "num_oov_indices": self.num_oov_indices,
                "lowercase": self.lowercase,
                "split": self.split,
                "words": self.words,
            }
        )

    @classmethod
    def from_json(cls, content: bytes, limit: int = 1 << 24) -> Vocabulary:
        """Return the vocabulary of a file's content.

        Args:
            content: what `to_json` returned.
            limit: entries for unknown words at most: few bytes could ask for any number of them.

        Raises:
            ValueError: the content is not a vocabulary's.
        """
        fields = _vocabulary_json.decode(content)
        if fields["num_oov_indices"] > limit:
            raise ValueError(f"its 'num_oov_indices' {fields['num_oov_indices']} is above {limit}")
        try:
            return cls(fields.pop("words"), **fields)
        except TypeError as error:
            raise ValueError(str(error)) from error

    # ------------------------------------------------------------------ as a collection

    @property
    def words(self) -> tuple[str, ...]:
        """The tokens without mask and unknown entries."""
        return self.tokens[self._words_from :]

    @property
    def lowercase(self) -> bool:
        """Whether texts are lowercased before they are split."""
        return self._splitter.lowercase

    @property
    def split(self) -> str:
        """How a text becomes tokens: "words", "whitespace", or a tokenizer as JSON."""
        return self._splitter.split

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

    def _key(self) -> tuple[Any, ...]:
        how = self.num_oov_indices, self.lowercase, self.split
        return self.tokens, self.mask_token, self.oov_token, *how


class _Ids(dict[str, int]):
    """Ids by token; an unknown token has the id of an unknown entry."""

    def __init__(self, first_oov: int, oov: int) -> None:
        super().__init__()
        self.first_oov, self.oov = first_oov, oov

    def __missing__(self, token: Any) -> int:
        if not isinstance(token, str):
            raise TypeError(f"token {token!r} is not a string")
        if not self.oov:
            raise KeyError(
                f"word {token!r} is not in the vocabulary; "
                "give it an oov_token, e.g. oov_token='[UNK]'"
            )
        if self.oov == 1:
            return self.first_oov
        digest = blake2b(token.encode(errors="surrogatepass"), digest_size=8).digest()
        return self.first_oov + int.from_bytes(digest, "little") % self.oov

    def __reduce__(self) -> Any:
        return _Ids, (self.first_oov, self.oov), None, None, iter(self.items())


def _new_tokens(
    found: Iterable[str], known: Vocabulary, order: Order, min_count: int, max_size: int | None
) -> list[str]:
    """Return the tokens of `found` to add to those known."""
    if order not in ("appearance", "frequency"):
        raise ValueError(f"order={order!r} is not 'appearance' or 'frequency'")
    if max_size is not None and max_size < len(known):
        raise ValueError(f"max_size={max_size} is below the {len(known)} tokens there are already")
    counts = Counter(found)
    # A Counter keeps the order of first appearance, and so does most_common among equals.
    ordered = counts.most_common() if order == "frequency" else counts.items()
    new = [token for token, count in ordered if count >= min_count and token not in known]
    return new if max_size is None else new[: max_size - len(known)]
