"""The fields of a target, from their declarations: for ``cimc targets fields`` and docs/target-fields.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc
from json import dumps
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from cimc.targets.description import (
    Section,
    Target,
    field_table,
    kinds_with,
    optional_sections,
    part_of,
    section_of,
    unit_of,
)
from cimc.targets.kinds import known_sections
from cimc.targets.section import default_of

_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
_HEAD = """# Target fields

Every field of a target file. [targets.md](targets.md) explains how to describe a chip. This page is generated:
`cimc targets fields --markdown > docs/target-fields.md`.

A field without a unit is a count, a ratio, a word or a truth value. The column *values* gives the type and the limits that the
loader enforces. The column *default* applies where neither the file nor the target that it extends gives the figure.
"""


@dataclass(frozen=True)
class Field:
    """One field: its dotted path, what it accepts, its unit and its meaning."""

    path: str
    values: str
    unit: str
    default: str
    """As a target file has it; "required" where there is none."""
    description: str


def fields() -> list[Field]:
    """Every field of a target, section by section."""
    return [
        Field(
            path, _values(path, info), unit_of(path), _default(info), _of_kinds(path) + " ".join((info.description or "").split())
        )
        for path, info in field_table().items()
    ]


def markdown() -> str:
    """The page docs/target-fields.md."""
    parts = [_HEAD]
    sections: dict[str, list[Field]] = {}
    for field in fields():
        sections.setdefault(field.path.rpartition(".")[0], []).append(field)
    for section, rows in sections.items():
        about = f"{_about(section)}\n\n" if section else ""
        head = (
            f"## {section or 'The file itself'}\n\n{about}| field | values | unit | default | meaning |\n|---|---|---|---|---|\n"
        )
        parts.append(head + "".join(f"| {' | '.join(_cells(row))} |\n" for row in rows))
    return "\n".join(parts)


def _of_kinds(path: str) -> str:
    kinds = kinds_with(path)
    return f"({' and '.join(kinds)}) " if kinds else ""


def _about(section: str) -> str:
    """The docstring of a section, by its dotted path."""
    among: list[type[Section]] = [Target]
    part = None
    for name in section.split("."):
        info = next(kind.model_fields[name] for kind in among if name in kind.model_fields)
        inner, part = section_of(info)[0], part_of(info)
        among = [inner] if inner else among
        among += known_sections(part).values() if part else []
    kinds = known_sections(part) if part and part != "device" else {}
    return "\n\n".join([_text(among[0]), *(f"`{kind}`: {_text(own)}" for kind, own in kinds.items())])


def _text(section: type[Section]) -> str:
    return cleandoc(section.__doc__ or "")


def _cells(field: Field) -> Iterator[str]:
    for text in (f"`{field.path}`", field.values, field.unit, field.default, field.description):
        yield text.replace("|", "\\|")


def _values(path: str, info: FieldInfo) -> str:
    if path in optional_sections():
        return "section or null"
    limits = [f"{_SIGNS[word]} {_number(value)}" for item in info.metadata for word, value in _limits(item)]
    return ", ".join([*_words(info.annotation), *limits])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and value < 1e9 else f"{value:g}"


def _limits(item: Any) -> list[tuple[str, float]]:
    return [(word, getattr(item, word)) for word in _SIGNS if getattr(item, word, None) is not None]


def _words(annotation: Any) -> list[str]:
    """A type for people: ``["integer or null"]``, or its words."""
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return [" or ".join([word for kind in kinds for word in _words(kind)] + ["null"] * (NoneType in get_args(annotation)))]
    if get_origin(annotation) is Literal:
        return [" or ".join(f"`{word}`" for word in get_args(annotation))]
    if get_origin(annotation) is tuple:
        if get_origin(get_args(annotation)[0]) is tuple:
            return ["list of lists of numbers"]
        return ["list of numbers" if Ellipsis in get_args(annotation) else f"list of {len(get_args(annotation))} numbers"]
    return [{int: "integer", float: "number", bool: "true or false", str: "text"}.get(annotation, str(annotation))]


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    default = default_of(info)
    return default if isinstance(default, str) else dumps(default)
