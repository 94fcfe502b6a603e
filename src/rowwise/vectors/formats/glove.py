"""GloVe's format: text without a header line."""

from __future__ import annotations

from functools import partial

from rowwise.vectors.formats._format import Confidence, Format, Sample
from rowwise.vectors.formats._text import read_text, write_text


def _sniff(sample: Sample) -> Confidence:
    """Take what no other format does: its reader says best what is wrong with that."""
    return Confidence.NO if sample.is_folder else Confidence.FALLBACK


FORMAT = Format(
    name="glove",
    about="text, no header line",
    suffixes=(".txt", ".glove"),
    sniff=_sniff,
    read=partial(read_text, header=False),
    write=partial(write_text, header=False),
    is_compressed=True,
)
