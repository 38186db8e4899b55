"""From the head of a CSV file to the measurement that it holds, and the factor of each column's unit."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cimc.characterisation.vocabulary import RESISTANCES, TABLES, UNITS, Column, Table
from cimc.errors import DataError

Convert = Callable[[float], float]


@dataclass(frozen=True)
class Head:
    """What the columns of a file are."""

    table: Table
    places: Mapping[str, int]
    """Number of the file's column by name of the vocabulary."""
    factors: Mapping[str, float]
    """Of a column in a unit of its own: what its values are multiplied with."""
    inverted: frozenset[str]
    """Columns of resistances: the factor is divided by the value."""
    ignored: tuple[str, ...]
    """Columns of the file that no measurement has."""


def plain(text: str) -> str:
    """A column's title in the form of the vocabulary: ``Goal (µS)`` is ``goal_us``."""
    text = text.strip().lower().replace("µ", "u").replace("μ", "u").replace("ω", "ohm").replace("Ω", "ohm")
    return re.sub(r"[^a-z0-9]+", "_", text).strip("_")


def head_of(titles: Sequence[str], where: str) -> Head:
    """The measurement whose columns a file has.

    Raises:
        DataError: No measurement has these columns, or two columns are the same.
    """
    names = [plain(title) for title in titles]
    found = [_found(table, names) for table in TABLES.values()]
    complete = [(table, places) for table, places in found if set(table.needed) <= set(places)]
    if not complete:
        raise _refused(names, where)
    table, places = max(complete, key=lambda one: len(one[1]))
    for name, many in places.items():
        if len(many) > 1:
            what = f"the columns {' and '.join(titles[n] for n in many)} both give {name}"
            raise DataError(what, where=where, fix="keep one of them")
    factors, inverted = {}, set()
    for column in table.columns:
        if column.name in places and column.unit is not None:
            unit = names[places[column.name][0]].rpartition("_")[2]
            factors[column.name] = RESISTANCES[unit] if unit in RESISTANCES else UNITS[column.quantity][unit]
            inverted |= {column.name} if unit in RESISTANCES else set()
    used = {n for many in places.values() for n in many}
    ignored = tuple(title for n, title in enumerate(titles) if n not in used and title.strip())
    return Head(table, {name: many[0] for name, many in places.items()}, factors, frozenset(inverted), ignored)


def _found(table: Table, names: Sequence[str]) -> tuple[Table, dict[str, list[int]]]:
    """Columns of a table that a file has, in any unit."""
    places: dict[str, list[int]] = {}
    for column in table.columns:
        many = [n for n, name in enumerate(names) if name in _spellings(column)]
        if many:
            places[column.name] = many
    return table, places


def _spellings(column: Column) -> set[str]:
    if column.unit is None:
        return {column.name}
    units = set(UNITS[column.quantity]) | (set(RESISTANCES) if column.quantity == "conductance" else set())
    return {f"{column.base}_{unit}" for unit in units}


def _refused(names: Sequence[str], where: str) -> DataError:
    """What the nearest measurement lacks, and which column was perhaps meant."""
    table, places = max((_found(table, names) for table in TABLES.values()), key=lambda one: len(one[1]) / len(one[0].needed))
    columns = {column.name: column for column in table.columns}
    missing = [name for name in table.needed if name not in places]
    for name in missing:
        base = columns[name].base
        if columns[name].unit is not None and base in names:
            what = f"the column {base} states no unit"
            return DataError(what, where=f"{where}, row 1", fix=f"call it {name}, or {base}_ and another unit")
    near = [(name, close[0]) for name in missing if (close := difflib.get_close_matches(name, names, n=1, cutoff=0.6))]
    hints = [f"{close} becomes {name}" for name, close in near]
    needs = "; ".join(f"{each.name}: {', '.join(each.needed)}" for each in TABLES.values())
    return DataError(
        f"a file of {table.name} has no column {' and no column '.join(missing)}"
        if places
        else "no measurement has such columns",
        where=f"{where}, row 1",
        fix=", ".join(hints) if hints else f"the columns of each measurement: {needs} (cimc device template writes empty files)",
    )
