"""Converters of a die's bit lines: each has a gain, an offset and a bow of its own, and bring-up measures slope and intercept.

A current ``t`` of the range converts as if it were (in LSB, top the highest code)::

    top * t * gain + offset + bow * 4 * |t| * (1 - |t|)

The bow is the integral non-linearity: a parabola that is 0 at both ends of the range. Calibration reads two known currents, a
tenth and nine tenths of the range, and averages; its slope and intercept carry the noise of these reads. The digital side takes
``(code - intercept) / slope`` for the code of a bit line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.cells import Cells
from cimc.runtime.devices import normals
from cimc.targets.description import Target

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Draws of a bit line, by the counter of its key.
_GAIN, _OFFSET, _BOW, _LOW, _HIGH = range(5)
#: Currents of the calibration, as shares of the range.
_LOW_SHARE, _HIGH_SHARE = 0.1, 0.9


@dataclass(frozen=True)
class ColumnErrors:
    """How each converted line of a layer deviates; all ``[groups, slices, lines]``: device columns, then unit columns."""

    gain: F32
    offset_lsb: F32
    bow_lsb: F32
    slope: F64
    """Codes of an LSB of current, as calibration found it; 1 without calibration."""
    intercept: F64
    """Code at no current, as calibration found it; 0 without calibration."""

    def of_planes(self, planes: Sequence[int], total: int, columns: int) -> ColumnErrors:
        """The converters of some device columns of each weight column, and of the unit columns.

        Args:
            planes: Numbers of the device columns.
            total: How many device columns a weight column has.
            columns: Weight columns.
        """
        if len(planes) == total:
            return self
        lines = self.gain.shape[2]
        of_devices = min(lines, total * columns)  # half as many where pairs are subtracted before the conversion
        kept = [p * columns + np.arange(columns) for p in planes if p * columns < of_devices]
        chosen = np.concatenate([*kept, np.arange(of_devices, lines)])
        return ColumnErrors(*(array[:, :, chosen] for array in vars(self).values()))

    @classmethod
    def of(cls, target: Target, cells: Cells) -> ColumnErrors | None:
        """The converters that read some cells; None where all convert alike."""
        adc = target.adc
        if not adc.deviates:
            return None
        keys = cells.line_keys()

        def drawn(counter: int) -> F64:
            return normals(keys, counter).astype(np.float64)

        gain = 1 + (adc.gain_sigma or 0.0) * drawn(_GAIN)
        offset = (adc.offset_sigma_lsb or 0.0) * drawn(_OFFSET)
        bow = (adc.bow_sigma_lsb or 0.0) * drawn(_BOW)
        slope, intercept = np.ones(keys.shape), np.zeros(keys.shape)
        if adc.calibration_reads is not None:
            top = target.top_code
            # A reading is rounded to a code, which adds a twelfth.
            noise = np.sqrt((adc.sigma_lsb**2 + 1 / 12) / adc.calibration_reads)
            shares, counters = (_LOW_SHARE, _HIGH_SHARE), (_LOW, _HIGH)
            low, high = (
                top * share * gain + offset + bow * 4 * share * (1 - share) + noise * drawn(counter)
                for share, counter in zip(shares, counters, strict=True)
            )
            slope = (high - low) / (top * (_HIGH_SHARE - _LOW_SHARE))
            intercept = low - slope * top * _LOW_SHARE
        return cls(gain.astype(np.float32), offset.astype(np.float32), bow.astype(np.float32), slope, intercept)
