"""Layers import downward only, heavy packages only where they work, and no cimc module reads code from a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
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
    "fingerprint": set(),
    "shown": set(),
    "targets": {"errors", "arguments"},
    "ir": {"threads", "errors", "arguments", "files", "targets", "shown"},
    "frontend": {"errors", "arguments", "ir"},
    "calibration": {"targets", "ir"},
    "passes": {"threads", "errors", "arguments", "targets", "ir", "calibration"},
    "runtime": {"threads", "errors", "arguments", "targets", "ir", "shown"},
    "npz": {"errors", "arguments", "files", "ir"},
    "datasets": {"errors", "arguments", "npz"},
    "image_folder": {"errors", "ir"},
    "sources": {"errors", "arguments", "ir", "npz", "datasets", "image_folder"},
    "data": {"errors", "arguments", "ir", "npz", "sources"},
    "journal": {"errors", "files"},
    "pipeline": {"errors", "ir", "passes", "data", "sources"},
    "compiler": {"errors", "arguments", "version", "targets", "ir", "frontend", "passes", "data", "pipeline"},
    "training": {"errors", "arguments", "files", "locks", "version", "targets", "ir", "passes", "runtime", "compiler", "data"}
    | {"fingerprint", "journal", "sources", "shown"},
    "image": {"errors", "arguments", "files", "version", "targets", "ir", "passes", "runtime", "pipeline", "compiler", "data"}
    | {"npz", "shown"},
    "report": {
        "threads",
        "version",
        "errors",
        "arguments",
        "targets",
        "ir",
        "frontend",
        "runtime",
        "compiler",
        "data",
        "characterisation",
    },
    "budget": {"errors", "arguments", "targets", "ir", "frontend", "runtime", "compiler", "data", "report", "shown"}
    | {"sources"},
    "tuning": {"errors", "arguments", "files", "targets", "ir", "calibration", "passes", "runtime", "compiler", "data", "report"}
    | {"training", "journal", "fingerprint", "shown", "sources"},
    "population": {"threads", "errors", "arguments", "files", "targets", "ir", "frontend", "runtime", "compiler", "data"}
    | {"report", "image", "journal", "fingerprint", "shown"},
    "pages": {"errors", "files", "targets", "ir", "runtime", "report", "image", "training", "data"}
    | {"journal", "population", "tuning"},
    "testing": {"threads", "errors", "arguments", "targets", "ir", "runtime", "compiler", "training"},
    "characterisation": {"errors", "arguments", "files", "targets"},
    "devices": {"targets", "ir", "runtime"},
    "rules": {"targets", "runtime", "training"},
    "backend": {"errors", "arguments", "ir", "runtime", "compiler"},
    "torch": {"errors", "arguments", "targets", "ir", "calibration", "runtime", "compiler", "training"},
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


def test_no_circle_of_imports() -> None:
    """Of modules, those that functions import counted; what only types need is not."""
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name, path in names.items():
        tree = ast.parse(path.read_text())
        for block in ast.walk(tree):
            if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
                block.body = [ast.Pass()]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                found = [f"{node.module}.{alias.name}" for alias in node.names]
                graph.add_edges_from((name, full if full in names else node.module) for full in found)
            elif isinstance(node, ast.Import):
                graph.add_edges_from((name, alias.name) for alias in node.names)
    circles = [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]
    assert not circles


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_unpickles_or_evaluates(path: Path) -> None:
    assert not {"pickle", "dill", "shelve", "marshal"} & {name.split(".")[0] for name in imported(path)}
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not {"eval", "exec"} & {call.id for call in calls if isinstance(call, ast.Name)}
