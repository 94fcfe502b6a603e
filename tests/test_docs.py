"""Every example in the docstrings and in the documentation runs."""

import doctest
import importlib
import math
import os
import pkgutil
import re
from pathlib import Path

import pytest

import rowwise

ROOT = Path(__file__).parent.parent
ON_JAX = os.environ["KERAS_BACKEND"] == "jax"  # whose threads do not bear other tests' forks
MODULES = [
    info.name
    for info in pkgutil.walk_packages(rowwise.__path__, "rowwise.")
    if not info.name.startswith(("rowwise.cli", "rowwise._native"))
    and info.name.startswith("rowwise.jax") == ON_JAX
]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = [page for page in PAGES if ("import rowwise.jax" in page.read_text()) == ON_JAX]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    if name.startswith("rowwise.keras"):
        pytest.importorskip("keras")
    if name.startswith("rowwise.jax"):
        pytest.importorskip("optax")
    module = importlib.import_module(name)
    names = {"Table": rowwise.Table, "Vocabulary": rowwise.Vocabulary}
    assert doctest.testmod(module, extraglobs=names).failed == 0


def same_output(shown, printed):
    """Whether both have the same words, and numbers to four digits."""
    shown, printed = (
        re.findall(r"-?\d*\.?\d+(?:e-?\d+)?|[^\s\d]+", text) for text in (shown, printed)
    )
    return len(shown) == len(printed) and all(
        one == other
        or (
            "." in one
            and other[-1].isdigit()
            and math.isclose(float(one), float(other), rel_tol=1e-3, abs_tol=0.011)
        )
        for one, other in zip(shown, printed, strict=True)
    )


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_print_what_the_page_shows(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where they may write files
    snippets = re.findall(
        r"^```python\n(.*?)^```\n(?:\n((?: {4}[^\n]*\n)+))?",
        page.read_text(),
        re.DOTALL | re.MULTILINE,
    )
    for package in ("keras", "optax", "flax", "equinox"):
        if any(package in snippet for snippet, _ in snippets):
            pytest.importorskip(package)
    names = {}
    for snippet, shown in snippets:  # a page is one program
        exec(compile(snippet, page.name, "exec"), names)
        printed = capsys.readouterr().out
        if shown and "print(" in snippet:
            assert same_output(shown, printed), printed


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs" / "tutorials").glob("[!i]*.md")), ids=lambda page: page.stem
)
def test_a_notebook_of_a_tutorial_has_its_snippets_as_cells(page):
    jupytext = pytest.importorskip("jupytext")
    cells = jupytext.read(page).cells
    snippets = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    assert snippets
    assert [cell.source + "\n" for cell in cells if cell.cell_type == "code"] == snippets
    assert cells[0].source.startswith("# ")


def test_version_is_the_same_in_package_citation_and_changelog():
    citation = (ROOT / "CITATION.cff").read_text()
    version, date = (
        re.search(rf"^{key}: (.*)$", citation, re.MULTILINE)[1]
        for key in ("version", "date-released")
    )
    assert version == rowwise.__version__
    releases = re.findall(r"^## (\d.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == f"{version} - {date}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_in_the_documentation_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
