"""What a person sees while something takes its time."""

from __future__ import annotations

from contextlib import AbstractContextManager

from rich.console import Console


def waiting(doing: str) -> AbstractContextManager[object]:
    """Shows a sign of life on a terminal, beside the output, until the block is left."""
    return Console(stderr=True).status(doing)
