"""The conductance grid of reads through wires where no device is noisy."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np

from cimc.runtime.layout import Grid
from cimc.runtime.read_spec import ReadSpec

#: Steps of each sign that an int16 holds, with room for rounding; fewer than the other number would be too coarse a grid.
_MOST, _LEAST = 2**15 - 2, 2**12


def on_wires(spec: ReadSpec) -> ReadSpec:
    """The read with a grid for effective conductances, if its own is that of levels, on which these do not lie.

    The grid that `Plan` takes then is as fine as float32, and its products are ten times slower than those of int16. Here there
    are up to 65,532 steps from 0 to g_max, as many as keep a column's sum below 2**31. They are finer than resistances of wires
    are known, and products of int16 serve: a cell is rounded by at most 8 millionths of g_max, in very tall arrays by 61.
    """
    if spec.grid.slack == inf or spec.coding.bits is None:
        return spec
    half = min(_MOST, (2**31 - 1) // (int(np.diff(spec.row_cuts).max()) * max(1, spec.coding.largest)))
    # Conductances lie between 0 and g_max, differences of pairs on both sides of 0.
    ends = min(0.0, spec.grid.g_min_us), spec.grid.g_max_us
    return replace(spec, grid=Grid(*ends, 2 * half)) if half >= _LEAST else spec
