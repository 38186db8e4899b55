"""A target file as text: each figure with its source."""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps
from typing import Any


def target_text(name: str, extends: str, figures: Mapping[str, tuple[Any, str]]) -> str:
    """A YAML file.

    Args:
        name: Of the target.
        extends: Name or path of the target below it.
        figures: Value and source by dotted path.
    """
    nested: dict[str, Any] = {}
    for path, figure in figures.items():
        *sections, leaf = path.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = figure
    lines = [f"name: {name}", f"extends: {dumps(extends, ensure_ascii=False)}", *_lines(nested, 0)]
    return "\n".join(lines) + "\n"


def _lines(node: Mapping[str, Any], depth: int) -> list[str]:
    found = []
    for key, value in node.items():
        if isinstance(value, tuple):
            leaf, source = (dumps(part, ensure_ascii=False) for part in value)
            found.append(f"{'  ' * depth}{key}: {{value: {leaf}, source: {source}}}")
        else:
            found += [f"{'  ' * depth}{key}:", *_lines(value, depth + 1)]
    return found
