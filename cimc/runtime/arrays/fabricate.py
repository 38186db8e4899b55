"""Programming a layer into devices: encoded, written with errors and faults, a part at a time on all threads."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.encoding import Coefficients, encode, has_units, level_step_us, steps_of_full_weight, unit_goal_us
from cimc.ir.weight_codes.pair import DifferentialPair
from cimc.ir.weight_codes.registry import weight_code
from cimc.runtime import rng
from cimc.runtime.arrays.devices import Devices
from cimc.runtime.cells import Cells
from cimc.runtime.devices.model import Arrays
from cimc.runtime.jit import kernel
from cimc.runtime.programmers.whole import NewDevices
from cimc.runtime.rng import Scalar
from cimc.targets.description import Target
from cimc.threads import parallel

F32 = NDArray[np.float32]
Array = NDArray[Any]

#: Weights encoded and programmed at a time: their float64 copies stay in the caches.
CHUNK = 1 << 16


def fabricate(
    matrix: Array,
    weight_max: Array,
    row_cuts: tuple[int, ...],
    unit_cuts: tuple[int, ...],
    target: Target,
    seed: int,
    cells: Cells,
    time_s: float = 0.0,
) -> Devices:
    """Encode a layer and write it.

    Args:
        matrix: ``[groups, rows, columns]``.
        weight_max: ``[1]`` or ``[groups * columns]``.
        row_cuts: Row slices.
        unit_cuts: Cuts between columns that share a unit column or references, from `cimc.ir.encoding.unit_cuts`.
        target: The chip.
        seed: Key of the chip and the layer: of the errors of writing.
        cells: That are written; some may be stuck.
        time_s: When.

    Raises:
        TargetError: The cells of a weight cannot hold its bits, or no such device is known.
    """
    groups, rows, columns = matrix.shape
    slices, planes = len(row_cuts) - 1, target.planes
    new = NewDevices(target, time_s)
    g_us = np.zeros((groups, rows, planes, columns), np.float32)
    arrays = new.arrays(g_us)
    alpha = np.empty((groups, slices, planes, columns))
    unit = np.empty((groups, slices, columns)) if has_units(target) else None
    step = np.empty((groups, columns))
    largest = np.asarray(weight_max).reshape(-1)
    chunks = _chunks(row_cuts, groups, columns)
    if _plain_pair(target):
        # No row decides on a coefficient: encode none to get them, and write goals without copies in between.
        c = encode(matrix[:, :0], weight_max, (0,) * len(row_cuts), target).coefficients
        part = partial(_write_pairs, matrix, largest, row_cuts, target, seed, cells, g_us, arrays, new)
        parallel(lambda n: part(chunks[n]), len(chunks))
        none = np.empty((groups, rows, 0), np.float32)
        return Devices(g_us, none, c, arrays, new.arrays(none))

    def chunk(number: int) -> None:
        some, s0, s1 = chunks[number]
        r0, r1 = row_cuts[s0], row_cuts[s1]
        cuts = tuple(cut - r0 for cut in row_cuts[s0 : s1 + 1])
        part_max = largest if largest.size == 1 else largest.reshape(groups, columns)[some].reshape(-1)
        encoded = encode(matrix[some, r0:r1], part_max, cuts, target)
        alpha[some, s0:s1] = encoded.coefficients.alpha
        if unit is not None:
            unit[some, s0:s1] = encoded.coefficients.unit
        step[some] = encoded.coefficients.weight_step.reshape(-1, columns)
        for g, goals in zip(range(some.start, some.stop), encoded.g_us, strict=True):
            keys = partial(_keys_of, cells, g, s0, s1)
            g_us[g, r0:r1] = goals
            own = {name: array[g, r0:r1] for name, array in arrays.items()}
            new.program(g_us[g, r0:r1], own, seed, (g * rows + r0) * planes * columns, keys)

    parallel(chunk, len(chunks))
    units = len(unit_cuts) - 1 if has_units(target) else 0
    unit_g_us = np.full((groups, rows, units), unit_goal_us(target), np.float32)
    unit_arrays = new.arrays(unit_g_us)
    new.program(unit_g_us, unit_arrays, rng.key(seed, "unit"), 0, cells.unit_keys)
    return Devices(g_us, unit_g_us, Coefficients(alpha, unit, step.reshape(-1)), arrays, unit_arrays)


def _keys_of(cells: Cells, group: int, begin: int, end: int) -> NDArray[np.uint64]:
    """Keys of the cells of some row slices of a group."""
    keys: NDArray[np.uint64] = cells.keys(group, begin, end)[0]
    return keys


def _plain_pair(target: Target) -> bool:
    """Whether a weight is one differential pair and nothing else."""
    return type(weight_code(target)) is DifferentialPair and target.weights.cells == 1 and not has_units(target)


@kernel()
def _pair_goals(
    weights: Array, span: Array, full: Scalar, discrete: Scalar, g_min: Scalar, step_us: Scalar, goals: Array
) -> None:
    """`encode` of one plain pair: ``[rows, columns]`` to µS ``[rows, 2, columns]``, by the same float64 operations."""
    for r in range(weights.shape[0]):
        for c in range(weights.shape[1]):
            steps = min(max(weights[r, c] / span[c], -1.0), 1.0) * full
            if discrete:
                steps = np.rint(steps)
            goals[r, 0, c] = np.float32(g_min + max(steps, 0.0) * step_us)
            goals[r, 1, c] = np.float32(g_min + max(-steps, 0.0) * step_us)


def _write_pairs(
    matrix: Array,
    weight_max: Array,
    row_cuts: tuple[int, ...],
    target: Target,
    seed: int,
    cells: Cells,
    g_us: F32,
    arrays: Arrays,
    new: NewDevices,
    chunk: tuple[slice, int, int],
) -> None:
    """Goals of one chunk into ``g_us``, then what the devices make of them."""
    groups, s0, s1 = chunk
    r0, r1, columns = row_cuts[s0], row_cuts[s1], matrix.shape[2]
    d = target.device
    discrete = bool(target.weights.rounded and (d.levels or target.weights.bits))
    for g in range(groups.start, groups.stop):
        span = np.broadcast_to(weight_max if weight_max.size == 1 else weight_max.reshape(-1, columns)[g], (columns,))
        span = np.where(span > 0, span, 1.0).astype(np.float64)
        weights = np.ascontiguousarray(matrix[g, r0:r1])
        weights = weights if weights.dtype == np.float64 else weights.astype(np.float32, copy=False)
        _pair_goals(weights, span, steps_of_full_weight(target), discrete, d.g_min_us, level_step_us(target), g_us[g, r0:r1])
        keys = partial(_keys_of, cells, g, s0, s1)
        own = {name: array[g, r0:r1] for name, array in arrays.items()}
        new.program(g_us[g, r0:r1], own, seed, (g * len(matrix[g]) + r0) * 2 * columns, keys)


def _chunks(row_cuts: tuple[int, ...], groups: int, columns: int) -> list[tuple[slice, int, int]]:
    """Groups, first and end row slice of parts of about `CHUNK` weights; a slice stays whole, as it is flipped as a whole."""
    rows = row_cuts[-1]
    if rows * columns * 2 <= CHUNK:
        per = max(1, CHUNK // max(1, rows * columns))
        return [(slice(g, min(groups, g + per)), 0, len(row_cuts) - 1) for g in range(0, groups, per)]
    parts, first = [], 0
    for s in range(1, len(row_cuts)):
        if (row_cuts[s] - row_cuts[first]) * columns >= CHUNK or s == len(row_cuts) - 1:
            parts.append((first, s))
            first = s
    return [(slice(g, g + 1), s0, s1) for g in range(groups) for s0, s1 in parts]
