"""Three things that MkDocs does not do by itself.

Pages of the site link to files that lie beside `docs`, as they do in the repository:
`CHANGELOG.md` and its like become pages, `examples/*.py` files of the site, and a link that leaves
`docs` for one of them, or that comes from there into `docs`, is turned to where the site has it.

A docstring's "Example:" is shown as code.

The build fails where a public name has no docstring or no place in `docs/api`.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
OUTSIDE = ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "pyproject.toml"]
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


class ExampleSections(griffe.Extension):
    """Show "Example:" as the section of doctests that the parser knows as "Examples:"."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename the section in an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)


def _outside() -> list[str]:
    return OUTSIDE + sorted(f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py"))


def on_files(files: Files, config: Any) -> Files:
    """Add the files that lie beside `docs`."""
    for name in _outside():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links from the repository's folders to the site's."""
    here = page.file.src_uri
    in_repository = here if here in _outside() else f"docs/{here}"

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), link[1]))
        target = target.removeprefix("docs/")
        return "](" + posixpath.relpath(target, posixpath.dirname(here) or ".")

    return _LINK.sub(turned, markdown)


def public_names() -> set[str]:
    """Return the names that modules without an underscore list in `__all__`, with their modules."""
    names = set()
    for path in (ROOT / "src" / "rowwise").rglob("__init__.py"):
        parts = path.parent.relative_to(ROOT / "src").parts
        if any(part.startswith("_") for part in parts):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names |= {".".join((*parts, name)) for name in ast.literal_eval(node.value)}
    return names


def on_post_build(config: Any) -> None:
    """Compare the public names with the headings of the API pages."""
    pages = (Path(config.site_dir) / "api").glob("*.html")
    shown = {
        name for page in pages for name in re.findall(r'id="(rowwise\.[\w.]+)"', page.read_text())
    }
    shown |= {"rowwise.text.Vocabulary"}  # shown as rowwise.Vocabulary
    if missing := sorted(public_names() - shown):
        raise PluginError(
            f"public names without docstring, or without a place in docs/api: {', '.join(missing)}"
        )
