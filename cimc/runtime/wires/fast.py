"""An approximate transfer matrix in a few operations a cell.

To first order ``T = g A B``. A is the potential of each cell of a word line per volt, where the line is a ladder whose cells
lead to 0 V; B is the share of a cell's current that is sensed, from the same ladder of its bit line. What this leaves out: a
current down a bit line raises the potential of that line and so, through its cells, of the other word lines; these push
current into all bit lines. For the correction the raised bit lines have potentials in the proportion p from one to the next,
the same at all word lines. Word line k follows with the potentials y[k] per volt of their mean, and that mean is the
potential of one ladder, the mean bit line, whose cells conduct the mean of ``g (p - y)``::

    T[r, c] = (g A B)[r, c] + mean over c of (g A)[r, c] * z[r, c]
    z[:, c] = potentials of the mean bit line for the currents (g y B)[:, c] into its cells

This is exact up to the product of the two drops where the cells of a word line are alike. The currents into the bit lines are
in the proportion of A, and word lines level the potentials out; p is taken half-way between A's mean and 1, a choice that was
fitted to exact solutions. Where word lines drop more than bit lines, the two change places, as the network is reciprocal.
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
def _ladders(cells: Array, series: Array, leak: Array, volt: float, step: Array, out: Array) -> None:
    """Potentials of parallel ladders.

    Args:
        cells: Conductances to 0 V, ``[cells of a line, lines]``, µS.
        series: Of `Line`.
        leak: Of `Line`.
        volt: At their connected ends.
        step: Room of the shape of ``cells``.
        out: Currents into the cells in the same shape; the potentials take their place.
    """
    n, m = cells.shape
    if series[0] == 0 or series[n] == 0:
        out[:] = volt
        return
    begin, end = 1 / series[0], 1 / series[n]
    for j in range(m):
        step[0, j] = begin + leak[0] + cells[0, j]
        out[0, j] += begin * volt
    for k in range(1, n):
        resistance, own = series[k], leak[k]
        last_step, this_step, last, this, cell = step[k - 1], step[k], out[k - 1], out[k], cells[k]
        for j in range(m):
            fall = 1 / (1 + resistance * last_step[j])
            this_step[j] = last_step[j] * fall + own + cell[j]
            this[j] += last[j] * fall
            last_step[j] = fall
    for j in range(m):
        out[n - 1, j] = (out[n - 1, j] + end * volt) / (step[n - 1, j] + end)
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
def _across(cells: Array, factor: Array, series: Array, leak: Array, volt: float, out: Array) -> None:
    """Potentials of word lines, ``[lines, cells]``, for currents ``cells * factor`` into their cells; see `_ladders`."""
    h, w = cells.shape
    for begin in range(0, h, _TOGETHER):
        count = min(_TOGETHER, h - begin)
        turned, room, potential = np.empty((w, count)), np.empty((w, count)), np.empty((w, count))
        for r in range(count):
            own = cells[begin + r]
            for c in range(w):
                turned[c, r] = own[c]
                potential[c, r] = own[c] * factor[c]
        _ladders(turned, series, leak, volt, room, potential)
        for r in range(count):
            own = out[begin + r]
            for c in range(w):
                own[c] = potential[c, r]


@kernel(error_model="numpy")
def _block(values: Array, row_at: Array, column_at: Array, rows: Array, columns: Array, out: Array) -> None:
    """One block; the arguments are parts of those of `transfer`."""
    h, w = row_at.size, column_at.size
    row_series, row_leak = rows[: w + 1], rows[w + 1 :]
    column_series, column_leak = columns[: h + 1], columns[h + 1 :]
    g, sensed, step, driven = np.empty((h, w)), np.zeros((h, w)), np.empty((h, w)), np.empty((h, w))
    for r in range(h):
        own, start = g[r], row_at[r]
        for c in range(w):
            own[c] = values[start + column_at[c]]
    _ladders(g, column_series, column_leak, 1.0, step, sensed)
    _across(g, np.zeros(w), row_series, row_leak, 1.0, driven)
    proportion, current, conducted = np.zeros(w), np.zeros(h), np.zeros(h)
    for r in range(h):
        proportion += driven[r]
    proportion = 0.5 + 0.5 * w / proportion.sum() * proportion
    _across(g, proportion, row_series, row_leak, 0.0, step)
    for r in range(h):
        own, share_sensed, through, followed = g[r], sensed[r], driven[r], step[r]
        for c in range(w):
            through[c] *= own[c]
            current[r] += through[c]
            conducted[r] += own[c] * (proportion[c] - followed[c])
            followed[c] *= own[c] * share_sensed[c]
        current[r] /= w
        conducted[r] /= w
    _respond(conducted, column_series, column_leak, step)
    for r in range(h):
        through, share_sensed, pushed, start = driven[r], sensed[r], step[r], row_at[r]
        for c in range(w):
            out[start + column_at[c]] = through[c] * share_sensed[c] + current[r] * pushed[c]


@kernel(error_model="numpy")
def _blocks(first: Scalar, end: Scalar, _: Scalar, values: Array, blocks: Array, places: Array, lines: Array, out: Array) -> None:
    for n in range(first, end):
        h, w, at, line = blocks[n]
        rows_end = line + 2 * w + 1
        row_at, column_at = places[at : at + h], places[at + h : at + h + w]
        rows, columns = lines[line:rows_end], lines[rows_end : rows_end + 2 * h + 1]
        _block(values, row_at, column_at, rows, columns, out)


@kernel(error_model="numpy")
def transfer(crew: Crew, values: Array, blocks: Array, places: Array, lines: Array, out: Array) -> None:
    """Effective conductances of blocks, µS.

    Args:
        crew: Of threads; bytes do not depend on it.
        values: Conductances, flat.
        blocks: ``[blocks, 4]``: number of first and of second lines of each, and where its parts of ``places`` and ``lines``
            start. First lines are those that drop less.
        places: Of each block: where its first lines start in ``values``, then each of its second lines' offset.
        lines: Of each block: ``series_mohm`` and ``leak_us`` of first lines, then of second lines.
        out: The result, as ``values``; what belongs to no block stays.
    """
    share(crew, len(blocks), bound(_blocks, (values, blocks, places, lines, out)))
