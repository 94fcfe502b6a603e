"""End a command with one line and an exit code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from rowwise.cli._read import UsageError

# Errors that a file, an argument or the machine can cause. Others are bugs, with a traceback.
_EXPECTED = (UsageError, ValueError, LookupError, OSError, ImportError, MemoryError)

# What Python's messages about vectors say, and what the command line has in its place.
_READING = (
    (r"pass errors='\w+' or '\w+', as in bytes\.decode, to read on",
     "--errors replace or ignore reads on"),
    (r"pass format='([\w-]+)'", r"--from \1"),
    (r"pass (?:the file's own )?format=\.\.\.", "--from FORMAT"),
    (r"pass limit=(\d+)", r"--limit \1"),
    (r"pass limit=\.\.\., words=\.\.\. or dtype='float16'", "--limit N reads fewer"),
    (r", or pass finite=False to keep it as it is", ""),
)  # fmt: skip
_OTHERS = (
    (r"or pass format=\.\.\., one of", "or --to FORMAT, one of"),
    (r"^errors='", "--errors '"),
    (r"\blearning_rate=", "--learning-rate "),
    (r"\bmin_count=", "--min-count "),
    (r"a smaller min_count", "a smaller --min-count"),
    (r"\bchar_ngrams=\((\d+), (\d+)\)", r"--char-ngrams \1-\2"),
    (r"\bchar_ngrams=", "--char-ngrams "),
    (r", \(shortest, longest\) nor 'auto'", ", two such as 3-5, nor auto"),
    (r"^format='", "--from or --to '"),
)
_READERS = ("analogy", "convert", "neighbors", "view")  # commands that have these options


@contextmanager
def exit_on_error(command: str) -> Iterator[None]:
    """Exit with code 2 and the error's own message, without a traceback."""
    try:
        yield
    except BrokenPipeError:  # such as of head; click ends quietly
        raise
    except _EXPECTED as error:
        # A KeyError's text is the representation of its message.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        told = _with_options(str(message), command)
        Console(stderr=True, soft_wrap=True).print(f"rowwise {command}: {told}", markup=False)
        raise typer.Exit(2) from None


def _with_options(message: str, command: str) -> str:
    """Return a message with the command line's options in place of Python's arguments."""
    prefix = "" if command in _READERS else "rowwise convert "
    for pattern, option in _OTHERS:
        message = re.sub(pattern, option, message)
    for pattern, option in _READING:
        message = re.sub(pattern, option and prefix + option, message)
    return message
