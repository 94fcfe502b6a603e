"""The command line, one command per file."""

import sys


def main() -> None:
    """Entry point of `rowwise`."""
    try:
        from rowwise.cli.app import app
    except ModuleNotFoundError as error:
        print(
            f"rowwise's command line needs {error.name}; pip install 'rowwise[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    app()
