"""The numeric core of ADC ranges: what currents a layer's columns carry, and the range or input gain that suits them.

A column read is the effective current ``I = V * sum over word lines of code / 2**bits * g``: the bit-serial sum that the
converter sees (``code * gain`` alone where the DAC has no quantisation). A two-phase input is two reads, its positive part
and its negative part. `choose_range` serves the compiler, with target conductances, and a chip, with those it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, log2, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import DataError, FitError
from cimc.ir.encoding import has_units, unit_goal_us
from cimc.ir.geometry import Conv, ConvTranspose, Dense
from cimc.ir.program import InputCoding, Layer
from cimc.ir.samples import Extent, keyed, rounded_up, row_vectors, wanted_vectors
from cimc.targets.description import Target

F32 = NDArray[np.float32]

#: Reads that the quantile is taken over; at a share of 1e-4 that is 105 above it, a standard error of 10 %.
READS = 1 << 20
#: Row vectors used however wide the layer is.
MIN_VECTORS = 64
#: A full scale below this is none.
SMALLEST_SCALE = 1e-30
_GUESSES = 3
#: Room for noise where no read may saturate.
_SIGMAS = 4.0


@dataclass(frozen=True)
class Samples:
    """Inputs of a layer: what its word lines get, ``[vectors, groups, rows]``; and the extent of all inputs where it counts."""

    vectors: F32
    extent: Extent | None = None

    @classmethod
    def of(
        cls, x: NDArray[Any], geometry: Dense | Conv | ConvTranspose, layer: Layer, before: Samples | None = None, *,
        count: bool = True,
    ) -> Samples:  # fmt: skip
        """A sample of one activation, and of what came ``before`` it, which is used up.

        Args:
            x: The activation.
            geometry: How it forms row vectors.
            layer: What they are for.
            before: Earlier samples.
            count: Whether a share of the inputs may clip, so that they are counted by size.

        Raises:
            DataError: It holds NaN or Inf.
        """
        groups, rows = layer.groups, layer.inputs
        extent = before.extent if before is not None and before.extent is not None else Extent(count=count)
        if not extent.add(x):
            raise DataError("the inputs hold NaN or Inf", where=f"layer {layer.name}", fix="look at the calibration data")
        vectors = row_vectors(x, geometry, groups, rows, wanted_vectors(groups, rows), layer.name)
        if layer.repeats.rows > 1:
            vectors = np.tile(vectors, layer.repeats.rows)
        return cls(vectors if before is None else np.concatenate([before.vectors, vectors]), extent)


Devices = Callable[[int, int], F32]
"""Conductances in µS of the rows ``begin`` to ``end``, ``[groups, rows, device columns]``, the unit column left out."""


@dataclass(frozen=True)
class Choice:
    """A layer's ADC range and the input gain that goes with it."""

    range_ua: float
    gain: float
    bits_lost: float
    """log2 of how far the gain was lowered."""
    reads: int
    """Column reads that the choice rests on."""


def full_code(target: Target, signed: bool) -> int:
    """The largest input code: a sign costs a bit unless it has a phase of its own.

    Raises:
        FitError: The DAC has a single bit and no phase for the sign.
    """
    bits = target.dac.bits
    if bits is None:
        raise RuntimeError("a DAC without quantisation has no codes")
    if signed and target.dac.signed in ("offset", "twos_complement"):
        bits -= 1
    if bits == 0:
        raise FitError(
            f"a 1-bit DAC cannot hold a signed input in the encoding {target.dac.signed}",
            where=f"target {target.name}, dac.signed",
            fix="--set dac.signed=two_phase, or more dac.bits",
        )
    return int(2**bits - 1)


def input_coding(full_scale: float, signed: bool, basis: str, target: Target) -> InputCoding:
    """The coding whose largest code is ``full_scale`` (1 where that is 0), at the float32 precision of ONNX attributes.

    Raises:
        FitError: The DAC cannot hold a sign.
    """
    scale = float(np.float32(full_scale if full_scale > SMALLEST_SCALE else 1.0))
    gain = 1.0 if target.dac.bits is None else float(np.float32(full_code(target, signed) / scale))
    return InputCoding(gain=gain, signed=signed, full_scale=scale, basis=basis)


def drives(vectors: F32, coding: InputCoding, gain: float, target: Target) -> list[F32]:
    """What the word lines apply, in units of the read voltage, one array a phase; each shaped like ``vectors``."""
    bits = target.dac.bits
    if bits is None:
        codes, unit, top = vectors * np.float32(gain), 1.0, np.inf
    else:
        top = float(full_code(target, coding.signed))
        codes, unit = np.rint(vectors * np.float32(gain)), 2.0**-bits
    if not coding.signed:
        return [np.clip(codes, 0, top) * np.float32(unit)]
    codes = np.clip(codes, -top, top)
    if target.dac.signed == "two_phase" or bits is None:
        return [np.maximum(codes, 0) * np.float32(unit), np.maximum(-codes, 0) * np.float32(unit)]
    if target.dac.signed == "bipolar":
        return [codes * np.float32(unit)]
    return [(codes + np.float32(2 ** (bits - 1))) * np.float32(unit)]


