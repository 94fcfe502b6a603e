"""Real text that every machine has: the documentation inside Python's own standard library.

Writes a CSV with the columns text and label: docstrings of modules, classes and functions, read
from the sources without importing them, and pydoc's topics on the language itself. The label is
the family that the module belongs to.

    python examples/python_docs.py OUT.csv
"""

from __future__ import annotations

import ast
import csv
import runpy
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

FAMILIES = {
    "async and threads": "asyncio concurrent multiprocessing threading queue sched subprocess",
    "network": "http urllib socket socketserver ssl ftplib smtplib poplib imaplib xmlrpc "
    "ipaddress webbrowser",
    "email and markup": "email html xml mailbox mimetypes",
    "numbers": "decimal _pydecimal fractions statistics random numbers datetime _pydatetime "
    "calendar colorsys",
    "files": "pathlib shutil tempfile zipfile tarfile gzip bz2 lzma glob fnmatch os posixpath "
    "ntpath genericpath fileinput filecmp",
    "windows and drawing": "tkinter turtle idlelib curses turtledemo",
    "testing": "unittest doctest pdb bdb cProfile profile timeit trace",
    "code about code": "ast inspect dis importlib tokenize pkgutil lib2to3 symtable traceback "
    "linecache compileall pickletools",
    "types and collections": "typing collections dataclasses enum abc functools contextlib "
    "copy types weakref heapq bisect",
    "data formats": "json csv configparser plistlib sqlite3 pickle shelve dbm logging argparse "
    "optparse gettext locale string textwrap re difflib",
}
FEWEST_WORDS = 8


def documents() -> Iterator[tuple[str, str]]:
    """(text, label) pairs in a fixed order, every text once."""
    seen = set()
    for text, label in [*_docstrings(), *_topics()]:
        text = " ".join(text.split())
        if len(text.split()) >= FEWEST_WORDS and text not in seen:
            seen.add(text)
            yield text, label


def _docstrings() -> Iterator[tuple[str, str]]:
    library = Path(sysconfig.get_path("stdlib"))
    for label, modules in FAMILIES.items():
        for module in modules.split():
            folder = library / module
            sources = (
                sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
            )
            for source in sources:
                if source.is_file():
                    yield from ((text, label) for text in _docstrings_of(source))


def _docstrings_of(source: Path) -> Iterator[str]:
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError):  # some files are there to be wrong
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def _topics() -> Iterator[tuple[str, str]]:
    path = Path(sysconfig.get_path("stdlib")) / "pydoc_data" / "topics.py"
    for _, text in sorted(runpy.run_path(str(path))["topics"].items()):
        for paragraph in text.split("\n\n"):
            yield paragraph, "language"


def main() -> None:
    """Write the file."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python examples/python_docs.py OUT.csv")
    with open(sys.argv[1], "w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        count = 0
        for row in documents():
            writer.writerow(row)
            count += 1
    print(f"{count} texts from Python {sys.version.split()[0]} in {sys.argv[1]}")


if __name__ == "__main__":
    main()
