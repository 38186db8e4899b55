"""Drift and relaxation from conductances over the time since a write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cimc.characterisation.cells import F64, I64, Cells, binned, grouped, statistics
from cimc.characterisation.effect import Effect, need, rounded
from cimc.characterisation.normal_fit import Form, Linear
from cimc.characterisation.reader import Measured
from cimc.characterisation.uncertainty import FEWEST, Interval, chosen, figures, held_out

_RECORDS = 40
#: A first read within so many times the usual first age counts as one at that age.
_NEAR = 2.0
_AGES, _CONDUCTANCES = 16, 8


@dataclass(frozen=True)
class _Moves:
    """What devices did between their first read and later ones; arrays are ``[n]``, a record each."""

    device: I64
    first_us: F64
    later_us: F64
    growth: F64
    """ln(t / t0)."""
    t0_s: float
    unit_us: float
    notes: tuple[str, ...]


def fit_retention(kept: Measured, read_sigma_us: float | None, seed: int) -> Effect:
    """``drift``: null, ``relaxation`` or ``power_law``, whichever makes held-out devices most likely.

    Args:
        kept: The records.
        read_sigma_us: Read noise, which is taken off; None: not measured.
        seed: Of folds and resamples.

    Raises:
        DataError: Too few devices or records.
    """
    moves = _moves(kept)
    notes = [*kept.notes, *moves.notes]
    if read_sigma_us is None:
        notes.append("no file of reads: the deviation of drift holds the noise of two reads too")
    group, groups = grouped(moves.device)
    cell, x, growth = _cells(moves)
    known = np.full(x.size, 2 * (read_sigma_us or 0.0) ** 2)
    shift = statistics(group, groups, cell, x.size, moves.later_us - moves.first_us)
    form, likelihoods = chosen(_relaxations(x, growth, known), shift, seed)
    devices = int(np.unique(moves.device).size)
    source = f"{kept.source}, {devices} devices"
    positive = (moves.later_us > 0) & (moves.first_us > 0)
    if positive.all():
        loss = statistics(group, groups, cell, x.size, -np.log(moves.later_us / moves.first_us))
        noise = _noise_of_loss(moves, read_sigma_us or 0.0)
        relative = np.bincount(cell, noise) / np.bincount(cell)
        power, others = chosen(_power_laws(x, growth, relative), loss, seed)
        # The density of a conductance is that of its logarithm over the conductance.
        lost = np.bincount(group, np.log(moves.later_us), minlength=groups)
        per_record = float(lost.sum()) / moves.device.size
        likelihoods |= {name: value - per_record for name, value in others.items()}
        gain = held_out(power, loss, seed) - lost - held_out(form, shift, seed)
        if form.name != "none" and gain.mean() > 0:
            return _power_law(power, loss, moves, noise, devices, seed, source, likelihoods, tuple(notes))
    else:
        notes.append("some conductances are 0 or below: a power law was not tried")
    mean, sigma = form.moments(form.fit(shift.whole))
    residuals = (moves.later_us - moves.first_us - mean[0][cell]) / np.maximum(np.sqrt(sigma[0] ** 2 + known)[cell], 1e-30)
    if form.name == "none":
        return Effect({"drift": None}, source, {}, likelihoods, form.name, residuals, (), tuple(notes))
    assert isinstance(form, Linear)
    parameters, intervals = figures(form, shift, devices, seed, lambda values: values)
    terms = form.mean.shape[1] // 2
    fields = {"kind": "relaxation", "unit_us": rounded(moves.unit_us), "t0_s": rounded(moves.t0_s), "around": "written"}
    named: dict[str, Interval] = {}
    for n, name in enumerate(("mean_us", "mean_growth_us", "sigma_us", "sigma_growth_us")):
        part = slice(n * terms, (n + 1) * terms)
        fields[name] = [rounded(value) for value in parameters[part]]
        named |= {f"drift.{name}.{m}": one for m, one in enumerate(intervals[part])}
    paths = {f"drift.{name}": value for name, value in fields.items()}
    return Effect(paths, source, named, likelihoods, form.name, residuals, (), tuple(notes))


def _moves(kept: Measured) -> _Moves:
    """Later reads of each device against its first one."""
    order = np.lexsort((kept["age_s"], kept.device))
    device, age, g_us = kept.device[order], kept["age_s"][order], kept["g_us"][order]
    first = np.flatnonzero(np.r_[True, device[1:] != device[:-1]])
    run = np.repeat(first, np.diff(np.r_[first, device.size]))
    t0_s = float(np.median(age[first]))
    t0_s = t0_s if t0_s > 0 else float(age[age > 0].min(initial=1.0))
    near = (age[run] <= _NEAR * t0_s) & (age[run] >= t0_s / _NEAR) | (age[run] == 0)
    later = near & (age > t0_s * 1.001) & (np.arange(device.size) != run)
    left = int(np.unique(device[~near]).size)
    notes = (f"{left} devices whose first read is not at about {t0_s:.3g} s are left out",) * bool(left)
    need(int(np.unique(device[later]).size), FEWEST, "devices with a read at a later age", kept.source)
    need(int(later.sum()), _RECORDS, "records of later ages", kept.source)
    growth = np.log(age[later] / t0_s)
    return _Moves(device[later], g_us[run][later], g_us[later], growth, t0_s, max(float(g_us[run].max()), 1e-9), notes)


def _cells(moves: _Moves) -> tuple[I64, F64, F64]:
    """Cell of each record, and of each cell x (first conductance over the unit) and the growth."""
    _, by_age = binned(moves.growth, _AGES)
    _, by_x = binned(moves.first_us, _CONDUCTANCES)
    _, cell = np.unique(by_age * _CONDUCTANCES + by_x, return_inverse=True)
    count = np.bincount(cell)
    x = np.bincount(cell, moves.first_us / moves.unit_us) / count
    return cell.astype(np.int64), x, np.bincount(cell, moves.growth) / count


def _noise_of_loss(moves: _Moves, read_sigma_us: float) -> F64:
    """Variance that the read noise of both reads gives to the logarithm of their ratio, ``[n]``; conductances are positive."""
    return read_sigma_us**2 * (np.maximum(moves.first_us, 1e-9) ** -2.0 + np.maximum(moves.later_us, 1e-9) ** -2.0)


def _relaxations(x: F64, growth: F64, known: F64) -> list[Form]:
    """No drift, and relaxation with polynomials of x of degree 0 and 1."""
    noise = np.ones((x.size, 1))
    forms: list[Form] = [Linear("none", np.zeros((x.size, 0)), noise, known)]
    for degree in (0, 1):
        if np.unique(growth.round(9)).size < 2 or (degree and np.ptp(x) < 0.1):
            continue
        powers = np.vander(x, degree + 1, increasing=True)
        design = np.hstack([powers, powers * growth[:, None]])
        forms.append(Linear(f"relaxation of degree {degree}", design, design, known))
    return forms


def _power_laws(x: F64, growth: F64, known: F64) -> list[Form]:
    """Power laws whose exponent has a mean and a deviation that are polynomials of x."""
    forms: list[Form] = []
    for degree in (0, 1, 2):
        if degree and np.ptp(x) < 0.1:
            continue
        design = np.vander(x, degree + 1, increasing=True) * growth[:, None]
        forms.append(Linear(f"power law of degree {degree}", design, design, known))
    return forms


def _power_law(
    form: Form, loss: Cells, moves: _Moves, noise: F64, devices: int, seed: int, source: str, likelihoods: dict[str, float],
    notes: tuple[str, ...],
) -> Effect:  # fmt: skip
    parameters, intervals = figures(form, loss, devices, seed, lambda values: values)
    terms = parameters.size // 2
    paths = {
        "drift.kind": "power_law", "drift.unit_us": rounded(moves.unit_us), "drift.t0_s": rounded(moves.t0_s),
        "drift.nu_mean.polynomial": [rounded(value) for value in parameters[:terms]],
        "drift.nu_sigma.polynomial": [rounded(value) for value in parameters[terms:]],
    }  # fmt: skip
    names = [f"drift.{name}.polynomial.{n}" for name in ("nu_mean", "nu_sigma") for n in range(terms)]
    x = moves.first_us / moves.unit_us
    powers = np.vander(x, terms, increasing=True)
    off = -np.log(moves.later_us / moves.first_us) - powers @ parameters[:terms] * moves.growth
    sigma = np.maximum(powers @ parameters[terms:], 0) * moves.growth
    residuals = off / np.maximum(np.sqrt(sigma**2 + noise), 1e-30)
    return Effect(paths, source, dict(zip(names, intervals, strict=True)), likelihoods, form.name, residuals, (), notes)
