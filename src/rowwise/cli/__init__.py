"""The command line: one module per command, and `main`, which runs them."""

import sys


def main() -> None:
    """Run the program `rowwise`."""
    try:
        from rowwise.cli._app import app
    except ModuleNotFoundError as error:
        print(
            f"rowwise's command line needs {error.name}; pip install 'rowwise[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    app(prog_name="rowwise")
