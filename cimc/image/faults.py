"""Fault maps: the dead word lines, bit lines and cells of one die.

A file is an npz with any of ``rows`` ``[n, 3]`` (chip, tile, row), ``columns`` ``[n, 3]`` (chip, tile, column) and ``cells``
``[n, 4]`` (chip, tile, row, column), whole numbers; ``die`` may name the die. The unit column of a tile is the bit line after
the last.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import array as array_of
from cimc.errors import DataError
from cimc.npz import read_npz, save_npz

I64 = NDArray[np.int64]

_WIDTHS = {"rows": 3, "columns": 3, "cells": 4}


@dataclass(frozen=True)
class FaultMap:
    """What must not be used; every table sorted, without repeats."""

    rows: I64
    columns: I64
    cells: I64
    die: str = ""

    @classmethod
    def of(cls, rows: object = (), columns: object = (), cells: object = (), die: str = "", where: str = "fault map") -> FaultMap:
        """A fault map of tables as described above.

        Raises:
            DataError: A table is of another shape, or holds what is no place.
        """
        tables = {name: _table(name, value, where) for name, value in (("rows", rows), ("columns", columns), ("cells", cells))}
        if len(die.encode()) > 64:
            raise DataError("the die's name is longer than 64 bytes", where=where)
        return cls(**tables, die=die)

    @classmethod
    def load(cls, path: str | Path) -> FaultMap:
        """Read a file.

        Raises:
            DataError: No such file, or not a fault map.
        """
        arrays = read_npz(path)
        unknown = [name for name in arrays if name not in (*_WIDTHS, "die")]
        if unknown or not arrays:
            what = f"no part of a fault map: {', '.join(unknown)}" if unknown else "the file is empty"
            raise DataError(what, where=str(path), fix="save rows [n, 3], columns [n, 3], cells [n, 4], and die if you like")
        die = str(arrays["die"]) if "die" in arrays else ""
        rows, columns, cells = (arrays.get(name, ()) for name in _WIDTHS)
        return cls.of(rows, columns, cells, die, str(path))

    def save(self, path: str | Path) -> None:
        """Write a file that `load` reads.

        Raises:
            RunError: The file cannot be written.
        """
        tables = {name: getattr(self, name) for name in _WIDTHS}
        save_npz(Path(path), tables | ({"die": np.array(self.die)} if self.die else {}))

    @property
    def sha256(self) -> bytes:
        """Hash of what is dead and of the die's name, the same for any order of the entries."""
        digest = hashlib.sha256(f"cimc-fault-map {self.die}\n".encode())
        for table in (self.rows, self.columns, self.cells):
            digest.update(len(table).to_bytes(8, "little") + table.astype("<i8").tobytes())
        return digest.digest()

    def dead(self, chip: int, tile: int, rows: int, columns: int) -> NDArray[np.bool_]:
        """Dead cells of one tile, ``[rows, columns]``; what lies outside is left out."""
        mask = np.zeros((rows, columns), np.bool_)
        here = [table[(table[:, 0] == chip) & (table[:, 1] == tile), 2:] for table in (self.rows, self.columns, self.cells)]
        mask[here[0][here[0][:, 0] < rows, 0]] = True
        mask[:, here[1][here[1][:, 0] < columns, 0]] = True
        inside = here[2][(here[2] < (rows, columns)).all(axis=1)]
        mask[inside[:, 0], inside[:, 1]] = True
        return mask


def as_fault_map(given: str | Path | FaultMap | None) -> FaultMap | None:
    """A fault map from whatever the user gave; DataError where the file is none."""
    return FaultMap.load(given) if isinstance(given, str | Path) else given


def _table(name: str, value: object, where: str) -> I64:
    width = _WIDTHS[name]
    array = array_of(value, where)
    if array.size == 0:
        return np.zeros((0, width), np.int64)
    if array.ndim != 2 or array.shape[1] != width or array.dtype.kind not in "iu":
        raise DataError(
            f"{name} is {array.dtype.name} {list(array.shape)}", where=where, fix=f"make it whole numbers [n, {width}]"
        )
    if int(array.min()) < 0 or int(array.max()) >= 1 << 31:
        raise DataError(f"{name} holds {int(array.min())} to {int(array.max())}", where=where, fix="count from 0")
    return np.unique(array.astype(np.int64), axis=0)
