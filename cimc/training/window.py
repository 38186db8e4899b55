"""Which weight spans the conductance window while a layer trains."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import within
from cimc.errors import CimcError
from cimc.ir.encoding import level_step_us, steps_of_full_weight
from cimc.ir.program import Layer, Program
from cimc.targets.description import Target

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: End of He's normal initialisation where it is truncated at two deviations and keeps the variance 2 / fan_in.
HE_TRUNCATED = 2 / 0.8796256610342398

#: A weight that no training reaches: the ideal target clips nothing.
_NO_END = 1e6
#: Weights count as at least this part of He's deviation: those that begin near 0 need room to grow.
_ROOM = 1 / 4


@dataclass(frozen=True)
class Window:
    """Which weight spans the conductance window; nothing given: the target's ``update.window_he``, else the program's scale.

    Raises:
        CimcError: Both are given, or one is out of range.
    """

    he: float | None = None
    """In units of the RMS weight of the layer, or of each column where ``weights.scale`` is column; where no weights are
    programmed, of ``sqrt(2 / fan_in)``. See `span_of`."""
    w_max: float | None = None
    """The weight itself, the same in every layer."""

    def __post_init__(self) -> None:
        if self.he is not None and self.w_max is not None:
            raise CimcError("both window and w_max say which weight spans the window", fix="give one of them")
        for name, value in (("window", self.he), ("w_max", self.w_max)):
            if value is not None:
                within(name, value, 1e-6, 1e6)


def span_of(program: Program, layer: Layer, window: Window, matrix: NDArray[np.float32] | None) -> F32:
    """The weight that spans the window, ``[1]`` or one a column.

    Where weights are programmed it is the larger of two: ``window.he`` times their RMS, and the span of least error
    (`least_error`), which keeps the few large weights of a sparse or heavy-tailed layer. Their RMS counts as at least a
    quarter of He's deviation. Where W is read from the devices it is ``window.he`` times ``sqrt(2 / fan_in)``.

    Args:
        program: Gives target and the compiled scale.
        layer: Its rows are the fan-in.
        window: See `Window`.
        matrix: What it must hold, ``[groups, rows, columns]``, 0 between packed groups; None: nothing yet.
    """
    target = program.target
    if target.is_ideal:
        return np.full(1, _NO_END, np.float32)
    if window.w_max is not None:
        return np.full(1, window.w_max, np.float32)
    factor = target.update.window_he if window.he is None else window.he
    unit = sqrt(2 / layer.weight.shape[1])
    if factor is None:
        span = np.array(program.tensors[f"weight_max/{layer.name}"], np.float32)
        span[span == 0] = span.max() or unit  # weights that are all 0 need room to grow
        return span
    if matrix is None or not matrix.size:
        return np.full(1, factor * unit, np.float32)
    sizes = np.abs(matrix.astype(np.float64))
    sizes = sizes.transpose(0, 2, 1).reshape(-1, sizes.shape[1]) if target.weights.scale == "column" else sizes.reshape(1, -1)
    number = sizes.shape[1] // layer.group_packing  # of the model's own weights
    rms = np.sqrt(np.square(sizes).sum(axis=1) / number)
    span64 = np.maximum(factor * np.maximum(rms, _ROOM * unit), least_error(sizes, number, error_share(target)))
    narrow: F32 = span64.astype(np.float32)
    return narrow


def error_share(target: Target) -> float:
    """Mean square error of a weight that the devices hold, over the square of the weight that spans the window.

    It counts programming error, one read's noise and, where weights are rounded, half a level step either way. The mean error
    of programming cancels in a pair.
    """
    device, pair = target.device, target.weights.representation == "differential_pair"
    full = steps_of_full_weight(target)
    mean_us = 0.0 if pair else device.programming.mean_us
    of_device = device.programming.sigma_us**2 + device.read_sigma_us**2
    error = (target.planes * of_device + mean_us**2) / (full * level_step_us(target)) ** 2
    rounded = target.weights.rounded and bool(device.levels or target.weights.bits)
    return error + (1 / (12 * full**2) if rounded else 0.0)


def least_error(sizes: F64, number: int, share: float) -> F64:
    """The span s of least mean square error, ``mean of max(|w| - s, 0)**2 + share * s**2``, of each set of weights.

    Its derivative is 0 where ``mean of max(|w| - s, 0) = share * s``. If the k largest weights lie beyond s, that is
    ``s = (sum of these) / (k + share * number)``; of all k the largest such s is the solution, as a weight that is added to the
    sum raises the quotient just where it lies beyond it.

    Args:
        sizes: ``|w|``, ``[sets, weights]``; zeros beyond ``number`` do not matter.
        number: Weights of a set.
        share: Of `error_share`.
    """
    sums = np.cumsum(-np.sort(-sizes, axis=1), axis=1)
    found: F64 = (sums / (np.arange(1, sizes.shape[1] + 1) + share * number)).max(axis=1)
    return found
