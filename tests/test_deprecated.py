"""Names that were called otherwise: the old one still works and says the new one."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cimc"
#: By module, old and new name.
RENAMED = {"cimc.rules": {"WeightCode": "WeightDevices"}}


def test_every_deprecated_name_is_here() -> None:
    """Each call of `warnings.warn` with a DeprecationWarning in the package says an old and a new name of the list."""
    said: dict[str, list[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and any(isinstance(a, ast.Name) and a.id == "DeprecationWarning" for a in node.args):
                module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
                said.setdefault(module, []).append(ast.unparse(node.args[0]))
    assert said.keys() == RENAMED.keys()
    for module, names in RENAMED.items():
        assert len(said[module]) == len(names)
        assert all(any(old in text and new in text for text in said[module]) for old, new in names.items())


def test_no_option_of_the_command_line_is_hidden() -> None:
    """An old option would have a note as well; there is none."""
    assert not [path for path in (PACKAGE / "cli").glob("*.py") if "hidden=True" in path.read_text()]


@pytest.mark.parametrize(("module", "old", "new"), [(m, old, new) for m, names in RENAMED.items() for old, new in names.items()])
def test_an_old_name_works_and_says_the_new_one(module: str, old: str, new: str) -> None:
    home = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{module}.{old} is now called {new}") as caught:
        assert getattr(home, old) is getattr(home, new)
    assert caught[0].filename == __file__
    assert old not in home.__all__


def test_a_name_that_never_was_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = importlib.import_module("cimc.rules").Nothing
