"""Layers import downward only, heavy packages only where they work, and no cimc module reads code from a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cimc"

#: What each folder may import of cimc, besides itself; modules at the top are named one by one.
ALLOWED = {
    "errors": set(),
    "version": set(),
    "locks": set(),
    "threads": {"errors"},
    "arguments": {"errors"},
    "files": {"errors", "locks"},
    "targets": {"errors", "arguments"},
    "ir": {"threads", "errors", "arguments", "files", "targets"},
    "frontend": {"errors", "arguments", "ir"},
    "passes": {"threads", "errors", "arguments", "targets", "ir"},
    "runtime": {"threads", "errors", "arguments", "targets", "ir"},
    "data": {"errors", "arguments", "files", "ir"},
    "datasets": {"errors", "arguments", "data"},
    "pipeline": {"errors", "ir", "passes", "data"},
    "compiler": {"errors", "arguments", "version", "targets", "ir", "frontend", "passes", "data", "pipeline"},
    "training": {"errors", "arguments", "files", "locks", "version", "targets", "ir", "passes", "runtime", "compiler", "data"},
    "image": {"errors", "arguments", "files", "version", "targets", "ir", "passes", "runtime", "pipeline", "compiler", "data"},
    "report": {"errors", "arguments", "targets", "ir", "frontend", "runtime", "compiler", "data"},
    "testing": {"errors", "arguments", "targets", "ir", "runtime"},
    "devices": {"targets", "runtime"},
    "backend": {"errors", "arguments", "ir", "runtime", "compiler"},
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_downward(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if layer in ("__init__", "__main__", "cli"):
        return  # the API and the command line may use everything
    used = {name.split(".")[1] for name in imported(path) if name.startswith("cimc.")} - {layer}
    assert used <= ALLOWED[layer]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_unpickles_or_evaluates(path: Path) -> None:
    assert not {"pickle", "dill", "shelve", "marshal"} & {name.split(".")[0] for name in imported(path)}
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not {"eval", "exec"} & {call.id for call in calls if isinstance(call, ast.Name)}
