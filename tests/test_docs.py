"""Every example in the docstrings and in the documentation runs."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import rowwise

ROOT = Path(__file__).parent.parent
MODULES = [
    info.name
    for info in pkgutil.walk_packages(rowwise.__path__, "rowwise.")
    if not info.name.startswith(("rowwise.cli", "rowwise._native"))
]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    if name.startswith("rowwise.keras"):
        pytest.importorskip("keras")
    module = importlib.import_module(name)
    names = {"Table": rowwise.Table, "Vocabulary": rowwise.Vocabulary}
    assert doctest.testmod(module, extraglobs=names).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_in_the_documentation_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where they may write files
    snippets = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    if any("keras" in snippet for snippet in snippets):
        pytest.importorskip("keras")
    names = {}
    for snippet in snippets:  # a page is one program
        exec(compile(snippet, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_in_the_documentation_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
