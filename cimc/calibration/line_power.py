"""What devices and converters add to the digital sum, line by line; the formula is that of `cimc.calibration.error_power`.

A *line* is what one conversion reads: a device column, the difference of a pair that the array subtracts, a unit column, or a
column of references. The powers are those of each output column alone, so a unit column or a column of references counts in full
for each weight column that shares it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.calibration.reads import Cause, LayerRead, mean_square
from cimc.ir.encoding import Encoded, level_step_us, unit_goal_us
from cimc.ir.ranging import drives
from cimc.ir.records import Repeats
from cimc.targets.converter_sections import Adc
from cimc.targets.description import Device, Target

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def line_powers(read: LayerRead, encoded: Encoded) -> dict[Cause, F64]:
    """Power of each cause on the lines, in squared units of the product, ``[groups, columns]``.

    Args:
        read: Inputs and converters.
        encoded: Goals of the devices and how the digital side combines their columns.
    """
    target, device = read.target, read.target.device
    lines = _Lines.of(read, encoded)
    mean_us, sigma_us = device.programming.error_us(lines.g_us)
    shift_us = lines.without_common(mean_us)
    drawn = 1 / read.repeats.columns  # what differs between the repeats of a column averages out
    found: dict[Cause, F64] = {"programming error": drawn * lines.devices(sigma_us**2) + lines.shifted(shift_us)}
    if device.stuck_low_rate or device.stuck_high_rate:
        off_us, variance_us2 = fault_errors(lines.g_us, device)
        found["faults"] = drawn * lines.devices(variance_us2) + lines.shifted(lines.without_common(off_us))
    found["read noise"] = drawn / read.repeats.reads * lines.devices(_read_variance(lines.g_us, target), by_read=True)
    if target.adc.bits is not None:
        found |= lines.conversions(mean_us)
    return {cause: power * lines.unit**2 for cause, power in found.items()}


def fault_errors(g_us: F32, device: Device) -> tuple[F64, F64]:
    """Mean (µS) and variance (µS²), over dice, of what stuck devices change, at each goal."""
    low, high = g_us.astype(np.float64) - device.g_min_us, device.g_max_us - g_us.astype(np.float64)
    share_low, share_high = device.stuck_low_rate, device.stuck_high_rate
    mean = share_high * high - share_low * low
    return mean, share_low * low**2 + share_high * high**2 - mean**2


def _read_variance(g_us: F32, target: Target) -> F64:
    """Variance of a read of each device, µS², right after its write."""
    device = target.device
    variance = np.full(g_us.shape, device.read_sigma_us**2)
    if device.read_noise is not None:
        variance += device.read_noise.variance_us2(g_us, g_us, 0.0)
    if device.slow_noise is not None:
        slow = device.slow_noise
        variance += slow.sigma_us**2 + (slow.relative * g_us.astype(np.float64)) ** 2
    return variance


@dataclass(frozen=True)
class _Lines:
    """The converted lines of a layer: device columns, then unit columns or references as one for each weight column."""

    read: LayerRead
    g_us: F32
    """Goals of the devices, ``[groups, rows, planes + 1 or 0, columns]``; the last plane is the unit column or the references."""
    alpha: F64
    """Coefficient of each line, ``[groups, slices, planes + 1 or 0, columns]``."""
    drives: list[F32]
    """What the word lines apply in each phase, ``[groups, vectors, rows]``."""
    signs: tuple[float, ...]
    """Digital sign of each phase."""
    unit: F64
    """``weight_step * k / q``, ``[groups, columns]``."""

    @classmethod
    def of(cls, read: LayerRead, encoded: Encoded) -> _Lines:
        target, c = read.target, encoded.coefficients
        g_us, alpha = encoded.g_us, c.alpha
        if c.unit is not None:
            held = np.full((*g_us.shape[:2], 1, g_us.shape[3]), unit_goal_us(target), np.float32)
            g_us, alpha = np.concatenate([g_us, held], axis=2), np.concatenate([alpha, c.unit[:, :, None]], axis=2)
        bits = target.dac.bits
        k = (1.0 if bits is None else 2.0**bits) / read.coding.gain
        phases = [phase.swapaxes(0, 1) for phase in drives(read.vectors, read.coding, read.coding.gain, target)]
        unit = c.weight_step.reshape(g_us.shape[0], -1) * k / level_step_us(target)
        return cls(read, g_us, alpha, phases, (1.0, -1.0)[: len(phases)], unit)

    def without_common(self, shift_us: F64) -> F64 | None:
        """A shift of every device; None where it moves no sum: the same on lines whose coefficients add up to 0."""
        return None if np.ptp(shift_us) == 0 and not self.alpha.sum(axis=2).any() else shift_us

    def devices(self, variance_us2: F64, *, by_read: bool = False) -> F64:
        """Power of an independent deviation of each device, ``[groups, columns]``; of the write, or of each read."""
        pulses = by_read and (self.read.target.dac.pulse_noise == "fresh" or self.read.target.adc.conversion == "per_bit")
        bits = self.read.target.dac.bits if pulses else None
        power = np.sum([_drive_power(phase, bits) for phase in self.drives], axis=0)
        total = np.zeros(self.unit.shape)
        for s, (begin, end) in enumerate(pairwise(self.read.row_cuts)):
            on_line = np.einsum("gr,grpc->gpc", power[:, begin:end], variance_us2[:, begin:end])
            total += (self.alpha[:, s] ** 2 * on_line).sum(axis=1)
        return total

    def shifted(self, shift_us: F64 | None) -> F64:
        """Power of a known shift of each device, ``[groups, columns]``."""
        if shift_us is None:
            return np.zeros(self.unit.shape)
        x = np.sum([sign * phase for sign, phase in zip(self.signs, self.drives, strict=True)], axis=0)
        total = np.zeros((*x.shape[:2], self.unit.shape[1]))
        for s, (begin, end) in enumerate(pairwise(self.read.row_cuts)):
            lines = x[:, :, begin:end] @ shift_us[:, begin:end].reshape(len(x), end - begin, -1)
            total += (self.alpha[:, s, None] * lines.reshape(*x.shape[:2], *shift_us.shape[2:])).sum(axis=2)
        return mean_square(total)

    def conversions(self, mean_us: F64) -> dict[Cause, F64]:
        """Power of the converters' errors, by cause, ``[groups, columns]``, in squared units of current over read voltage."""
        target, adc = self.read.target, self.read.target.adc
        top, volt = target.top_code, target.device.read_voltage_v
        g_us, alpha = self.g_us + mean_us, self.alpha
        if adc.pair_read == "subtracted":
            half = alpha.shape[2] // 2
            g_us, alpha = g_us[:, :, :half] - g_us[:, :, half:], alpha[:, :, :half]
        lines = np.square(alpha).sum(axis=(1, 2)) * len(self.drives)
        if self.read.range_ua is None:  # an LSB is one level step, a conversion for each input bit
            bits = target.dac.bits or 1
            lines = lines * sum(4.0**bit for bit in range(bits)) / 4.0**bits
            lsb_us = level_step_us(target)
        else:
            lsb_us = self.read.range_ua / volt / top
        exact = self.read.range_ua is None and target.device.is_exact and target.weights.rounded
        found: dict[Cause, F64] = {
            "ADC step": lines * (0.0 if exact else lsb_us**2 / 12) * _of_mean(self.read.repeats, adc.sigma_lsb),
            "ADC noise": lines * (adc.sigma_lsb * lsb_us) ** 2 / (self.read.repeats.columns * self.read.repeats.reads),
        }
        if self.read.range_ua is not None:
            found |= self._ends(g_us, alpha, lsb_us, top)
        return found

    def _ends(self, g_us: NDArray[Any], alpha: F64, lsb_us: float, top: int) -> dict[Cause, F64]:
        """Saturation, and converters that differ: what depends on the current of each conversion."""
        adc = self.read.target.adc
        groups, vectors = self.drives[0].shape[:2]
        mismatch, lost = np.zeros(self.unit.shape), np.zeros((groups, vectors, self.unit.shape[1]))
        lowest = -top if self.read.target.signed_conversion else 0
        for s, (begin, end) in enumerate(pairwise(self.read.row_cuts)):
            cells = np.ascontiguousarray(g_us[:, begin:end], np.float32).reshape(groups, end - begin, -1)
            for sign, phase in zip(self.signs, self.drives, strict=True):
                code = (phase[:, :, begin:end] @ cells).reshape(groups, vectors, *alpha.shape[2:]) / np.float32(lsb_us)
                lost += sign * (alpha[:, s, None] * (np.clip(code, lowest, top) - code)).sum(axis=2)
                if adc.deviates:
                    mismatch += (alpha[:, s] ** 2 * _mismatch(code, adc, top).mean(axis=1)).sum(axis=1)
        return {"ADC mismatch": mismatch * lsb_us**2 / self.read.repeats.columns, "ADC saturation": mean_square(lost) * lsb_us**2}


