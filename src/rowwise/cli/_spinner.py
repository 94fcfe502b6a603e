"""A sign of life on a terminal."""

from __future__ import annotations

from contextlib import AbstractContextManager

from rich.console import Console


def spinner(doing: str) -> AbstractContextManager[object]:
    """Show a spinner beside the output, on a terminal, until the block ends."""
    return Console(stderr=True).status(doing)
