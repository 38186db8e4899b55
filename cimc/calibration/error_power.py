"""The error power of a layer's product in closed form: what devices and converters add to ``x @ W``, by cause.

All powers are mean squares over inputs, dice and reads, in squared units of the product before the digital scale and offset,
one for each column on the crossbars; where rows are repeated, of the sum over the repeats. With ``d`` the drive of a word line
(``code / 2**bits``; ``x * gain`` without a DAC's quantisation), ``q`` the conductance of one level step, V the read voltage and
``k`` the input of a full drive, the digital side adds up ``weight_step * coefficient * k * I / (V * q)`` over converted lines,
phases and row slices. A line with current I thus adds

    ``(weight_step * coefficient * k / q)**2 * (sum of d**2 * sigma_us**2  +  (sigma_lsb**2 + 1/12) * (lsb_ua / V)**2)``

with ``sigma_us`` the deviation of a device's write or of its read. Rounding and clipping of weights and inputs and the saturation
of conversions are no noise: they are computed from a sample of the layer's inputs. The formula holds right after programming,
for lines without resistance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.calibration.line_power import line_powers
from cimc.calibration.reads import CAUSES, Cause, LayerRead, mean_square
from cimc.ir.encoding import encode, quantise, steps_of_full_weight
from cimc.ir.ranging import full_code
from cimc.ir.records import InputCoding
from cimc.targets.description import Target

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class ErrorPower:
    """Mean squares of a layer's product and of its errors, ``[groups, columns]`` each."""

    signal: F64
    causes: Mapping[Cause, F64]

    @property
    def total(self) -> F64:
        """All causes together: they are taken for independent."""
        return np.asarray(sum(self.causes.values(), np.zeros_like(self.signal)))

    @property
    def share(self) -> float:
        """Error power of all columns over the power of their product; 0 where that is 0."""
        signal = float(self.signal.sum())
        return float(self.total.sum()) / signal if signal > 0 else 0.0


def error_power(matrix: NDArray[Any], span: NDArray[Any], read: LayerRead) -> ErrorPower:
    """Error power of one layer.

    Args:
        matrix: ``[groups, rows, columns]``.
        span: ``[1]`` or ``[groups * columns]``: the weight that spans the window.
        read: Inputs, coding and range; all its vectors are used (`LayerRead.sampled`).

    Raises:
        TargetError: The cells of a weight cannot hold its bits.
    """
    x, target = np.ascontiguousarray(read.vectors.swapaxes(0, 1)), read.target
    weights = matrix.astype(np.float32)
    limit = np.asarray(span, np.float32)
    limit = limit if limit.size == 1 else limit.reshape(weights.shape[0], 1, weights.shape[2])
    clipped = np.clip(weights, -limit, limit)
    stored = stored_weights(matrix, span, target)
    signal = mean_square(x @ weights)
    causes: dict[Cause, F64] = {
        "weight rounding": mean_square(x @ (stored - clipped)),
        "weight clipping": mean_square(x @ (clipped - weights)),
    }
    full, held = _coded(x, read.coding, target)
    causes["DAC clipping"] = mean_square((full - x) @ weights)
    causes["DAC step"] = mean_square((held - full) @ weights)
    encoded = encode(matrix, span, read.row_cuts, target)
    causes |= line_powers(read, encoded)
    return ErrorPower(signal, {cause: causes[cause] for cause in CAUSES if cause in causes and causes[cause].any()})


def stored_weights(matrix: NDArray[Any], span: NDArray[Any], target: Target) -> F32:
    """What the devices stand for without programming error, ``[groups, rows, columns]``."""
    step = np.asarray(span, np.float64) / steps_of_full_weight(target)
    step = step if step.size == 1 else step.reshape(matrix.shape[0], 1, matrix.shape[2])
    return np.asarray(quantise(matrix, span, target) * step, np.float32)


def _coded(x: F32, coding: InputCoding, target: Target) -> tuple[F32, F32]:
    """Inputs as the DAC clips them, and as it rounds them then."""
    if target.dac.bits is None:
        return x, x
    top = full_code(target, coding.signed) / coding.gain
    clipped = np.clip(x, -top if coding.signed else 0.0, top)
    return clipped, np.rint(clipped * np.float32(coding.gain)) / np.float32(coding.gain)
