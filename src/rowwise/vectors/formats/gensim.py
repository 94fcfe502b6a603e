"""gensim's own files: pickles, which can run any code when they are opened, so never are."""

from __future__ import annotations

from rowwise.errors import VectorsFileError
from rowwise.vectors._options import Options
from rowwise.vectors._word_matrix import WordMatrix
from rowwise.vectors.formats._format import Confidence, Format, Sample

_SUFFIXES = (".kv", ".pkl", ".pickle")


def _sniff(sample: Sample) -> Confidence:
    head = sample.head
    # A pickle's mark and its version; what follows is never a byte 0, as in small numbers.
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5") and head[2:3] != b"\0":
        return Confidence.CERTAIN
    if any(name.endswith("data.pkl") for name in sample.members):
        return Confidence.CERTAIN
    return Confidence.LIKELY if sample.suffix in _SUFFIXES else Confidence.NO


def _read(path: str, options: Options) -> WordMatrix:
    raise VectorsFileError(
        path,
        found="a pickle, which can run any code when it is opened",
        expected="a format that holds nothing but words and numbers",
        fix="if you trust it, export it where gensim is installed: "
        "gensim.models.KeyedVectors.load('x.kv').save_word2vec_format('x.bin', binary=True); "
        "or hand over what gensim has loaded: rowwise.vectors.load(keyed_vectors)",
    )


def _write(vectors: WordMatrix, path: str) -> None:
    raise ValueError(
        f"{path!r}: gensim's own format is a pickle, which is never written here; "
        "vectors.to_gensim().save(path) has gensim write it"
    )


FORMAT = Format(
    name="gensim",
    about="a pickle: refused",
    suffixes=_SUFFIXES,
    sniff=_sniff,
    read=_read,
    write=_write,
)
