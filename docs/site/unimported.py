"""Names of a module that needs an extra, read from its source: the page is the same with and without the extra."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Declared(NamedTuple):
    """A function or class as its source has it."""

    name: str
    signature: str
    docstring: str
    members: list[Declared]


def _declared(node: ast.ClassDef | ast.FunctionDef) -> Declared:
    functions = [part for part in node.body if isinstance(part, ast.FunctionDef)] if isinstance(node, ast.ClassDef) else []
    made = next((part for part in functions if part.name == "__init__"), None) if functions else None
    function = node if isinstance(node, ast.FunctionDef) else made
    signature = f"({ast.unparse(function.args)})" if function else "()"
    if function and function.returns and function is node:
        signature += f" -> {ast.unparse(function.returns)}"
    members = [_declared(part) for part in functions if not part.name.startswith("_")]
    return Declared(node.name, signature, ast.get_docstring(node) or "", members)


def declared(module: str) -> tuple[str, Iterator[Declared]]:
    """The docstring of a package, and what its ``__init__`` imports of its own modules for ``__all__``."""
    tree = ast.parse((ROOT / module.replace(".", "/") / "__init__.py").read_text("utf-8"))
    public: set[str] = set()
    origin: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            public = set(ast.literal_eval(node.value))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(module):
            origin |= {alias.name: str(node.module) for alias in node.names}

    def all_of() -> Iterator[Declared]:
        for name in sorted(public):
            source = ast.parse((ROOT / (origin[name].replace(".", "/") + ".py")).read_text("utf-8"))
            yield next(
                _declared(part) for part in source.body if isinstance(part, ast.ClassDef | ast.FunctionDef) and part.name == name
            )

    return ast.get_docstring(tree) or "", all_of()
