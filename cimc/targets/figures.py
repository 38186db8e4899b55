"""A description as flat figures: dotted path -> value, source, and where it was written.

Flat figures make everything else short: extending a chip is a dict update, a setting is one entry, and one check of the
paths finds every misspelt name, whoever wrote it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cimc.errors import TargetError
from cimc.targets.description import field_table, optional_sections, part_sections
from cimc.targets.kinds import BASES, BUILT_IN, kind_field, load_installed, section_class
from cimc.targets.yaml_file import Lines

#: Source of a figure that a setting changed.
SET_BY_USER = "set by the user"


@dataclass(frozen=True)
class Figure:
    value: Any
    source: str | None
    origin: str
    """File and line, or the setting, for an error message."""
    stated_for: Mapping[str, Any] | None = None
    """Values of the fields that it depends on, where it was stated; see `cimc.targets.stated`."""


Figures = dict[str, Figure]


def flatten(document: Mapping[str, Any], origin: str, lines: Lines | None = None) -> Figures:
    """Figures of a nested description; a leaf is a plain value or ``{value: ..., source: ...}``.

    Raises:
        TargetError: An unknown field, or a leaf of another form.
    """
    listed = document.get("sources") or {}
    if not isinstance(listed, Mapping) or not all(isinstance(s, str) for s in listed.values()):
        raise TargetError("maps a dotted field to a text", where=f"{origin}, sources", fix='array.rows: "paper, table 1"')
    stated = _stated_for(document.get("stated_for") or {}, f"{origin}, stated_for")
    body = {key: value for key, value in document.items() if key not in ("sources", "stated_for")}
    figures = {}
    leaves = [(".".join(keys), keys, value, source) for keys, value, source in _leaves(body, (), origin)]
    check_kinds({path: value for path, _, value, _ in leaves}, origin)
    for path, keys, value, source in leaves:
        line = (lines or {}).get(keys)
        place = f"{origin}, line {line}" if line else origin
        check_path(path, place)
        figures[path] = Figure(value, source if source is not None else listed.get(path), place, stated.get(path))
    for path in listed:
        check_path(str(path), f"{origin}, sources")
    return figures


def _stated_for(listed: Any, where: str) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(listed, Mapping) or not all(isinstance(fields, Mapping) for fields in listed.values()):
        raise TargetError(
            "maps a dotted field to the fields that it depends on", where=where, fix="timing.tile_op_ns: {array.rows: 64}"
        )
    for path in (*listed, *(field for fields in listed.values() for field in fields)):
        check_path(str(path), where)
    return listed


def of_kind(base: Figures, new: Figures) -> Figures:
    """``base`` without the figures of other kinds than those which ``new`` chooses.

    Of a part whose section changes its class, only what all of its kinds have stays: a field of another kind may have the same
    name, and its figure was stated for the other.

    Raises:
        TargetError: There is no such kind.
    """
    kept = base
    for section, part in part_sections().items():
        field = f"{section}.{kind_field(part)}"
        chosen = new.get(field)
        if chosen is not None and isinstance(chosen.value, str):
            old, prefix = base.get(field), f"{section}."
            kind = old.value if old is not None else next(iter(BUILT_IN[part]))
            section_now = section_class(part, chosen.value)
            same = isinstance(kind, str) and section_class(part, kind) is section_now
            known = (section_now if same else BASES[part]).model_fields
            kept = {
                p: f for p, f in kept.items() if not p.startswith(prefix) or p.removeprefix(prefix).partition(".")[0] in known
            }
    return kept


def laid_over(base: Figures, new: Figures) -> Figures:
    """``base`` with the figures of ``new`` instead of its own.

    A section given as a whole ({} or null) takes the place of its figures, and a figure that of its section given as a whole.
    """

    def replaced(path: str) -> bool:
        return any(other.startswith(f"{path}.") or path.startswith(f"{other}.") for other in new)

    around = tuple(f"{section}." for section in optional_sections())
    touched = any(path in optional_sections() or path.startswith(around) for path in new)
    kept = {path: figure for path, figure in base.items() if not replaced(path)} if touched else base
    return kept | new


def _leaves(node: Mapping[str, Any], path: tuple[str, ...], origin: str) -> Iterator[tuple[tuple[str, ...], Any, str | None]]:
    for key, value in node.items():
        here = (*path, str(key))
        if not isinstance(value, Mapping) or (not value and ".".join(here) in optional_sections()):
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


def check_kinds(values: Mapping[str, Any], where: str) -> None:
    """Raises TargetError where a figure (by dotted path) names a kind that there is not: before its fields are missed."""
    for section, part in part_sections().items():
        field = f"{section}.{kind_field(part)}"
        kind = values.get(field)
        if isinstance(kind, str):
            try:
                section_class(part, kind)
            except TargetError as error:
                raise TargetError(error.what, where=f"{where}, {field}", fix=error.fix) from error


def check_path(path: str, where: str) -> None:
    """Raises TargetError, with the nearest names, unless ``path`` is a field of a description."""
    if path in field_table() or (load_installed() and path in field_table()):
        return
    fields = field_table()
    inside = [name.removeprefix(f"{path}.") for name in fields if name.startswith(f"{path}.")]
    if inside:
        raise TargetError(f"{path} is a section, not a figure", where=where, fix=f"its fields: {', '.join(inside)}")
    section, _, last = path.rpartition(".")
    near = [name for name in fields if name.rpartition(".")[2] == last]
    siblings = [name for name in fields if section and name.rpartition(".")[0] == section]
    near += [name for name in difflib.get_close_matches(path, siblings or fields, n=3, cutoff=0.75) if name not in near]
    if near:
        fix = f"{' or '.join(near)}?"
    else:
        fix = f"the fields there: {', '.join(siblings)}" if siblings else "cimc targets schema lists all fields"
    raise TargetError(f"there is no field {path!r}", where=where, fix=fix)
