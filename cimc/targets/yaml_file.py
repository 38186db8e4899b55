"""Read a YAML file as plain values, with the line of each, trusting nothing in it.

Only what JSON has is understood (YAML 1.2 core: ``1e-4`` is a number, ``no`` is a word). Tags, repeated keys, very large
files and alias bombs are refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from cimc.errors import TargetError

MAX_BYTES = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 16

Lines = dict[tuple[str, ...], int]


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema alone."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute


_NULL, _BOOL, _INT, _FLOAT, _STR = (f"tag:yaml.org,2002:{t}" for t in ("null", "bool", "int", "float", "str"))
for _tag, _pattern, _first in (
    (_NULL, r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    (_BOOL, r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    (_INT, r"^[-+]?[0-9]+$", list("-+0123456789")),
    (_FLOAT, r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+0123456789.")),
):
    _CoreLoader.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Values of a YAML file and the line of each key, by path of keys.

    Raises:
        TargetError: The file is missing, unreadable, too large, no mapping, or not plain YAML.
    """
    where = str(path)
    try:
        if path.is_dir():
            raise TargetError("this is a folder, not a file", where=where, fix="name the YAML file in it")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise TargetError("there is no such file", where=where, fix="cimc targets list shows the built-in chips") from None
    except (OSError, ValueError) as error:
        raise TargetError(f"the file cannot be read: {getattr(error, 'strerror', None) or error}", where=where) from None
    if len(raw) > MAX_BYTES:
        raise TargetError(f"the file is larger than {MAX_BYTES:,} bytes; a target description is a few kB", where=where)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TargetError(f"byte {error.start} is not UTF-8", where=where, fix="save the file as UTF-8 text") from None
    values, lines = parse_yaml(text, where)
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise TargetError(
            f"a target description is a mapping of sections, this file holds {found}",
            where=where,
            fix="begin with `name: my-chip` and `extends: bulk-rram`",
        )
    return values, lines


def parse_yaml(text: str, where: str) -> tuple[Any, Lines]:
    """Plain values of one YAML document and the line of each key.

    Raises:
        TargetError: It is not plain YAML.
    """
    try:
        node = yaml.compose(text, _CoreLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise TargetError(f"not valid YAML: {problem}", where=f"{where}, line {mark.line + 1}" if mark else where) from None
    except RecursionError:
        raise TargetError(f"nested deeper than {MAX_DEPTH} levels", where=where) from None
    walker = _Walker(where)
    return (None if node is None else walker.value(node, ())), walker.lines


class _Walker:
    """Turns composed nodes into values; counts as aliases expand, so that few bytes cannot become many values."""

    def __init__(self, where: str) -> None:
        self.where, self.lines, self.nodes = where, Lines(), 0

    def value(self, node: yaml.Node, path: tuple[str, ...]) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self._error(node, f"expands to more than {MAX_NODES:,} values")
        if len(path) > MAX_DEPTH:
            raise self._error(node, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(item, (*path, str(i))) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        raise self._error(node, f"the tag {node.tag} is not allowed")

    def _mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a key must be a word")
            key: str = key_node.value
            if key in result:
                raise self._error(key_node, f"the key {key!r} stands twice")
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, (*path, key))
        return result

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        if node.tag == _STR:
            return text
        if node.tag == _NULL:
            return None
        if node.tag == _BOOL:
            return text.lower() == "true"
        if node.tag in (_INT, _FLOAT):
            try:
                return int(text) if node.tag == _INT else float(text)
            except ValueError:
                raise self._error(node, f"{text[:40]!r} is not a number that can be read") from None
        raise self._error(node, f"the tag {node.tag} is not allowed")

    def _error(self, node: yaml.Node, what: str) -> TargetError:
        return TargetError(what, where=f"{self.where}, line {node.start_mark.line + 1}")
