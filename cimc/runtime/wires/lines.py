"""The lines of a block of cells, as they lie in the array."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

#: Resistances are kept in megaohm, so that their product with a conductance in µS has no unit.
MEGAOHM_PER_OHM = 1e-6
#: A resistance below this counts as none.
_LEAST_OHM = 1e-9
#: A resistance, MΩ, that lets no current through. Very long stretches of leaking cells come to more.
_APART_MOHM = 1e12


@dataclass(frozen=True)
class Line:
    """A line with n cells of a block, all of whose parallel lines are alike.

    Cells that lie between two cells of the block, or between the block and an end, conduct to lines at 0 V. Each stretch of
    them is replaced by an equivalent resistance and a leak at either side, which changes no current of the block.
    """

    series_mohm: F64
    """``[n + 1]``, MΩ: from the first end of the line to the first cell, from cell to cell, from the last cell to the last end;
    inf where an end is open."""
    leak_us: F64
    """``[n]``, µS: from the line to 0 V at each cell."""

    @classmethod
    def of(
        cls,
        positions: NDArray[np.int64],
        length: int,
        segment_ohm: float,
        end_ohm: float,
        ends: tuple[bool, bool],
        other_us: float,
    ) -> Line:
        """A line of an array.

        Args:
            positions: Where the block's cells lie on the line, rising.
            length: Cells of the whole line.
            segment_ohm: Resistance from one cell to the next, and from a cell at an end of the line to that end.
            end_ohm: Resistance behind an end: of a driver or a sense circuit.
            ends: Whether the first and the last end are connected; at least one is.
            other_us: Conductance of the line's cells that are not of the block.
        """
        segment, end = (ohm * MEGAOHM_PER_OHM if ohm >= _LEAST_OHM else 0.0 for ohm in (segment_ohm, end_ohm))
        series, leak = np.full(len(positions) + 1, inf), np.zeros(len(positions))
        before = np.diff(positions, prepend=-1) - 1
        for k in range(1, len(positions)):
            series[k], at_start, at_end = _stretch(int(before[k]), segment, segment, other_us)
            leak[k - 1] += at_start
            leak[k] += at_end
        for connected, cell, place, cells in (
            (ends[0], 0, 0, int(before[0])),
            (ends[1], -1, -1, length - 1 - int(positions[-1])),
        ):
            if connected:
                series[place], _, at_cell = _stretch(cells, end + segment, segment, other_us)
            else:
                at_cell = _open(cells, segment, other_us)
            leak[cell] += at_cell
        return cls(series, leak)

    @property
    def ideal(self) -> bool:
        """Without any resistance: every cell of the line is at the potential of its end."""
        return bool(self.series_mohm[0] == 0 or self.series_mohm[-1] == 0)

    def potentials(self, currents_ua: NDArray[np.float64], volt: float = 0.0) -> F64:
        """Potentials of the line without its block's cells, V.

        Args:
            currents_ua: Into each cell, ``[n, sets]``; a set is one state of the line.
            volt: At all connected ends.

        Returns:
            ``[n, sets]``.
        """
        out = np.array(currents_ua, np.float64)
        if self.ideal:
            return np.full_like(out, volt)
        begin, end = 1 / self.series_mohm[0], 1 / self.series_mohm[-1]
        out[0] += begin * volt
        towards, falls = begin + self.leak_us[0], np.empty(len(out))  # admittance of all that lies before; a potential's fall
        for k in range(1, len(out)):
            falls[k] = 1 / (1 + self.series_mohm[k] * towards)
            towards = towards * falls[k] + self.leak_us[k]
            out[k] += out[k - 1] * falls[k]
        out[-1] = (out[-1] + end * volt) / (towards + end)
        for k in range(len(out) - 1, 0, -1):
            out[k - 1] = (out[k] + self.series_mohm[k] * out[k - 1]) * falls[k]
        return out

    @cached_property
    def impedance_mohm(self) -> F64:
        """Potential of cell i per current into cell j while the ends are at 0 V, ``[n, n]``."""
        return self.potentials(np.eye(len(self.leak_us)))

    @cached_property
    def reach(self) -> F64:
        """Potential of each cell per volt at the ends, ``[n]``; also the share of a cell's current that leaves by the ends."""
        return self.potentials(np.zeros((len(self.leak_us), 1)), 1.0)[:, 0]

    @cached_property
    def drop_mohm(self) -> float:
        """Mean potential of the cells per current into each of them."""
        return float(self.potentials(np.ones((len(self.leak_us), 1))).mean())


def _stretch(cells: int, first: float, segment: float, other_us: float) -> tuple[float, float, float]:
    """Equivalent of ``cells`` leaking cells between two points: series resistance, leak at the start, leak at the end.

    Args:
        cells: Between the points.
        first: Resistance from the start to the first of them, MΩ.
        segment: From each of them to the next, and to the end.
        other_us: Conductance of each.
    """
    if segment == 0 or cells == 0 or other_us == 0:
        return first + cells * segment, 0.0, cells * other_us
    resistance, conductance = np.array([[1, segment], [0, 1]]), np.array([[1, 0], [other_us, 1]])
    with np.errstate(over="ignore", invalid="ignore"):
        chain = np.array([[1, first], [0, 1]]) @ np.linalg.matrix_power(conductance @ resistance, cells)
    (a, b), (_, d) = chain  # the chain matrix of a two-port, and from it the equivalent pi circuit
    if not b < _APART_MOHM:
        leak = _open(cells, segment, other_us)
        return _APART_MOHM, leak, leak
    return float(b), float((d - 1) / b), float((a - 1) / b)


def _open(cells: int, segment: float, other_us: float) -> float:
    """Leak of ``cells`` cells behind the last one of the block, towards an open end."""
    if segment == 0:
        return cells * other_us
    leak = before = 0.0
    for _ in range(cells):
        leak += other_us
        leak /= 1 + segment * leak
        if leak == before:
            break
        before = leak
    return leak
