"""What wires do to an array: how far its currents drop, and how far the fast solver is off."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from cimc.runtime.wires.effective import effective_us
from cimc.targets.description import Target, Wires

#: Lines of the array that is solved; a larger one is bundled to at most as many.
_LINES = 64
#: Random voltages that currents are compared at.
_VECTORS = 20
#: Error of a current, relative, above which the fast solver is called rough.
_ROUGH = 0.01


@dataclass(frozen=True)
class Estimate:
    """Of an array whose cells hold random conductances, uniform over the window."""

    mean_drop: float
    """Share of the current that is lost with all word lines driven, over all bit lines."""
    largest_drop: float
    """The same of the bit line that loses most."""
    fast_error: float
    """Largest error of a bit line's current by the fast solver, in parts of that current: all word lines driven, and random
    voltages."""


def estimate(target: Target, rows: int, columns: int) -> Estimate:
    """Both solvers on one array of the target.

    Of more than 64 lines, neighbours are bundled to one line of the same resistance all in all, so that it takes less than
    0.1 s. For arrays of 128 and 256 lines the drop found is right to 0.01, and the error mostly within a factor of two.

    Args:
        target: With wires.
        rows: Word lines.
        columns: Bit lines.
    """
    wires = target.array.wires
    if wires is None:
        return Estimate(0.0, 0.0, 0.0)
    return _estimate(wires, target.device.g_min_us, target.device.g_max_us, rows, columns)


@cache
def _estimate(wires: Wires, g_min_us: float, g_max_us: float, rows: int, columns: int) -> Estimate:
    down, right = -(-rows // _LINES), -(-columns // _LINES)
    shape = rows // down, columns // right
    random = np.random.default_rng(0)
    # Cells of a bundle are alike: that is a rougher array than the real one, and the error is rather found too large.
    g = down * right * random.uniform(g_min_us, g_max_us, shape)
    # Cells of a bundle lie at its middle, so the way to the end of a line is shorter than a whole bundle.
    bundled = wires.model_copy(
        update={
            "row_segment_ohm": wires.row_segment_ohm * right / down,
            "column_segment_ohm": wires.column_segment_ohm * down / right,
            "driver_ohm": max(0.0, wires.driver_ohm - wires.row_segment_ohm * (right - 1) / 2) / down,
            "sense_ohm": max(0.0, wires.sense_ohm - wires.column_segment_ohm * (down - 1) / 2) / right,
        }
    )
    fast, exact = (
        effective_us(g, bundled.model_copy(update={"solver": solver})).astype(np.float64) for solver in ("fast", "exact")
    )
    drive = np.concatenate([np.ones((1, shape[0])), random.random((_VECTORS, shape[0]))])
    share = exact.sum(axis=0) / g.sum(axis=0)
    error = np.abs((drive @ fast) / (drive @ exact) - 1).max()
    return Estimate(1 - float(exact.sum() / g.sum()), 1 - float(share.min()), float(error))


def sentence(found: Estimate, rows: int, columns: int, solver: str) -> str:
    """An estimate for people."""
    text = (
        f"IR drop of a {rows}x{columns} array of random conductances, all word lines driven: "
        f"{_percent(found.mean_drop)} of the current, {_percent(found.largest_drop)} of the worst bit line's"
    )
    if solver == "exact":
        return text
    text += f"; the fast solver's currents are off by about {_percent(found.fast_error)}"
    return text + (", so use --set array.wires.solver=exact" if found.fast_error > _ROUGH else "")


def _percent(share: float) -> str:
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %" if value >= 1e-3 else "0.001 %"


def describe(target: Target) -> str | None:
    """What wires do to the arrays of a target; None where it has none."""
    array = target.array
    if array.wires is None:
        return None
    if array.rows is None or array.columns is None:
        return "IR drop: depends on the size of each layer, as the arrays have no limit"
    shape = array.rows, array.columns + array.unit_column
    return sentence(estimate(target, *shape), *shape, array.wires.solver)


def warn_if_rough(target: Target, shapes: Iterable[tuple[int, int]]) -> None:
    """Warn where the fast solver's error passes 1 % on the target's array; on the largest block where arrays have no limit."""
    array = target.array
    if array.wires is None or array.wires.solver == "exact":
        return
    rows, columns = (max((shape[axis] for shape in shapes), default=1) for axis in (0, 1))
    rows, columns = array.rows or rows, array.columns + array.unit_column if array.columns else columns
    found = estimate(target, rows, columns)
    if found.fast_error > _ROUGH:
        warnings.warn(f"target {target.name}: {sentence(found, rows, columns, array.wires.solver)}", stacklevel=2)
