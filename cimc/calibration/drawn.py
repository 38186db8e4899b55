"""Weights as the devices of one die hold them, drawn with the deviations of `cimc.calibration.line_power`."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.calibration.error_power import stored_weights
from cimc.calibration.line_power import fault_errors
from cimc.ir.encoding import encode, level_step_us, unit_goal_us
from cimc.targets.description import Target

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def drawn_weights(
    matrix: NDArray[Any],
    span: NDArray[Any],
    row_cuts: tuple[int, ...],
    unit_cuts: tuple[int, ...],
    target: Target,
    rng: np.random.Generator,
) -> F32:
    """Weights that a die holds, ``[groups, rows, columns]``: rounded, with programming error and faults.

    An error of a unit column or of a reference is an error of all weight columns that share it.

    Args:
        matrix: ``[groups, rows, columns]``.
        span: ``[1]`` or ``[groups * columns]``: the weight that spans the window.
        row_cuts: Row slices.
        unit_cuts: Cuts between columns that share a unit column or references, from `cimc.ir.encoding.unit_cuts`.
        target: The chip.
        rng: Draws the die.

    Raises:
        TargetError: The cells of a weight cannot hold its bits.
    """
    encoded = encode(matrix, span, row_cuts, target)
    c = encoded.coefficients
    unit = c.weight_step.reshape(matrix.shape[0], 1, matrix.shape[2]) / level_step_us(target)
    normal = rng.standard_normal(matrix.shape, np.float32)
    errors = np.empty(matrix.shape, np.float32)
    for s, (begin, end) in enumerate(pairwise(row_cuts)):
        mean_us, variance_us2 = _errors(encoded.g_us[:, begin:end], target)
        alpha = c.alpha[:, s, None]
        mean, deviation = (alpha * mean_us).sum(axis=2), np.sqrt((alpha**2 * variance_us2).sum(axis=2))
        errors[:, begin:end] = mean * unit + deviation * unit * normal[:, begin:end]
    if c.unit is not None:
        mean_us, variance_us2 = _errors(np.full(1, unit_goal_us(target), np.float32), target)
        shared_us = mean_us + np.sqrt(variance_us2) * rng.standard_normal((*matrix.shape[:2], len(unit_cuts) - 1))
        weighting = np.repeat(c.unit, np.diff(row_cuts), axis=1) * unit
        errors += (np.repeat(shared_us, np.diff(unit_cuts), axis=2) * weighting).astype(np.float32)
    return stored_weights(matrix, span, target) + errors


def _errors(g_us: F32, target: Target) -> tuple[F64, F64]:
    """Mean (µS) and variance (µS²), over dice, of what devices hold beside each goal."""
    mean_us, sigma_us = target.device.programming.error_us(g_us)
    off_us, variance_us2 = fault_errors(g_us, target.device)
    return mean_us + off_us, sigma_us**2 + variance_us2
