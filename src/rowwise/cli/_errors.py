"""End a command with one line and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from rowwise.cli._read import UsageError

# Errors that a file, an argument or the machine can cause. Others are bugs, with a traceback.
_EXPECTED = (UsageError, ValueError, LookupError, OSError, ImportError, MemoryError)


@contextmanager
def exit_on_error(command: str) -> Iterator[None]:
    """Exit with code 2 and the error's own message, without a traceback."""
    try:
        yield
    except _EXPECTED as error:
        # A KeyError's text is the representation of its message.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        Console(stderr=True, soft_wrap=True).print(f"rowwise {command}: {message}", markup=False)
        raise typer.Exit(2) from None