def column_reads(phases: Sequence[F32], devices: Devices, row_cuts: tuple[int, ...], target: Target) -> tuple[F32, F32]:
    """Noise-free effective currents of every read: phases, slices, groups, vectors and device columns.

    Args:
        phases: Drives ``[vectors, groups, rows]`` in units of the read voltage.
        devices: The conductances.
        row_cuts: Row slice s is rows ``row_cuts[s]`` to ``row_cuts[s + 1]``.
        target: The chip.

    Returns:
        Sizes of currents in µA, ``[slices * phases * groups * vectors, converted lines]``: of a pair that is subtracted in the
        array the difference. And for each row the current, in µA, of one
        device of ``sqrt(sum(drive**2))``: times the spread of a device in µS it is the spread of the row's reads.
    """
    volt = np.float32(target.device.read_voltage_v)
    currents, norms = [], []
    for begin, end in pairwise(row_cuts):
        g = devices(begin, end)
        if target.adc.pair_read == "subtracted":
            half = g.shape[2] // 2
            g = g[:, :, :half] - g[:, :, half:]
        for phase in phases:
            x = np.ascontiguousarray(phase[:, :, begin:end].swapaxes(0, 1)) * volt
            current = (x @ g).reshape(-1, g.shape[2])
            currents.append(np.abs(current) if target.signed_conversion else current)
            norms.append(np.sqrt(np.einsum("gnr,gnr->gn", x, x)).reshape(-1))
    return np.concatenate(currents), np.concatenate(norms)


