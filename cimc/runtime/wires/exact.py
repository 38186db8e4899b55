"""The exact transfer matrix: the network is eliminated word line by word line.

A word line with potentials u is a line with impedance Z (MΩ) that loses a current J into its cells: ``u = reach * V - Z J``.
With the potentials b of the bit lines ``J = g * (u - b)``. So ``J = Q (reach * V - b)``, where ``Q = (1 + g Z)^-1 g``.

The bit lines are a chain of such rows. Seen from below, the rows down to k are a source of current N (one column for each word
line's volt) with admittance Y. A resistance s to the next row makes of them ``X N`` and ``X Y``, where ``X = (1 + s Y)^-1``;
the next row adds its Q and its source. Matrices of one row's size are all that is inverted, none of them singular, and
resistances may be 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.wires.lines import F64, Line


def transfer_us(g_us: NDArray[Any], word_line: Line, bit_line: Line) -> F64:
    """Effective conductances of blocks whose lines have resistance, exact to rounding.

    Args:
        g_us: Conductances, µS, ``[..., word lines, bit lines]``.
        word_line: Each of the word lines, with as many cells as there are bit lines; its connected ends are driven.
        bit_line: Each of the bit lines; its connected ends are sensed, and their currents add up.

    Returns:
        ``[..., word lines, bit lines]``, µS: current into the sensed ends per volt at the driven ends of one
        word line, while the ends of all other lines are at 0 V.
    """
    g = np.asarray(g_us, np.float64)
    rows, columns = g.shape[-2:]
    if rows < columns:  # the network is reciprocal; the other way the matrices are smaller
        return np.ascontiguousarray(transfer_us(g.swapaxes(-1, -2), bit_line, word_line).swapaxes(-1, -2))
    impedance, reach = word_line.impedance_mohm, word_line.reach
    one = np.eye(columns)
    series, leak = bit_line.series_mohm, bit_line.leak_us
    top = 0.0 if bit_line.ideal else 1 / series[0]
    admittance = np.broadcast_to(top * one, (*g.shape[:-2], columns, columns)).copy()
    source = np.zeros((*g.shape[:-2], columns, rows))
    # Current into the first ends: what flows there from the present row's potentials, and directly from sources.
    from_row, at_first = admittance.copy(), np.zeros_like(source)
    for k in range(rows):
        own = g[..., k, :, None]
        cells = np.linalg.solve(one + own * impedance, own * one)
        source[..., k] = cells @ reach
        if bit_line.ideal:
            continue
        admittance += cells + leak[k] * one
        if np.isinf(series[k + 1]):
            potentials = np.linalg.solve(admittance, source)
            return np.ascontiguousarray((at_first + from_row @ potentials).swapaxes(-1, -2))
        if series[k + 1] == 0:
            continue
        passed, found = np.linalg.inv(one + series[k + 1] * admittance), source[..., : k + 1]
        found[...] = passed @ found
        if top:
            at_first[..., : k + 1] += series[k + 1] * (from_row @ found)
            from_row = from_row @ passed
        admittance = passed @ admittance
    return np.ascontiguousarray((source + at_first).swapaxes(-1, -2))