def _of_mean(repeats: Repeats, sigma_lsb: float) -> float:
    """Error power of the mean of repeated conversions, in parts of that of one.

    Repeats of a column carry other currents, so their rounding errors are independent. Reads of one current share a part of
    theirs: under a noise of sigma LSB the correlation of two uniform rounding errors is
    ``6 / pi**2 * sum of exp(-(2 pi k sigma)**2) / k**2`` (Fourier series of the rounding error; Widrow and Kollar, *Quantization
    Noise*, 2008).
    """
    k = np.arange(1, 50)
    shared = float((np.exp(-((2 * np.pi * k * sigma_lsb) ** 2)) / k**2).sum() / (1 / k**2).sum())
    return (shared + (1 - shared) / repeats.reads) / repeats.columns


def _mismatch(code: F32, adc: Adc, top: int) -> F64:
    """Variance of a conversion over bit lines, LSB²; calibration takes off gain and offset but for the noise of its reads."""
    share = np.abs(code) / top
    variance = ((adc.bow_sigma_lsb or 0.0) * 4 * share * (1 - share)) ** 2
    if adc.calibration_reads is not None:
        return np.asarray(variance + (adc.sigma_lsb**2 + 1 / 12) / adc.calibration_reads, np.float64)
    return np.asarray(variance + ((adc.gain_sigma or 0.0) * code) ** 2 + (adc.offset_sigma_lsb or 0.0) ** 2, np.float64)


def _drive_power(phase: F32, bits: int | None) -> F64:
    """Mean square drive of each word line, ``[groups, rows]``; with ``bits``, the sum of the squares of its pulses."""
    if bits is None:
        return mean_square(phase)
    code = np.rint(np.abs(phase) * 2.0**bits).astype(np.int64)
    power: F64 = np.sum([(code >> bit & 1).mean(axis=1) * 4.0 ** (bit - bits) for bit in range(bits)], axis=0)
    return power
