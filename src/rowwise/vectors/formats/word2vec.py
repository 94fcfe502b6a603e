"""word2vec's text: a header line, then a word and its numbers a line."""

from __future__ import annotations

from functools import partial

from rowwise.vectors.formats._format import Confidence, Format, Sample
from rowwise.vectors.formats._text import read_text, write_text


def _sniff(sample: Sample) -> Confidence:
    # The last question: with one number a row, it counts the lines of the whole file.
    return Confidence.LIKELY if sample.head and sample.has_header else Confidence.NO


FORMAT = Format(
    name="word2vec",
    about="text, with a header line",
    suffixes=(".w2v",),
    sniff=_sniff,
    read=partial(read_text, header=True),
    write=partial(write_text, header=True),
    is_compressed=True,
)
