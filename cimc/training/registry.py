"""Choosing by name with messages for people: optimizers, schedules, update rules."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from cimc.errors import CimcError

T = TypeVar("T")


def chosen(table: Mapping[str, T], name: str, kind: str) -> T:
    """The entry of that name.

    Raises:
        CimcError: There is none; the nearest is named.
    """
    if not isinstance(name, str):
        what = f"the {kind} is a {type(name).__name__}, not the name of one"
        raise CimcError(what, fix=f"one of: {', '.join(table)}; settings go by name beside it")
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    raise CimcError(f"there is no {kind} {name!r}", fix=f"{near[0]}?" if near else f"one of: {', '.join(table)}")


def made(cls: type[T], kind: str, given: tuple[Any, ...], options: Mapping[str, Any]) -> T:
    """``cls(*given, **options)``.

    Raises:
        CimcError: It takes no such option.
    """
    known = list(inspect.signature(cls).parameters)[len(given) :]
    unknown = [name for name in options if name not in known]
    if unknown:
        fix = f"its options: {', '.join(known)}" if known else "it has no options"
        raise CimcError(f"{kind} {cls.__name__.lower()} has no option {unknown[0]!r}", fix=fix)
    return cls(*given, **options)
