"""An approximate transfer matrix in a few operations a cell.

To first order ``T = g A B``. A is the potential of each cell of a word line per volt, where the line is a ladder whose cells
lead to 0 V; B is the share of a cell's current that is sensed, from the same ladder of its bit line. What this leaves out: a
current down a bit line raises the potential of that line and so, through its cells, of the other word lines; these push
current into all bit lines. In the correction each word line follows the mean bit line::

    T[r, c] = (g A B)[r, c] + mean over c of (g A)[r, c] * z[r, c]
    z[:, c] = potentials of the mean bit line for the currents (g (1 - A) B)[:, c] into its cells

This is exact up to the product of the two drops where the cells of a word line are alike. Where word lines drop more than bit
lines, the two change places, as the network is reciprocal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.atomic import bound
from cimc.runtime.jit import kernel
from cimc.runtime.rng import Scalar
from cimc.runtime.team import Crew, share

Array = NDArray[Any]

#: First lines that are solved at a time, so that they stay in the nearest cache.
_TOGETHER = 16


@kernel(error_model="numpy")
def _ladders(cells: Array, series: Array, leak: Array, step: Array, out: Array) -> None:
    """Potentials of parallel ladders per volt at their connected ends.

    Args:
        cells: Conductances to 0 V, ``[cells of a line, lines]``, µS.
        series: Of `Line`.
        leak: Of `Line`.
        step: Room of the shape of ``cells``.
        out: The potentials, in the same shape.
    """
    n, m = cells.shape
    if series[0] == 0 or series[n] == 0:
        out[:] = 1
        return
    begin, end = 1 / series[0], 1 / series[n]
    for j in range(m):
        step[0, j] = begin + leak[0] + cells[0, j]
        out[0, j] = begin
    for k in range(1, n):
        resistance, own = series[k], leak[k]
        last_step, this_step, last, this, cell = step[k - 1], step[k], out[k - 1], out[k], cells[k]
        for j in range(m):
            fall = 1 / (1 + resistance * last_step[j])
            this_step[j] = last_step[j] * fall + own + cell[j]
            this[j] = last[j] * fall
            last_step[j] = fall
    for j in range(m):
        out[n - 1, j] = (out[n - 1, j] + end) / (step[n - 1, j] + end)
    for k in range(n - 2, -1, -1):
        resistance, this_step, this, after = series[k + 1], step[k], out[k], out[k + 1]
        for j in range(m):
            this[j] = (after[j] + resistance * this[j]) * this_step[j]


@kernel(error_model="numpy")
def _respond(cells: Array, series: Array, leak: Array, currents: Array) -> None:
    """Potentials of one ladder for each of some sets of currents into its cells, in their place; its ends are at 0 V.

    Args:
        cells: Conductances to 0 V, ``[cells of the line]``, µS; used up.
        series: Of `Line`.
        leak: Of `Line`.
        currents: ``[cells of the line, sets]``.
    """
    n, m = currents.shape
    if series[0] == 0 or series[n] == 0:
        currents[:] = 0
        return
    cells[0] += 1 / series[0] + leak[0]
    for k in range(1, n):
        fall = 1 / (1 + series[k] * cells[k - 1])
        cells[k] += cells[k - 1] * fall + leak[k]
        cells[k - 1] = fall
        before, this = currents[k - 1], currents[k]
        for j in range(m):
            this[j] += before[j] * fall
    last = 1 / (cells[n - 1] + 1 / series[n])
    for j in range(m):
        currents[n - 1, j] *= last
    for k in range(n - 2, -1, -1):
        fall, resistance, this, after = cells[k], series[k + 1], currents[k], currents[k + 1]
        for j in range(m):
            this[j] = (after[j] + resistance * this[j]) * fall


@kernel(error_model="numpy")
def _block(values: Array, row_at: Array, column_at: Array, rows: Array, reach: Array, columns: Array, out: Array) -> None:
    """One block; the arguments are parts of those of `transfer`."""
    h, w = row_at.size, column_at.size
    row_series, row_leak = rows[: w + 1], rows[w + 1 :]
    column_series, column_leak = columns[: h + 1], columns[h + 1 :]
    g, sensed, step, driven = np.empty((h, w)), np.empty((h, w)), np.empty((h, w)), np.empty((h, w))
    mean, follow, per_reach = np.zeros(h), np.zeros(h), 1 / reach
    for r in range(h):
        own, start = g[r], row_at[r]
        for c in range(w):
            own[c] = values[start + column_at[c]]
    _ladders(g, column_series, column_leak, step, sensed)
    for begin in range(0, h, _TOGETHER):
        count = min(_TOGETHER, h - begin)
        across, room, potential = np.empty((w, count)), np.empty((w, count)), np.empty((w, count))
        for r in range(count):
            own = g[begin + r]
            for c in range(w):
                across[c, r] = own[c]
        _ladders(across, row_series, row_leak, room, potential)
        for r in range(count):
            own, share_sensed, current, used = g[begin + r], sensed[begin + r], driven[begin + r], step[begin + r]
            for c in range(w):
                current[c] = own[c] * potential[c, r]
            total = follows = 0.0
            for c in range(w):
                part = current[c] * per_reach[c]
                total += current[c]
                follows += part
                used[c] = (own[c] - part) * share_sensed[c]
            mean[begin + r], follow[begin + r] = total / w, follows / w
    _respond(follow, column_series, column_leak, step)
    for r in range(h):
        current, share_sensed, pushed, start = driven[r], sensed[r], step[r], row_at[r]
        for c in range(w):
            out[start + column_at[c]] = current[c] * share_sensed[c] + mean[r] * pushed[c]


@kernel(error_model="numpy")
def _blocks(first: Scalar, end: Scalar, _: Scalar, values: Array, blocks: Array, places: Array, lines: Array, out: Array) -> None:
    for n in range(first, end):
        h, w, at, line = blocks[n]
        rows_end = line + 2 * w + 1
        row_at, column_at = places[at : at + h], places[at + h : at + h + w]
        rows, reach = lines[line:rows_end], lines[rows_end : rows_end + w]
        _block(values, row_at, column_at, rows, reach, lines[rows_end + w : rows_end + w + 2 * h + 1], out)


@kernel(error_model="numpy")
def transfer(crew: Crew, values: Array, blocks: Array, places: Array, lines: Array, out: Array) -> None:
    """Effective conductances of blocks, µS.

    Args:
        crew: Of threads; bytes do not depend on it.
        values: Conductances, flat.
        blocks: ``[blocks, 4]``: number of first and of second lines of each, and where its parts of ``places`` and ``lines``
            start. First lines are those that drop less.
        places: Of each block: where its first lines start in ``values``, then each of its second lines' offset.
        lines: Of each block: ``series_mohm``, ``leak_us`` and ``reach`` of first lines, ``series_mohm`` and ``leak_us`` of
            second lines.
        out: The result, as ``values``; what belongs to no block stays.
    """
    share(crew, len(blocks), bound(_blocks, (values, blocks, places, lines, out)))
