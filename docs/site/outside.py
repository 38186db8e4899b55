"""Links from pages to files of the repository outside docs/: in the site, these files are pages too."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]*)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"(^ *```.*?^ *```)", re.DOTALL | re.MULTILINE)
#: Markdown files outside docs/ that are pages, by their path in the site.
_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def site_path(path: str) -> str:
    """Where the site has ``path``, a file or folder of the repository."""
    if path in _PAGES:
        return _PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (ROOT / path / "README.md").is_file():
        return f"{path}.md"
    if path.endswith("/README.md"):
        return f"{path.removesuffix('/README.md')}.md"
    return path if path.endswith(".png") else f"source/{path}.md"


def _links(text: str, change: Callable[[re.Match[str]], str]) -> str:
    """``text`` with its links changed, those in code blocks apart."""
    return "".join(part if number % 2 else _LINK.sub(change, part) for number, part in enumerate(_FENCE.split(text)))


def moved(text: str, origin: str, page: str) -> str:
    """The Markdown ``text`` of the repository's file ``origin`` as the site's ``page``: its relative links lead to pages."""

    def one(found: re.Match[str]) -> str:
        link = found[2]
        if not link or re.match(r"[a-z]+:", link):
            return found[0]
        goal = site_path(posixpath.normpath(posixpath.join(posixpath.dirname(origin), link)))
        return found[1] + posixpath.relpath(goal, posixpath.dirname(page) or ".") + (found[3] or "") + found[4]

    return _links(text, one)


def linked(text: str, origin: str) -> Iterator[str]:
    """Files and folders of the repository outside docs/ that ``text`` of the file ``origin`` links to."""
    found: list[str] = []
    _links(text, lambda match: found.append(match[2]) or match[0])
    for link in found:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
        if link and not re.match(r"[a-z]+:", link) and not path.startswith(("docs/", "..")) and (ROOT / path).exists():
            yield path


def source_page(path: str) -> str:
    """A page that shows a file of the repository, or lists a folder."""
    file = ROOT / path
    if file.is_dir():
        names = sorted(part.name for part in file.iterdir() if part.suffix in {".py", ".md", ".onnx", ".c", ".h"})
        return f"# {path}\n\n" + "".join(f"- [{name}]({path}/{name})\n" for name in names)
    language = {".py": "python", ".yaml": "yaml", ".c": "c", ".h": "c"}.get(file.suffix, "text")
    return f"# {path}\n\n````{language}\n{file.read_text('utf-8')}\n````\n"
