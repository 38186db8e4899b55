"""Digital scales that do not fit: of a layer's devices, and of a step's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.program import Program
from cimc.ir.sqnr import power_ratio_db
from cimc.runtime.cells import may_be_stuck, stuck_us
from cimc.runtime.crossbar import Crossbar
from cimc.runtime.executor import Executor
from cimc.runtime.output_fit import OutputFit, by_channel

F64 = NDArray[np.float64]

#: A scale of devices counts as wrong from this deviation on, and from so many standard errors on.
_WRONG, _ERRORS = 0.2, 5.0
#: Fewer weights tell nothing; those below this share of the largest tell little.
_FEW, _SMALL = 32, 0.2
#: A step agrees with the model from this SQNR on; a correction explains an error that falls by so many dB.
_AGREES_DB, _EXPLAINED_DB = 50.0, 20.0


def scale_of_devices(own: Crossbar, matrix: NDArray[Any]) -> float:
    """What the digital side takes a layer's devices for, over the weights that they were written for; 1 where that agrees.

    The slope of the held weights over the program's, of those large enough that conductances, which cannot fall below 0, are not
    shifted by much.

    Args:
        own: The layer on the chip.
        matrix: The program's weights, as they lie on its crossbars, ``[groups, rows, columns]``.
    """
    span: F64 = np.asarray(own.weight_max, np.float64).reshape(-1)
    span = span if span.size == 1 else span.reshape(own.groups, 1, own.columns)
    sound: NDArray[np.bool_] = np.ones(matrix.shape, np.bool_)
    if may_be_stuck(own.target.device):
        sound = np.asarray(np.isnan(stuck_us(own.target.device, own.cells_of(0).keys())).all(axis=2))
    held = own.held[0].weights(own.row_cuts, own.unit_cuts, own.target).astype(np.float64)
    weights = matrix.astype(np.float64)
    power = float(np.square(weights[sound]).sum())
    factor = min(1.0, max(float(weights[sound] @ held[sound]) / power, 1e-3)) if power else 1.0
    for _ in range(4):
        sizes = np.abs(weights)
        whole = sound & (sizes <= 0.95 * span / factor)
        chosen = whole & (sizes > _SMALL * sizes.max(initial=0, where=whole))
        if chosen.sum() < _FEW:
            return 1.0
        w, h = weights[chosen], held[chosen]
        power = float(w @ w)
        slope = float(w @ h) / power
        error = float((h - slope * w).std()) / np.sqrt(power)
        if not slope > 0:
            return 1.0
        factor = slope
    return factor if abs(factor - 1) > max(_WRONG, _ERRORS * error) else 1.0


@dataclass(frozen=True)
class StepCheck:
    """How far an exact execution of one step is from the model."""

    step: str
    layer: str
    sqnr_db: float
    factor: float
    """Median over the channels of what the outputs are over those of the model."""
    correction: OutputFit | None
    """What brings the outputs to those of the model; None: no scale and offset do."""


def check_steps(program: Program, exact: Executor, reference: Mapping[str, Any], images: int) -> list[StepCheck]:
    """The steps whose exact products, given the model's own inputs, are not the model's outputs.

    Args:
        program: Of the chip.
        exact: From `ideal_executor`.
        reference: The model's values by name, as far as it has them.
        images: In them.
    """
    found = []
    for step in program.vmm_steps:
        x, wanted = (np.asarray(reference.get(name)) for name in (step.input, step.output))
        if x.dtype.kind != "f" or wanted.dtype.kind != "f":
            continue  # the model has no such value: the node was unrolled or split
        made = exact.multiply(step, x, images, 0)
        if made.shape != wanted.shape:
            continue
        y, r = by_channel(made, step.geometry), by_channel(wanted, step.geometry)
        before = _db(r, y)
        if before is None or before >= _AGREES_DB:
            continue
        spread = y.var(axis=0)
        cov = ((y - y.mean(axis=0)) * (r - r.mean(axis=0))).mean(axis=0)
        scale = np.where(spread > 0, cov / np.where(spread > 0, spread, 1.0), 1.0)
        offset = r.mean(axis=0) - scale * y.mean(axis=0)
        after = _db(r, y * scale + offset)
        explained = after is None or after >= before + _EXPLAINED_DB
        factor = float(np.median(1 / scale[scale != 0])) if (scale != 0).any() else 0.0
        found.append(StepCheck(step.name, step.layer, before, factor, OutputFit(scale, offset) if explained else None))
    return found


def _db(reference: F64, value: F64) -> float | None:
    return power_ratio_db(float(np.square(reference).sum()), float(np.square(reference - value).sum()))
