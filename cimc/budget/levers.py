"""What would help: each lever is tried on the same samples, with the draws of the chip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import log10

from cimc.budget.bench import Bench, Outcome
from cimc.budget.causes import EXACT, Cause, Kept
from cimc.budget.parts import error_of_lost, mean_lost
from cimc.budget.result import Lever, Part
from cimc.targets.description import Target, figures_of

#: A cause below this share of the error is no lever; nor is what brings no accuracy and fewer dB than this.
_WORTH, _WORTH_DB = 0.01, 0.05
#: Causes that a better chip halves, and the figures that it would state; the others are taken off as a whole.
_FIGURES: dict[Cause, tuple[str, ...]] = {
    "programming error": ("device.programming.sigma_us", "device.programming.limit_us"),
    "read noise": ("device.read_sigma_us", "device.slow_noise.sigma_us", "device.slow_noise.relative"),
    "ADC noise": ("adc.sigma_lsb",),
    "ADC mismatch": ("adc.gain_sigma", "adc.offset_sigma_lsb", "adc.bow_sigma_lsb"),
    "IR drop": (
        "array.wires.row_segment_ohm", "array.wires.column_segment_ohm", "array.wires.driver_ohm", "array.wires.sense_ohm",
    ),
}  # fmt: skip
_HALF: tuple[Cause, ...] = (*_FIGURES, "drift", "weight rounding", "DAC step", "ADC step")


def levers_of_chip(bench: Bench, whole: Outcome, causes: Iterable[Part]) -> list[Lever]:
    """Other figures of the target: what is random or rounded halved, what is clipped or faulty taken off."""
    found = []
    for part in causes:
        if part.error_share < _WORTH or part.cause == "scale":
            continue
        kept: Kept = {part.cause: 0.5 if part.cause in _HALF else 0.0}
        tried = bench.kept({layer: kept for layer in bench.layers if part.cause in bench.causes_of(layer)})
        found.append(lever(whole, tried, told(part.cause, bench.chip.program.target), "chip"))
    return found


def levers_of_layers(bench: Bench, whole: Outcome, rows: Iterable[Part]) -> list[Lever]:
    """Each layer that matters made exact, and each fault of a program mended."""
    shares: dict[str, float] = {}
    found = []
    for row in rows:
        assert row.layer is not None
        shares[row.layer] = shares.get(row.layer, 0.0) + row.error_share
        if row.cause == "scale":
            tried = bench.kept({row.layer: {"scale": 0.0}})
            found.append(lever(whole, tried, f"a digital scale of layer {row.layer} that fits its weights", "program", row.layer))
    for layer, share in shares.items():
        if share >= _WORTH and len(shares) > 1:
            tried = bench.kept({layer: EXACT})
            found.append(lever(whole, tried, f"layer {layer} in the digital unit, exact", "layer", layer))
    return found


def ranked(levers: Iterable[Lever]) -> list[Lever]:
    """Those that bring accuracy or SQNR, most first; what lowers the SQNR must bring more accuracy than two standard errors."""
    useful = []
    for one in levers:
        least = 0.0 if one.gained_db >= _WORTH_DB else max(0.0, 2 * (one.standard_error or 0.0))
        if one.brings >= least and (one.brings > 0 or one.gained_db >= _WORTH_DB):
            useful.append(one)
    return sorted(useful, key=lambda one: (-one.brings, -one.gained_db))


def lever(whole: Outcome, tried: Outcome, what: str, kind: str, layer: str | None = None) -> Lever:
    """What an execution brings over the chip as it is."""
    gained_db = 10 * log10(whole.error / max(tried.error, 1e-12 * whole.signal)) if whole.error > 0 and whole.signal > 0 else 0.0
    gained, deviation = mean_lost(tried, whole), error_of_lost(tried, whole)
    return Lever(what, kind, layer, gained_db if gained is None else gained, deviation, gained_db)


def told(cause: Cause, target: Target) -> str:
    """What a better chip would have, with the figures of the target."""
    figures = figures_of(target)
    if cause == "ADC step":
        return f"ADC with one bit more: adc.bits from {target.adc.bits} to {(target.adc.bits or 0) + 1}"
    if cause == "DAC step":
        return f"DAC with one bit more: dac.bits from {target.dac.bits} to {(target.dac.bits or 0) + 1}"
    if cause == "weight rounding":
        return _finer_weights(target)
    if cause == "weight clipping":
        return "a window that spans the largest weight, at the same step: more levels, or weights.clip_sigma=null"
    if cause == "DAC clipping":
        return "no clipped inputs, at the same step: a DAC with a larger range, or calibration data that reach as far"
    if cause == "ADC saturation":
        return "an ADC range that no current leaves, at the same step: a larger range with more bits"
    if cause == "faults":
        return "no stuck devices" + _stated(figures, ("device.stuck_low_rate", "device.stuck_high_rate"), 0.0)
    if cause == "drift":
        return "half of what devices drift: refresh them earlier, or device.drift.compensation"
    return f"{cause} halved{_stated(figures, _FIGURES.get(cause, ()), 0.5)}"


def _stated(figures: Mapping[str, object], paths: Iterable[str], factor: float) -> str:
    """``: PATH from A to B`` for each figure that the target states."""
    stated = {path: value for path in paths if isinstance(value := figures.get(path), int | float) and value}
    return ": " * bool(stated) + ", ".join(f"{path} from {value:g} to {value * factor:g}" for path, value in stated.items())


def _finer_weights(target: Target) -> str:
    levels, bits = target.device.levels, target.weights.bits
    if bits is not None:
        return f"weights of one bit more: weights.bits from {bits} to {bits + 1}"
    return f"level steps halved: device.levels from {levels} to {2 * (levels or 1) - 1}"
