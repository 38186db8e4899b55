"""Settings from the command line or a mapping: ``array.rows=128``, typed by the field they set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np

from cimc.errors import TargetError
from cimc.targets.description import field_table, optional_sections
from cimc.targets.figures import SET_BY_USER, Figure, Figures, check_kinds, check_path, laid_over
from cimc.targets.yaml_file import parse_yaml


def parse_settings(settings: Mapping[str, Any] | Sequence[str]) -> Figures:
    """Figures of ``path=value`` texts, or of a mapping of dotted paths (or nested sections) to values; the last of two wins.

    Raises:
        TargetError: A text without ``=`` or value, or an unknown field.
    """
    if isinstance(settings, str):
        settings = [settings]
    pairs = list(_pairs(settings) if isinstance(settings, Mapping) else (_split(text) for text in settings))
    check_kinds(dict(pairs), "--set")
    figures: Figures = {}
    for path, value in pairs:
        where = f"--set {path}={value}"
        check_path(path, where)
        typed: Any = _typed(path, value, where) if isinstance(value, str) else value
        if isinstance(typed, np.ndarray | np.generic):
            typed = typed.tolist()
        section: Mapping[str, Any] = typed if path in optional_sections() and isinstance(typed, Mapping) else {}
        for inner, given in _pairs(section, f"{path}.") if section else [(path, typed)]:
            check_path(inner, where)
            figures = laid_over(figures, {inner: Figure(given, SET_BY_USER, where)})
    return figures


def _split(text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise TargetError(f"{text!r} is not of the form path.to.field=value", where="--set", fix="--set array.rows=128")
    return path.strip(), value.strip()


def _pairs(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and (value or path not in optional_sections()):
            yield from _pairs(value, f"{path}.")
        else:
            yield path, value


def _typed(path: str, text: str, where: str) -> Any:
    """The value a text stands for: itself in a text field, else a YAML scalar or list."""
    annotation = field_table()[path].annotation
    if annotation is str:
        return text
    if not text:
        raise TargetError("no value given", where=where, fix=f"--set {path}=null, where nothing is meant")
    if "," in text and not text.startswith(("[", "{")):
        text = f"[{text}]"
    value = parse_yaml(text, where)[0]
    # A list of any length may have one entry; of a pair, a number is an error to be told.
    return [value] if Ellipsis in get_args(annotation) and type(value) in (int, float) else value
