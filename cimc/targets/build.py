"""Figures to a checked description; what pydantic finds wrong is told in sentences with file and line."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from cimc.errors import TargetError
from cimc.targets.description import Target, field_table
from cimc.targets.figures import SET_BY_USER, Figures
from cimc.targets.stated import changed_since
from cimc.targets.told import parsed_json, place, sentence


def build(figures: Figures, origin: str) -> Target:
    """The checked description.

    Raises:
        TargetError: A value of the wrong type or outside its bounds, or fields that contradict each other.
    """
    nested: dict[str, Any] = {
        "sources": {path: f.source for path, f in figures.items() if f.source},
        "stated_for": changed_since(figures),
    }
    for path, figure in figures.items():
        *sections, leaf = path.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = figure.value
    try:
        # JSON in strict mode: a list is a tuple, but "64" or true is never a number.
        target = parsed_json(Target, json.dumps(nested, default=_plain), strict=True)
    except ValidationError as error:
        raise _translated(error, figures, origin) from None
    _check_cells(target, origin)
    return target


def _check_cells(target: Target, origin: str) -> None:
    """Raises TargetError where the cells of a weight cannot hold its bits: no program could be made."""
    bits, levels, cells = target.weights.bits, target.device.levels, target.weights.cells
    if bits is None:
        return
    needed: int = target.weights.values(bits)
    if levels is None or levels**cells < needed:
        held = f"{cells} cells of {levels} levels hold {levels**cells} values" if levels else "continuous cells hold no bits"
        raise TargetError(
            f"{held}, a weight of {bits} bits needs {needed}",
            where=f"{origin}, weights.bits",
            fix="more weights.cells or device.levels, or weights.bits=null",
        )


def _plain(value: Any) -> Any:
    """numpy scalars and arrays as Python values; anything else stays what it is and is refused as such."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def _translated(error: ValidationError, figures: Figures, origin: str) -> TargetError:
    """All that is wrong, one sentence a field; ``where`` is the first of them."""
    places, sentences = [], []
    for entry in error.errors():
        path = place(entry)
        field = next((name for name in figures if path == name or path.startswith(f"{name}.")), path)
        text = sentence(entry)
        if field in figures and entry["type"] != "value_error":
            text += f", not {_shown(figures[field].value)}"
        places.append(figures[field].origin if field in figures else _set_below(field, figures) or origin)
        if field in field_table():
            text += f" ({field_table()[field].description})"
        sentences.append(text)
    return TargetError("; ".join(sentences), where=places[0], fix="cimc targets show bulk-rram is a complete example")


def _set_below(section: str, figures: Figures) -> str:
    """The settings that a contradiction between fields of a section ("" for the chip) comes with."""
    prefix = f"{section}." if section else ""
    return ", ".join(f.origin for path, f in figures.items() if f.source == SET_BY_USER and path.startswith(prefix))


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
