"""fastText's `.vec`: word2vec's text by another name."""

from __future__ import annotations

from functools import partial

from rowwise.vectors._text_layout import header_of
from rowwise.vectors.formats._format import Confidence, Format, Sample
from rowwise.vectors.formats._text import read_text, write_text


def _sniff(sample: Sample) -> Confidence:
    """Trust the suffix: two numbers in the first line are a header, whatever follows."""
    header = sample.suffix == ".vec" and header_of(sample.head.split(b"\n")[0])
    return Confidence.LIKELY if header else Confidence.NO


FORMAT = Format(
    name="fasttext",
    about=".vec: word2vec's text",
    suffixes=(".vec",),
    sniff=_sniff,
    read=partial(read_text, header=True),
    write=partial(write_text, header=True),
    is_compressed=True,
)
