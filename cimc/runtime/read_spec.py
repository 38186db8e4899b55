"""The one description of a read: what a layer's cells, lines and converters do to its input codes.

A read of one position gives, for each phase, row slice and device column, the effective current in LSB::

    I = volt * sum over rows of code * g     volt = read_voltage_v / full / lsb_ua

with one Gaussian of variance ``volt**2 * sum of code**2 * variance of a cell`` for read noise and one of ``sigma_lsb**2`` for
the conversion. The converter rounds it to a code between ``low_code`` and ``top_code``. The digital side adds up
``phase weight * alpha * code`` over phases, slices and device columns, then multiplies by ``factor``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.encoding import Coefficients, level_step_us
from cimc.runtime.coding import Coding
from cimc.runtime.fabricate import Devices
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
    """The same of unit columns, ``[groups, rows, column tiles]``; no columns where there is no unit column."""
    coefficients: Coefficients
    """How the digital side combines device columns."""
    row_cuts: tuple[int, ...]
    column_cuts: tuple[int, ...]
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

    @classmethod
    def from_target(
        cls,
        devices: Devices,
        coding: Coding,
        row_cuts: tuple[int, ...],
        column_cuts: tuple[int, ...],
        target: Target,
        adc_range_ua: float | None,
    ) -> ReadSpec:
        """The read of programmed devices on a target.

        Args:
            devices: What the cells hold as a read sees them.
            coding: Of the inputs.
            row_cuts: Row slices.
            column_cuts: Column tiles.
            target: The chip.
            adc_range_ua: Full scale of a conversion; None with an ADC: an LSB is one level step.
        """
        device, adc = target.device, target.adc
        step_us = level_step_us(target)
        top = 0 if adc.bits is None else 2**adc.bits - 1
        if adc.bits is None:
            lsb_ua = device.read_voltage_v * step_us / coding.full
        else:
            lsb_ua = device.read_voltage_v * step_us if adc_range_ua is None else adc_range_ua / top
        return cls(
            devices.g_us,
            devices.unit_g_us,
            devices.coefficients,
            row_cuts,
            column_cuts,
            coding,
            device.read_voltage_v,
            step_us,
            lsb_ua,
            0,
            top,
            adc.sigma_lsb * (top > 0),
            device.read_sigma_us,
            Grid.of(device),
        )

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
    def unit(self) -> NDArray[Any]:
        """Coefficient of the unit column, ``[groups, slices, columns]``; no columns where there is none."""
        c = self.coefficients
        return np.zeros((*c.alpha.shape[:2], 0)) if c.unit is None else c.unit
