"""Read CSV files of measurements. What is wrong is told with file, row and column; row 1 is the head."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cimc.characterisation.headers import Head, head_of
from cimc.characterisation.vocabulary import Column, Table
from cimc.errors import DataError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MAX_BYTES = 1 << 28
#: Largest magnitude of a value, in the unit of its column.
LARGEST = 1e9
_POLARITIES = {"up": 1.0, "set": 1.0, "+": 1.0, "+1": 1.0, "1": 1.0, "down": -1.0, "reset": -1.0, "-": -1.0, "-1": -1.0}
_MISSING = ("", "nan", "na", "n/a", "null", "none")


@dataclass(frozen=True)
class Measured:
    """The rows of one kind of measurement, of all its files."""

    table: Table
    devices: tuple[str, ...]
    """Names of the devices."""
    device: I64
    """Device of each row, by its place in ``devices``, ``[n]``."""
    columns: dict[str, F64]
    """Values by column, ``[n]``, in the units of the vocabulary; polarity is +1 or -1.
    A column that only some files have is left out."""
    source: str
    """Files with their numbers of rows."""
    notes: tuple[str, ...] = ()
    """What the reader left out."""

    def __getitem__(self, name: str) -> F64:
        return self.columns[name]

    def rows(self, kept: NDArray[np.bool_]) -> Measured:
        """The measurement without the other rows; ``kept`` is ``[n]``. Devices keep their numbers."""
        columns = {name: values[kept] for name, values in self.columns.items()}
        return Measured(self.table, self.devices, self.device[kept], columns, self.source, self.notes)


def read_measurements(paths: Sequence[str | Path]) -> dict[str, Measured]:
    """Measurements by name of the table, each of all files that hold it.

    Raises:
        DataError: A file cannot be read, has columns that no measurement has, or a value that is none.
    """
    files = [_read(Path(path)) for path in paths]
    found: dict[str, Measured] = {}
    for name in dict.fromkeys(file.table.name for file in files):
        same = [file for file in files if file.table.name == name]
        names = list(dict.fromkeys(device for file in same for device in file.devices))
        number = {device: n for n, device in enumerate(names)}
        codes = [np.array([number[device] for device in file.devices], np.int64)[file.device] for file in same]
        shared = [column for column in same[0].columns if all(column in file.columns for file in same)]
        found[name] = Measured(
            same[0].table, tuple(names), np.concatenate(codes),
            {column: np.concatenate([file[column] for file in same]) for column in shared},
            "; ".join(file.source for file in same), tuple(note for file in same for note in file.notes),
        )  # fmt: skip
    return found


def _read(path: Path) -> Measured:
    text = _text(path)
    lines = [line for line in text.split("\n", 200) if line.strip() and not line.startswith("#")]
    if not lines:
        raise DataError("the file holds no row", where=str(path), fix="cimc device template writes files with the right head")
    delimiter = max(",;\t", key=lines[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    head: Head | None = None
    names: dict[str, int] = {}
    device: list[int] = []
    values: dict[str, list[float]] = {}
    left_out = 0
    try:
        for row in rows:
            if not any(cell.strip() for cell in row) or row[0].startswith("#"):
                continue
            if head is None:
                head = head_of(row, str(path))
                columns = [column for column in head.table.columns if column.name in head.places and column.name != "device"]
                values = {column.name: [] for column in columns}
                continue
            where = f"{path}, row {rows.line_num}"
            if len(row) < 1 + max(head.places.values()):
                what = f"the row has {len(row)} values, its head has {1 + max(head.places.values())} or more"
                raise DataError(what, where=where, fix="complete the row, or take it out")
            cells = {name: row[place].strip() for name, place in head.places.items()}
            if any(cell.lower() in _MISSING for cell in cells.values()):
                left_out += 1
                continue
            device.append(names.setdefault(cells["device"], len(names)))
            for column in columns:
                values[column.name].append(_value(cells[column.name], column, head, delimiter, where))
    except csv.Error as error:
        raise DataError(f"no CSV: {error}", where=f"{path}, row {rows.line_num}", fix="save it as plain CSV") from None
    if head is None or not device:
        raise DataError("no row has all values", where=str(path), fix="a row for each record, below the head")
    notes = [f"{path.name}: the columns {', '.join(head.ignored)} are not used"] if head.ignored else []
    notes += [f"{path.name}: {left_out} rows with an empty value are left out"] if left_out else []
    arrays = {name: np.array(numbers, np.float64) for name, numbers in values.items()}
    return Measured(
        head.table, tuple(names), np.array(device, np.int64), arrays, f"{path.name}, {len(device)} rows", tuple(notes)
    )


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise DataError("this is a folder, not a file", where=str(path), fix="name the CSV files in it")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise DataError("there is no such file", where=str(path)) from None
    except (OSError, ValueError) as error:
        raise DataError(f"the file cannot be read: {getattr(error, 'strerror', None) or error}", where=str(path)) from None
    if len(raw) > MAX_BYTES:
        raise DataError(f"the file is larger than {MAX_BYTES:,} bytes", where=str(path), fix="cut it into several files")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")  # as spreadsheets write it


def _value(text: str, column: Column, head: Head, delimiter: str, where: str) -> float:
    """A cell in the unit of the vocabulary.

    Raises:
        DataError: It is no such value.
    """
    place = f"{where}, column {column.name}"
    if column.quantity == "polarity":
        if text.lower() not in _POLARITIES:
            raise DataError(f"{text[:40]!r} is no polarity", where=place, fix="up or down")
        return _POLARITIES[text.lower()]
    try:
        number = float(text.replace(",", ".") if delimiter == ";" else text.replace("_", "?"))
    except ValueError:
        raise DataError(f"{text[:40]!r} is no number", where=place, fix="digits with a decimal point, as 12.5") from None
    if column.name in head.inverted:
        if number <= 0:
            raise DataError(f"a resistance of {text[:40]} has no conductance", where=place, fix="a value above 0")
        number = head.factors[column.name] / number
    else:
        number *= head.factors.get(column.name, 1.0)
    if not abs(number) <= LARGEST:
        raise DataError(f"{text[:40]} is beyond {LARGEST:g} of {column.unit or 'its kind'}", where=place, fix="check the unit")
    if number < 0 and not column.signed:
        raise DataError(f"{text[:40]} lies below 0", where=place, fix=f"{column.meaning}: at least 0")
    return number