def noisy_tail(currents: F32, spreads: F32, adc_noise: float, share: float, key: object) -> F32:
    """The largest reads with noise: all that the range for ``share`` could depend on.

    The noise of the converter counts too: a read I saturates where ``I + noise * range * normal`` exceeds the range, which
    is where ``I / (1 - noise * normal)`` does.

    Args:
        currents: ``[rows, device columns]``, µA, as all else here.
        spreads: ``[rows]``: standard deviation of the reads of a row.
        adc_noise: Standard deviation of a conversion, as a share of the range.
        share: Share of reads that may saturate.
        key: Names the random stream.
    """
    middle = adc_range(currents.reshape(-1), share)
    reach = 2 * 6 * float(np.hypot(spreads.max(initial=0), adc_noise * middle))
    flat = currents.reshape(-1)
    chosen = np.flatnonzero(flat >= middle - reach)
    tail = flat[chosen]
    rng = keyed(key)
    tail += spreads[chosen // max(1, currents.shape[1])] * rng.standard_normal(tail.shape, np.float32)
    if adc_noise:
        tail /= np.maximum(0.1, 1 - np.float32(adc_noise) * rng.standard_normal(tail.shape, np.float32))
    return tail


def adc_range(currents: F32, share: float, reads: int | None = None) -> float:
    """The current that at most ``share`` of all reads exceed, with two standard errors to spare.

    Of ``share * N`` expected exceedances, ``m``, only ``m - 2 sqrt(m)`` are allowed in the sample. With fewer than one
    expected it is the largest read. 0 without reads. Reads of one vector go together, so what counts in the end is how many
    vectors there are: few calibration images tell the share less well than the number of reads suggests.

    Args:
        currents: The reads, or the largest of them.
        share: Share that may exceed.
        reads: N; None: ``currents`` are all.
    """
    if not currents.size:
        return 0.0
    expected = share * (reads or currents.size)
    place = currents.size - 1 - max(0, floor(expected - 2 * sqrt(expected)))
    return max(0.0, float(np.partition(currents, place)[place]))


def choose_range(
    vectors: F32,
    devices: Devices,
    coding: InputCoding,
    row_cuts: tuple[int, ...],
    target: Target,
    *,
    sigma_us: float = 0.0,
    key: object = "",
) -> Choice:
    """ADC range of one layer, or the input gain where the chip fixes the range.

    Args:
        vectors: Real-valued row vectors ``[vectors, groups, rows]``.
        devices: The conductances.
        coding: The input coding; what an earlier call took from its gain is given back first.
        row_cuts: The row slices.
        target: The chip; it has an ADC and converts once a read.
        sigma_us: Spread of a device about ``devices``: read noise, and programming error where not yet in them.
        key: Names the random stream.

    Raises:
        FitError: A fixed range is too small at any gain.
    """
    full_gain = coding.gain * 2.0**coding.bits_lost
    adc = target.adc
    bits = adc.bits
    if bits is None or adc.conversion == "per_bit":
        raise RuntimeError("this target converts without a range")
    vectors = _fitting(vectors, devices, row_cuts, key)
    noise = adc.sigma_lsb / target.top_code
    if adc.pair_read == "subtracted":
        sigma_us *= sqrt(2)

    def needed(gain: float) -> tuple[float, int]:
        phases = drives(vectors, coding, gain, target)
        currents, norms = column_reads(phases, devices, row_cuts, target)
        tail = noisy_tail(currents, norms * np.float32(sigma_us), noise, adc.saturation_share, key)
        unit = _largest_unit_read(phases, row_cuts, target, sigma_us) / max(0.1, 1 - _SIGMAS * noise)
        return max(unit, adc_range(tail, adc.saturation_share, currents.size)), currents.size

    current, count = needed(full_gain)
    if adc.range_ua is None:
        largest = target.device.read_voltage_v * target.device.g_max_us * max(1, *np.diff(row_cuts))
        return Choice(rounded_up(current) if current > 0 else float(largest), full_gain, 0.0, count)
    gain = full_gain
    if current > adc.range_ua:
        idle = 0.0 if target.dac.signed in ("two_phase", "bipolar") or not coding.signed else needed(full_gain * 1e-9)[0]
        gain = _lowered(full_gain, adc.range_ua, idle, current, lambda g: needed(g)[0], target)
    return Choice(adc.range_ua, gain, log2(full_gain / gain), count)


def choose_ranges(layer: Layer, samples: Samples, devices: Devices, target: Target, *, sigma_us: float | None = None) -> Layer:
    """The layer with its ADC range; with a new input coding too where ``samples`` tell the extent of the inputs.

    Args:
        layer: Mapped: it has row cuts.
        samples: What it is given.
        devices: Its conductances.
        target: The chip.
        sigma_us: Spread of a device about ``devices``; None: the read noise.

    Raises:
        FitError: A fixed ADC range is too small at any input gain.
    """
    coding = layer.coding
    if samples.extent is not None and not target.is_ideal:
        scale = rounded_up(samples.extent.full_scale(target.dac.clip_share))
        coding = input_coding(scale, coding.signed or samples.extent.signed, "calibration on the chip", target)
    if target.adc.bits is None or target.adc.conversion == "per_bit":
        return layer.model_copy(update={"coding": coding, "adc_range_ua": None})
    spread = target.device.read_spread_us if sigma_us is None else sigma_us
    try:
        choice = choose_range(samples.vectors, devices, coding, layer.row_cuts, target, sigma_us=spread, key=layer.name)
    except FitError as error:
        raise FitError(error.what, where=f"layer {layer.name}, {error.where}", fix=error.fix) from error
    coding = coding.model_copy(update={"gain": choice.gain, "bits_lost": choice.bits_lost})
    return layer.model_copy(update={"coding": coding, "adc_range_ua": choice.range_ua})


def _largest_unit_read(phases: Sequence[F32], row_cuts: tuple[int, ...], target: Target, sigma_us: float) -> float:
    """Largest current of a unit column or of references, whose saturation would spoil every column; 0 where there is none."""
    device = target.device
    if not has_units(target) or not len(phases[0]):
        return 0.0
    held = unit_goal_us(target) + device.programming.mean_us
    parts = [phase[:, :, begin:end] for phase in phases for begin, end in pairwise(row_cuts)]
    currents = [held * np.abs(part.sum(axis=2)) + _SIGMAS * sigma_us * np.sqrt((part * part).sum(axis=2)) for part in parts]
    return max(float(current.max()) for current in currents) * device.read_voltage_v


def _lowered(
    full_gain: float, limit: float, idle: float, current: float, needed: Callable[[float], float], target: Target
) -> float:
    """About the largest gain whose reads stay within the range: they reach 95 % of it, or after so many guesses less."""
    if idle >= limit:
        raise FitError(
            f"columns carry {idle:.4g} µA without any input, the ADC's range is {limit:.4g} µA",
            where=f"target {target.name}, adc.range_ua",
            fix="--set dac.signed=two_phase, --set adc.range_ua=null, or fewer array.rows",
        )
    # As shares of the full gain. Currents are linear in it but for the rounding of codes, so the first guess mostly holds.
    low, high, at_high = 0.0, 1.0, current
    for attempt in range(40):
        guess = high * (limit - idle) / (at_high - idle) * 0.985
        share = guess if low == 0.0 and attempt < _GUESSES else (low + high) / 2 if low else high * 0.9
        found = needed(full_gain * share)
        if found <= limit:
            low = share
            if found > 0.95 * limit:
                break
        else:
            high, at_high = share, found
        if low and (attempt >= _GUESSES or high - low < 0.03 * high):
            break
    if low == 0.0:
        raise FitError(
            f"no input gain keeps the columns within {limit:.4g} µA",
            where=f"target {target.name}, adc.range_ua",
            fix="--set adc.range_ua=null, or fewer array.rows",
        )
    return full_gain * low


def _fitting(vectors: F32, devices: Devices, row_cuts: tuple[int, ...], key: object) -> F32:
    """As many of the vectors, drawn by key, as `READS` asks for."""
    if len(vectors) <= MIN_VECTORS:
        return vectors
    groups, _, columns = devices(row_cuts[0], row_cuts[1]).shape
    wanted = max(MIN_VECTORS, READS // (groups * columns * (len(row_cuts) - 1)))
    if len(vectors) <= wanted:
        return vectors
    return vectors[np.sort(keyed(key, "vectors").permutation(len(vectors))[:wanted])]
