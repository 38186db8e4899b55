"""A description as flat figures: dotted path -> value, source, and where it was written.

Flat figures make everything else short: extending a chip is a dict update, a setting is one entry, and one check of the
paths finds every misspelt name, whoever wrote it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from cimc.errors import TargetError
from cimc.targets.description import Target, field_table
from cimc.targets.yaml_file import Lines


@dataclass(frozen=True)
class Figure:
    value: Any
    source: str | None
    origin: str
    """File and line, or the setting, for an error message."""


Figures = dict[str, Figure]


def flatten(document: Mapping[str, Any], origin: str, lines: Lines | None = None) -> Figures:
    """Figures of a nested description; a leaf is a plain value or ``{value: ..., source: ...}``.

    Raises:
        TargetError: An unknown field, or a leaf of another form.
    """
    listed = document.get("sources") or {}
    if not isinstance(listed, Mapping) or not all(isinstance(s, str) for s in listed.values()):
        raise TargetError("maps a dotted field to a text", where=f"{origin}, sources", fix='array.rows: "paper, table 1"')
    body = {key: value for key, value in document.items() if key != "sources"}
    figures = {}
    for keys, value, source in _leaves(body, (), origin):
        path, line = ".".join(keys), (lines or {}).get(keys)
        place = f"{origin}, line {line}" if line else origin
        check_path(path, place)
        figures[path] = Figure(value, source if source is not None else listed.get(path), place)
    for path in listed:
        check_path(str(path), f"{origin}, sources")
    return figures


def _leaves(node: Mapping[str, Any], path: tuple[str, ...], origin: str) -> Iterator[tuple[tuple[str, ...], Any, str | None]]:
    for key, value in node.items():
        here = (*path, str(key))
        if not isinstance(value, Mapping):
            yield here, value, None
        elif "value" not in value and "source" not in value:
            yield from _leaves(value, here, origin)
        else:
            dotted = ".".join(here)
            source = value.get("source")
            if "value" not in value or set(value) - {"value", "source"} or not isinstance(source, str | None):
                raise TargetError(
                    "a figure with a source has a value and a text, nothing else",
                    where=f"{origin}, {dotted}",
                    fix=f'{dotted.split(".")[-1]}: {{value: ..., source: "paper, section"}}',
                )
            yield here, value["value"], source


def check_path(path: str, where: str) -> None:
    """Raises TargetError, with the nearest names, unless ``path`` is a field of a description."""
    fields = field_table()
    if path in fields:
        return
    inside = [name.removeprefix(f"{path}.") for name in fields if name.startswith(f"{path}.")]
    if inside:
        raise TargetError(f"{path} is a section, not a figure", where=where, fix=f"its fields: {', '.join(inside)}")
    last = path.rsplit(".", 1)[-1]
    near = [name for name in fields if name.rsplit(".", 1)[-1] == last]
    near += [name for name in difflib.get_close_matches(path, fields, n=3, cutoff=0.6) if name not in near]
    section = [name for name in fields if "." in path and name.startswith(path.rsplit(".", 1)[0] + ".")]
    fix = f"{' or '.join(near)}?" if near else f"the fields there: {', '.join(section)}" if section else None
    raise TargetError(f"there is no field {path!r}", where=where, fix=fix or "cimc targets schema lists all fields")


def build(figures: Figures, origin: str) -> Target:
    """The checked description.

    Raises:
        TargetError: A value of the wrong type or outside its bounds, or fields that contradict each other.
    """
    nested: dict[str, Any] = {"sources": {path: f.source for path, f in figures.items() if f.source}}
    for path, figure in figures.items():
        *sections, leaf = path.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = figure.value
    try:
        # JSON in strict mode: a list is a tuple, but "64" or true is never a number.
        return Target.model_validate_json(json.dumps(nested, default=_plain), strict=True)
    except ValidationError as error:
        raise _translated(error, figures, origin) from None


def _plain(value: Any) -> Any:
    """numpy scalars and arrays as Python values; anything else stays what it is and is refused as such."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


_MESSAGES = {
    "missing": "is missing",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be finite",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "string_pattern_mismatch": "may hold letters, digits, dot, dash and underline only",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "literal_error": "must be {expected}",
    "missing_argument": "has too few entries",
    "too_long": "has too many entries",
}


def _translated(error: ValidationError, figures: Figures, origin: str) -> TargetError:
    """All that is wrong, one sentence a field; ``where`` is the first of them."""
    places, sentences = [], []
    for entry in error.errors():
        path = ".".join(str(part) for part in entry["loc"])
        field = next((name for name in figures if path == name or path.startswith(f"{name}.")), path)
        context = entry.get("ctx", {})
        if entry["type"] == "value_error":
            sentence = str(context.get("error", entry["msg"]))
        else:
            sentence = f"{path} " + _MESSAGES.get(entry["type"], f"is wrong ({entry['msg']})").format(**context)
        if field in figures and entry["type"] != "value_error":
            sentence += f", not {_shown(figures[field].value)}"
        places.append(figures[field].origin if field in figures else origin)
        if field in field_table():
            sentence += f" ({field_table()[field].description})" if field_table()[field].description else ""
        sentences.append(sentence)
    return TargetError("; ".join(sentences), where=places[0], fix="cimc targets show bulk-rram is a complete example")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
