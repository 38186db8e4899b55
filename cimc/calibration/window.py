"""The weight that spans the conductance window, by the least expected error of the layer's product.

A smaller window gives every weight more levels and more current against the errors of devices and converters; the weights beyond
it are clipped. Noise on the lines grows with the square of the window, ``noise * span**2``, while what rounding and clipping
change is computed from a sample of the inputs. Candidates are multiples of the RMS weight, up to the largest weight there is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.calibration.error_power import error_power, stored_weights
from cimc.calibration.reads import ON_LINES, LayerRead, mean_square
from cimc.ir.samples import some_columns

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Candidates, in units of the RMS weight; the last stands for the largest weight.
MULTIPLES = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 5.0, 6.0, 1e9)
#: Of a layer with more weights than this, columns drawn by key decide on one multiple for all.
_FEWEST = 32


def least_error_span(matrix: NDArray[Any], read: LayerRead, *, by_column: bool, name: str) -> F32:
    """The span with the least expected error.

    Args:
        matrix: ``[groups, rows, columns]``, finite.
        read: Inputs, and converters as they would be set for a span as large as the largest weight.
        by_column: Choose one for each column, not one for the layer.
        name: Of the layer; names the random stream.

    Returns:
        ``[groups * columns]``, or ``[1]``; 0 where all weights are 0.
    """
    largest, rms = _sizes(matrix, by_column=by_column)
    some, _ = judging_columns(matrix, np.zeros(1, np.float32), name)
    own_largest, own_rms = _sizes(some, by_column=by_column)
    noise = _noise(some, own_largest, read.sampled(some.size))
    few = read.sampled(some.size * len(MULTIPLES) * 4)
    x = np.ascontiguousarray(few.vectors.swapaxes(0, 1))
    powers = np.stack([_power(some, np.minimum(own_largest, k * own_rms), x, noise, read) for k in MULTIPLES])
    if not by_column:
        powers = powers.sum(axis=(1, 2))
    elif some.shape != matrix.shape:
        powers = (powers / np.maximum(powers.min(axis=0), np.finfo(float).tiny)).sum(axis=(1, 2))
    best = np.asarray(MULTIPLES)[powers.argmin(axis=0)]
    span: F32 = np.minimum(largest, (best * rms).reshape(rms.shape)).astype(np.float32).reshape(-1)
    return span


def judging_columns(matrix: NDArray[Any], span: F32, name: str) -> tuple[NDArray[Any], F32]:
    """The columns that decide for a layer, and their spans: all; of more than 2 million weights half a million, by key."""
    return some_columns(matrix, span, _FEWEST, "window", name, part=4)


def _sizes(matrix: NDArray[Any], *, by_column: bool) -> tuple[F64, F64]:
    """Largest and RMS weight, ``[groups, columns]`` or ``[1, 1]``."""
    axes = 1 if by_column else None
    low, high = np.asarray(matrix.min(axis=axes), np.float64), np.asarray(matrix.max(axis=axes), np.float64)
    largest = np.maximum(-low, high)
    # Sums of squares in float32 are good enough to choose by, and are no copy of a large matrix.
    square = np.einsum("grc,grc->gc", matrix, matrix, dtype=np.float32) / matrix.shape[1]
    rms = np.sqrt(square if by_column else square.mean()).astype(np.float64)
    return (largest, rms) if by_column else (largest.reshape(1, 1), rms.reshape(1, 1))


def _noise(matrix: NDArray[Any], span: F64, read: LayerRead) -> F64:
    """Noise power on the lines for a span of 1: the mean of the columns that hold any weight, of each group, ``[groups, 1]``."""
    wide = np.broadcast_to(span, (matrix.shape[0], matrix.shape[2]))
    found = error_power(matrix, span.reshape(-1), read)
    lines = np.sum([found.causes[cause] for cause in ON_LINES if cause in found.causes], axis=0)
    filled = wide > 0
    per_unit = np.divide(lines, wide**2, out=np.zeros(wide.shape), where=filled)
    mean: F64 = per_unit.sum(axis=1, keepdims=True) / np.maximum(1, filled.sum(axis=1, keepdims=True))
    return mean


def _power(matrix: NDArray[Any], span: F64, x: F32, noise: F64, read: LayerRead) -> F64:
    """Expected error power of each column, ``[groups, columns]``.

    A further input counts beside the sample, whose rows are independent and have the mean power of all rows: what the sample
    never drives may be driven later, so its large weights are not clipped for nothing.
    """
    off = (stored_weights(matrix, span.astype(np.float32).reshape(-1), read.target) - matrix).astype(np.float32, copy=False)
    vectors = x.shape[1]
    further = np.square(x, dtype=np.float64).mean(axis=(1, 2))[:, None] * np.square(off, dtype=np.float64).sum(axis=1)
    power: F64 = (vectors * mean_square(x @ off) + further) / (vectors + 1) + noise * span**2
    return power
