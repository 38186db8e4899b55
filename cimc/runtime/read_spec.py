"""The one description of a read: what a layer's cells, lines and converters do to its input codes.

A read of one position gives, for each phase, row slice and device column, the effective current in LSB::

    I = volt * sum over rows of code * g     volt = read_voltage_v / full / lsb_ua

with one Gaussian of variance ``volt**2 * sum of power * variance of a cell`` for read noise and one of ``sigma_lsb**2`` for the
conversion. The ``power`` of a code is its square; where each input pulse has noise of its own, the sum of its pulses' squares.
The converter of a line may deviate (`ColumnErrors`); it rounds to a code between ``low_code`` and ``top_code``. The digital side
adds up ``phase weight * alpha * code`` over phases, slices and lines, adds ``intercept``, and multiplies by ``factor``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from cimc.ir.encoding import Coefficients, level_step_us
from cimc.runtime.arrays.devices import Devices, tile_of_column
from cimc.runtime.coding import Coding
from cimc.runtime.converters import ColumnErrors
from cimc.runtime.layout import Grid
from cimc.targets.description import Target

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class ReadSpec:
    """All that a read of one copy of a layer needs; backends read nothing else."""

    g_us: F32
    """Effective conductances, µS, ``[groups, rows, planes, columns]``: what a read sees, time and wires included."""
    unit_g_us: F32
    """The same of unit columns or references, ``[groups, rows, unit columns]``; no columns where there are none."""
    coefficients: Coefficients
    """How the digital side combines device columns."""
    row_cuts: tuple[int, ...]
    column_cuts: tuple[int, ...]
    """Cuts between columns that share a unit column or a column of references; else column tiles."""
    coding: Coding
    """How inputs become codes."""
    read_voltage_v: float
    level_step_us: float
    lsb_ua: float
    """Effective current of one LSB; without an ADC the unit of currents."""
    low_code: int
    top_code: int
    """Codes of the ADC; 0 and 0: no ADC."""
    sigma_lsb: float
    """Noise of a conversion."""
    read_sigma_us: float
    """Read noise of a cell, the same for all; not used where ``variance_us2`` is given."""
    grid: Grid
    """Conductance grid on which the compiled kernels multiply."""
    variance_us2: F32 | None = None
    """Read noise of each cell, µS², shaped as ``g_us``; None: ``read_sigma_us``."""
    unit_variance_us2: F32 | None = None
    """The same of unit columns; given where ``variance_us2`` is."""
    fresh_noise: bool = False
    """Whether each input pulse of a conversion has read noise of its own."""
    errors: ColumnErrors | None = None
    """Of the converters; None: all convert alike."""

    @classmethod
    def from_target(
        cls,
        devices: Devices,
        coding: Coding,
        row_cuts: tuple[int, ...],
        column_cuts: tuple[int, ...],
        target: Target,
        adc_range_ua: float | None,
        errors: ColumnErrors | None = None,
    ) -> ReadSpec:
        """The read of programmed devices on a target.

        Args:
            devices: What the cells hold as a read sees them.
            coding: Of the inputs.
            row_cuts: Row slices.
            column_cuts: Cuts between columns that share a unit column or a column of references; else column tiles.
            target: The chip.
            adc_range_ua: Full scale of a conversion; None with an ADC: an LSB is one level step.
            errors: Of the converters that read these devices.
        """
        device, adc = target.device, target.adc
        step_us, top = level_step_us(target), target.top_code
        if adc.bits is None:
            lsb_ua = device.read_voltage_v * step_us / coding.full
        else:
            lsb_ua = device.read_voltage_v * step_us if adc_range_ua is None else adc_range_ua / top
        spec = cls(
            devices.g_us,
            devices.unit_g_us,
            devices.coefficients,
            row_cuts,
            column_cuts,
            coding,
            device.read_voltage_v,
            step_us,
            lsb_ua,
            -top if target.signed_conversion else 0,
            top,
            adc.sigma_lsb * (top > 0),
            device.read_sigma_us,
            Grid.of(device),
            devices.variance_us2,
            devices.unit_variance_us2,
            fresh_noise=target.dac.pulse_noise == "fresh" and coding.bits is not None and not coding.per_bit,
            errors=errors,
        )
        return spec.subtracted() if adc.pair_read == "subtracted" else spec

    def subtracted(self) -> ReadSpec:
        """The read of pairs whose currents the array subtracts: one line for the two, of the difference."""
        half = self.g_us.shape[2] // 2
        alpha, variance = self.coefficients.alpha, self.variance_us2
        # Where drift compensation gives the two lines factors of their own, their difference takes the mean.
        alpha = (alpha[:, :, :half] - alpha[:, :, half:]) / 2
        return replace(
            self,
            g_us=self.g_us[:, :, :half] - self.g_us[:, :, half:],
            coefficients=replace(self.coefficients, alpha=alpha),
            read_sigma_us=self.read_sigma_us * sqrt(2),
            grid=self.grid.of_differences,
            variance_us2=None if variance is None else variance[:, :, :half] + variance[:, :, half:],
        )

    @property
    def lines_alike(self) -> bool:
        """Whether all lines convert alike, without a sign, and cells have one read noise, held over the pulses."""
        return self.variance_us2 is None and self.errors is None and not self.low_code and not self.fresh_noise

    @property
    def volt(self) -> float:
        """LSB per µS and unit of code."""
        return self.read_voltage_v / self.coding.full / self.lsb_ua

    @property
    def factor(self) -> F64:
        """``[groups * columns]``: of the digital sum, for weights times inputs."""
        steps = self.lsb_ua * self.coding.full / (self.read_voltage_v * self.level_step_us)
        scaled: F64 = self.coefficients.weight_step / self.coding.gain * steps
        return scaled

    @property
    def alpha(self) -> F64:
        """Coefficient of each device column's code, ``[groups, slices, planes, columns]``, its slope taken off."""
        alpha = self.coefficients.alpha
        return alpha if self.errors is None else alpha / self._of_columns(self.errors.slope)

    @property
    def unit(self) -> F64:
        """Coefficient of the unit column's, ``[groups, slices, columns]``; no columns where there is none."""
        unit = self.coefficients.unit
        if unit is None:
            return np.zeros((*self.coefficients.alpha.shape[:2], 0))
        return unit if self.errors is None else unit / self._of_units(self.errors.slope)

    @property
    def intercept(self) -> F64 | None:
        """``[groups * columns]``: takes off what the intercepts of the converters add to the digital sum; None: nothing."""
        if self.errors is None:
            return None
        total = (self.alpha * self._of_columns(self.errors.intercept)).sum(axis=(1, 2))
        if self.coefficients.unit is not None:
            total += (self.unit * self._of_units(self.errors.intercept)).sum(axis=1)
        taken: F64 = -self.coding.weights.sum() * total.reshape(-1)
        return taken

    def _of_columns(self, lines: F64) -> F64:
        """The part of an array of lines that is of device columns, shaped as `alpha`."""
        shape = self.coefficients.alpha.shape
        return lines[:, :, : shape[2] * shape[3]].reshape(shape)

    def _of_units(self, lines: F64) -> F64:
        """The part that is of unit columns, one entry a weight column."""
        shape = self.coefficients.alpha.shape
        return lines[:, :, shape[2] * shape[3] :][:, :, tile_of_column(self.column_cuts)]
