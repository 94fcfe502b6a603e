"""What went wrong, in a line and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from rowwise.cli.read import UnreadableFile

# What a file, an argument or the machine can be the cause of; all else is a bug, and shows itself.
_SAID = (UnreadableFile, ValueError, LookupError, OSError, ImportError, MemoryError)


@contextmanager
def said_plainly(command: str) -> Iterator[None]:
    """Ends the program with exit code 2 and the error's own message, without a traceback."""
    try:
        yield
    except _SAID as error:
        # A KeyError's text is the representation of its message.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        Console(stderr=True, soft_wrap=True).print(f"rowwise {command}: {message}", markup=False)
        raise typer.Exit(2) from None
