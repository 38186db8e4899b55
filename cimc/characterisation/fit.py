"""Fit a ``device`` section to measurements: `fit_device`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cimc.arguments import checked
from cimc.characterisation.amplitudes import fit_amplitudes
from cimc.characterisation.effect import Effect
from cimc.characterisation.programming import fit_programming
from cimc.characterisation.pulses import fit_pulses
from cimc.characterisation.read_noise import fit_reads
from cimc.characterisation.reader import Measured, read_measurements
from cimc.characterisation.result import DeviceFit
from cimc.characterisation.retention import fit_retention
from cimc.characterisation.spatial import neighbours
from cimc.characterisation.stuck import without_stuck
from cimc.errors import DataError


@checked()
def fit_device(paths: str | Path | Sequence[str | Path], seed: int = 0) -> DeviceFit:
    """Fit a device to measurements.

    Args:
        paths: CSV files; docs/measurements.md has their columns.
        seed: Of bootstrap and folds: the same seed and files give the same figures.

    Returns:
        The section ``device`` with intervals, residuals and sources.

    Raises:
        DataError: A file is wrong, or holds too few data: the number needed is told.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    if not files:
        raise DataError("no file of measurements is given", where="fit_device", fix="cimc device template writes empty ones")
    if seed < 0:
        raise DataError(f"the seed {seed} lies below 0", where="fit_device", fix="0 or above")
    tables = read_measurements(files)
    effects: dict[str, Effect] = {}
    read_sigma_us = None
    if "reads" in tables:
        effects["read noise"] = fit_reads(tables["reads"], seed)
        read_sigma_us = _typical(effects["read noise"])
    if "programming" in tables:
        effects |= _programming(tables["programming"], read_sigma_us, seed)
    if "retention" in tables:
        effects["drift"] = fit_retention(tables["retention"], read_sigma_us, seed)
    if "pulses" in tables:
        window = effects["programming error"].figures if "programming error" in effects else {}
        ends = (window["g_min_us"], window["g_max_us"]) if "g_min_us" in window else None
        effects["pulses"] = fit_pulses(tables["pulses"], ends, read_sigma_us, seed)
        growth = fit_amplitudes(tables["pulses"], read_sigma_us, seed)
        effects |= {} if growth is None else {"pulses of write-verify": growth}
    if not any("g_min_us" in effect.figures for effect in effects.values()):
        name, last = list(effects.items())[-1]
        note = "neither programming nor pulses were measured: g_min_us and g_max_us are those of the target that is extended"
        effects[name] = replace(last, notes=(*last.notes, note))
    return DeviceFit(effects)


def _typical(reads: Effect) -> float:
    """Read noise as one figure, root mean square over the measured conductances."""
    sigma_us = reads.figures.get("read_noise.sigma_us") or [reads.figures["read_sigma_us"]]
    return float(np.sqrt(np.square(sigma_us).mean()))


def _programming(written: Measured, read_sigma_us: float | None, seed: int) -> dict[str, Effect]:
    """Programming error of the devices that follow their goals, and the rates of those that do not."""
    sound, stuck = without_stuck(written)
    error = fit_programming(sound, read_sigma_us, seed)
    if error.residuals.size == sound.device.size:
        error = replace(error, found=error.found + neighbours(sound, error.residuals))
    return {"programming error": error} | ({} if stuck is None else {"stuck devices": stuck})
