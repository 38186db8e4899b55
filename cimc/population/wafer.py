"""A map of a wafer: which dice there are, where they lie, and which fields of the target each has for itself."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from cimc.errors import CimcError, DataError, TargetError
from cimc.targets.settings import parse_settings

_MAX_BYTES = 1 << 26
#: Largest coordinate, mm.
_FAR = 1e6
_HEAD = "seed,x_mm,y_mm,device.programming.sigma_us"


@dataclass(frozen=True)
class Wafer:
    """Dice of a wafer.

    Attributes:
        seeds: Of the dice.
        x_mm: Where each lies, from the middle of the wafer; (): not known.
        y_mm: Likewise.
        settings: Of each die: fields of the target by path that it has for itself; {}: none.

    Raises:
        CimcError: The lengths differ, there is no die, a seed is given twice, or a number is out of range.
    """

    seeds: tuple[int, ...]
    x_mm: tuple[float, ...] = ()
    y_mm: tuple[float, ...] = ()
    settings: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        count = len(self.seeds)
        lengths = {"x_mm": len(self.x_mm), "y_mm": len(self.y_mm), "settings": len(self.settings)}
        wrong = [f"{length} {name}" for name, length in lengths.items() if length not in (0, count)]
        if wrong or not count or bool(self.x_mm) != bool(self.y_mm):
            raise CimcError(f"{count} seeds, but {', '.join(wrong) or 'half a position'}", where="wafer", fix="one for each die")
        twice = [seed for seed, number in zip(*np.unique(self.seeds, return_counts=True), strict=True) if number > 1]
        if twice:
            raise CimcError(f"die {twice[0]} is there twice", where="wafer", fix="give each die one row")
        if not all(0 <= seed < 2**62 for seed in self.seeds):
            raise CimcError("a seed is not from 0 to below 2**62", where="wafer")
        if not all(isfinite(v) and abs(v) <= _FAR for v in (*self.x_mm, *self.y_mm)):
            raise CimcError(f"a position is not from -{_FAR:g} to {_FAR:g} mm", where="wafer")

    def of(self, die: int) -> Mapping[str, Any]:
        """Fields of a die by its number in the map."""
        return self.settings[die] if self.settings else {}

    def only(self, seeds: Sequence[int]) -> Wafer:
        """The map of these of its dice, in their order."""
        number = {seed: n for n, seed in enumerate(self.seeds)}
        some = [number[seed] for seed in seeds]
        x, y = (tuple(v[n] for n in some) if v else () for v in (self.x_mm, self.y_mm))
        return Wafer(tuple(seeds), x, y, tuple(self.of(n) for n in some))

    def placed(self, die: int) -> dict[str, float]:
        """Position of a die by its number in the map; {} where it is not known."""
        return {"x_mm": self.x_mm[die], "y_mm": self.y_mm[die]} if self.x_mm else {}

    def columns(self) -> dict[str, list[float]]:
        """What a figure of the dice may follow: ``x_mm``, ``y_mm``, ``radius_mm``, and fields that are a number on each die."""
        found: dict[str, list[float]] = {}
        if self.x_mm:
            found = {"x_mm": list(self.x_mm), "y_mm": list(self.y_mm), "radius_mm": np.hypot(self.x_mm, self.y_mm).tolist()}
        for path in dict.fromkeys(path for own in self.settings for path in own):
            values = [own.get(path) for own in self.settings]
            if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
                found[path] = [float(value) for value in values if value is not None]
        return found

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"dice": [{"seed": seed, **self.placed(n), "settings": dict(self.of(n))} for n, seed in enumerate(self.seeds)]}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Wafer:
        """From the JSON form; KeyError, TypeError, ValueError or CimcError where it is none."""
        dice: Sequence[Mapping[str, Any]] = found["dice"]
        x, y = (tuple(float(die[name]) for die in dice if name in die) for name in ("x_mm", "y_mm"))
        return cls(tuple(int(die["seed"]) for die in dice), x, y, tuple(dict(die["settings"]) for die in dice))


def read_wafer(path: str | Path) -> Wafer:
    """A map from a CSV file: a row a die; a column ``seed`` (or ``die``), ``x_mm`` and ``y_mm`` if they are known, and fields.

    A further column is a field of the target by its path. Values are written as ``--set`` takes them; an empty cell leaves a die
    the value of the program. Rows that begin with # are left out.

    Raises:
        DataError: The file cannot be read, or a column or a cell is none of these.
        TargetError: A field that no target has.
    """
    path, where = Path(path), f"{path}, row 1"
    rows = [(n, row) for n, row in enumerate(_rows(path), 1) if any(cell.strip() for cell in row) and not row[0].startswith("#")]
    if len(rows) < 2:
        raise DataError("the map holds no die", where=str(path), fix=f"a head such as {_HEAD}, then a row a die")
    head = ["seed" if cell.strip() == "die" else cell.strip() for cell in rows[0][1]]
    if len(set(head)) < len(head):
        raise DataError("a column is there twice", where=where, fix=f"columns such as {_HEAD}")
    if "seed" not in head or ("x_mm" in head) != ("y_mm" in head):
        raise DataError("lacks a column: seed, or one of x_mm and y_mm", where=where, fix=f"columns such as {_HEAD}")
    numbers: dict[str, list[float]] = {"x_mm": [], "y_mm": []}
    seeds: list[int] = []
    settings: list[dict[str, Any]] = []
    for number, row in rows[1:]:
        where = f"{path}, row {number}"
        if len(row) != len(head):
            raise DataError(f"{len(row)} cells under {len(head)} columns", where=where)
        cells = {name: cell.strip() for name, cell in zip(head, row, strict=True)}
        seed = cells.pop("seed")
        if not (seed.isascii() and seed.isdecimal() and len(seed) <= 18):
            raise DataError(f"{seed!r} is no seed", where=f"{where}, column seed", fix="a whole number from 0 on")
        seeds.append(int(seed))
        for name in numbers:
            if name in cells:
                numbers[name].append(_number(cells.pop(name), f"{where}, column {name}"))
        try:
            given = parse_settings({name: cell for name, cell in cells.items() if cell})
        except TargetError as error:
            raise TargetError(error.what, where=where, fix=error.fix or f"columns such as {_HEAD}") from error
        settings.append({name: figure.value for name, figure in given.items()})
    return Wafer(tuple(seeds), tuple(numbers["x_mm"]), tuple(numbers["y_mm"]), tuple(settings))


def _rows(path: Path) -> list[list[str]]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"is larger than {_MAX_BYTES >> 20} MB", where=str(path))
        return list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline=""), skipinitialspace=True))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("is no CSV file in UTF-8", where=str(path)) from error


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise DataError(f"{text!r} is no number", where=where, fix="millimetres from the middle of the wafer")
    return value
