"""Hook of MkDocs: adds pages that are made from the code and from files outside docs/, and turns equations into MathML."""

from __future__ import annotations

import ast
import re

import api
import commands
import outside
from equations import mathml
from lists import widened
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from slugs import github

#: Path of a page in the site -> the repository's file that its text comes from, for links.
_origin: dict[str, str] = {}


def _examples() -> str:
    """A page of the folders in examples/, each with the first sentence of its README or of its script."""
    lines = ["# Examples\n", "| folder | what it is |", "|---|---|"]
    for folder in sorted((outside.ROOT / "examples").iterdir()):
        readme, script = folder / "README.md", folder / "run.py"
        if readme.is_file():
            title = readme.read_text("utf-8").splitlines()[0].removeprefix("# ")
        elif script.is_file():
            title = (ast.get_docstring(ast.parse(script.read_text("utf-8"))) or "").split(":\n")[0].splitlines()[0]
        else:
            continue
        lines.append(f"| [{folder.name}](../examples/{folder.name}) | {title} |")
    return "\n".join(lines) + "\n"


def _not_modelled() -> str:
    """The sections of the guides that say what a result lacks, as one page."""
    parts = ["# What is not modelled\n"]
    for name, title in (("architecture.md", "What is not modelled"), ("wires.md", "What is not modelled")):
        text = (outside.ROOT / "docs" / name).read_text("utf-8")
        section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
        if section is None:
            raise ValueError(f"docs/{name} has no section {title!r}")
        parts += [f"## With wires (`array.wires`)\n{section[1]}" if name == "wires.md" else section[1]]
    return "\n".join(parts)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Anchors as GitHub makes them."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = github
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and every file that a page links to."""
    pages = {"commands.md": ("", commands.page()), "api.md": ("", api.page()), "examples.md": ("docs/examples.md", _examples())}
    pages["not-modelled.md"] = ("docs/not-modelled.md", _not_modelled())
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        pages[outside.site_path(name)] = (name, (outside.ROOT / name).read_text("utf-8"))
    waiting = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    waiting += [entry for entry in pages.values() if entry[0]]
    while waiting:
        origin, text = waiting.pop()
        for path in outside.linked(text, origin):
            goal = outside.site_path(path)
            if goal in pages or files.get_file_from_path(goal):
                continue
            if path.endswith(".png"):
                files.append(File.generated(config, goal, content=(outside.ROOT / path).read_bytes()))
                continue
            readme = path if path.endswith(".md") else f"{path}/README.md"
            if (outside.ROOT / readme).is_file():
                pages[goal] = (readme, (outside.ROOT / readme).read_text("utf-8"))
            else:
                pages[goal] = (path if (outside.ROOT / path).is_file() else ".", outside.source_page(path))
            waiting.append(pages[goal])
    for page, (origin, text) in pages.items():
        _origin[page] = origin
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links out of docs/ lead to pages of the site; list items are indented as Python-Markdown wants them."""
    origin = _origin.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return widened(outside.moved(markdown, origin, page.file.src_uri)) if origin else markdown


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Equations as MathML."""
    return mathml(html)
