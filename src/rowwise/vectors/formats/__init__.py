"""The formats of vectors. A module in this folder that declares a `FORMAT` is one."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from rowwise.errors import VectorsFileError
from rowwise.vectors.formats._format import Confidence, Format, Sample


def _declared() -> dict[str, Format]:
    names = [module.name for module in iter_modules(__path__) if module.name[0] != "_"]
    formats = [import_module(f"{__name__}.{name}").FORMAT for name in sorted(names)]
    return {format.name: format for format in formats}


FORMATS: dict[str, Format] = _declared()


def format_named(name: str) -> Format:
    """Return the format of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in FORMATS:
        raise ValueError(f"format={name!r} is not one of {', '.join(FORMATS)}")
    return FORMATS[name]


def format_of(sample: Sample) -> Format:
    """Return the format that a file or folder is most surely of; at a tie, the suffix decides.

    Raises:
        VectorsFileError: a folder of something else.
    """
    sureness = {format.name: format.sniff(sample) for format in FORMATS.values()}
    best = max(
        FORMATS.values(),
        key=lambda format: (sureness[format.name], sample.suffix in format.suffixes),
    )
    if sureness[best.name] is Confidence.NO:
        folders = [format.about for format in FORMATS.values() if format.is_folder]
        raise VectorsFileError(
            sample.path,
            found="a folder of something else",
            expected=" or ".join(folders),
            fix="name the file in it",
        )
    return best


def format_for(suffix: str, *, has_subwords: bool) -> Format | None:
    """Return the format in which vectors are written to a name of that suffix, None for none."""
    formats = [format for format in FORMATS.values() if suffix in format.suffixes]
    return max(formats, key=lambda format: format.holds_subwords == has_subwords, default=None)
