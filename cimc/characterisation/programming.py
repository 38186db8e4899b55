"""Programming error from program-and-verify records: a formula of the goal, or a table of quantiles where none fits."""

from __future__ import annotations

import numpy as np

from cimc.characterisation.cells import F64, I64, Cells, binned, grouped, statistics
from cimc.characterisation.effect import Effect, need, rounded
from cimc.characterisation.error_table import better_table
from cimc.characterisation.normal_fit import Form, Linear, Saturating
from cimc.characterisation.reader import Measured
from cimc.characterisation.uncertainty import FEWEST, Interval, chosen, figures, interval, positive_interval, resamples

#: Records that a fit needs, those that each parameter of a form needs, and goals whose error is told apart at most.
_RECORDS, _EACH, _SHOWN = 40, 15, 10
#: Records of a write beyond so many times the youngest age are left out: what has drifted is no programming error.
_YOUNG = 10.0


def fit_programming(written: Measured, read_sigma_us: float | None, seed: int) -> Effect:
    """``programming`` and the window, of records of devices that are not stuck.

    Args:
        written: The records.
        read_sigma_us: Read noise that is part of the read-back, which is taken off; None: not measured.
        seed: Of folds and resamples.

    Raises:
        DataError: Too few devices or records.
    """
    notes = list(written.notes)
    if "age_s" in written.columns:
        age = written["age_s"]
        young = age <= _YOUNG * age[age > 0].min(initial=np.inf) if (age > 0).any() else np.ones(age.size, bool)
        if not young.all():
            notes.append(f"{(~young).sum()} records of writes that are older than {_YOUNG:g} times the youngest are left out")
            written = written.rows(young)
    devices = int(np.unique(written.device).size)
    need(devices, FEWEST, "devices", written.source)
    need(written.device.size, _RECORDS, "records", written.source)
    goal, error = written["goal_us"], written["read_us"] - written["goal_us"]
    unit = float(goal.max()) or 1.0
    centre, cell = binned(goal / unit)
    group, groups = grouped(written.device)
    cells = statistics(group, groups, cell, centre.size, error)
    if read_sigma_us is None:
        notes.append("no file of reads: the programming error holds the noise of the read-back too")
    known = np.full(centre.size, (read_sigma_us or 0.0) ** 2)
    forms = _forms(centre, known, written.device.size)
    form, likelihoods = chosen(forms, cells, seed, clearly=0.0)
    parameters = form.fit(cells.whole)
    mean, sigma = form.moments(parameters)
    spread = np.sqrt(sigma[0] ** 2 + known)
    residuals = (error - mean[0][cell]) / np.maximum(spread[cell], 1e-30)
    source = f"{written.source}, {devices} devices"
    window = {"g_min_us": rounded(float(goal.min())), "g_max_us": rounded(unit)} if np.ptp(goal) > 0 else {}
    intervals = _at_goals(goal, error, float(known[0]), group, groups, devices, seed)
    notes += _misfit(intervals, form, parameters, centre, unit)
    table = better_table(goal, error, residuals, form.name, group, groups, seed)
    if table is not None:
        if read_sigma_us:
            notes.append("a table of quantiles: the noise of the read-back is not taken off")
        return Effect(
            window | {f"programming.{name}": value for name, value in table.figures.items()}, source, intervals,
            likelihoods | table.scores, "table", residuals, _devices_apart(residuals, written), tuple(notes),
        )  # fmt: skip
    section, own = _section(form, cells, devices, seed, unit)
    return Effect(
        window | {f"programming.{name}": value for name, value in section.items()}, source, own | intervals, likelihoods,
        form.name, residuals, _devices_apart(residuals, written), tuple(notes),
    )  # fmt: skip


def _forms(x: F64, known: F64, records: int) -> list[Form]:
    """Formulas that the goals and records allow, fewest parameters first."""
    most = min(x.size - 1, 4)
    degrees = [(m, s) for m in range(min(most, 3) + 1) for s in range(most + 1) if records >= _EACH * (m + s + 2)]
    forms: list[Form] = [
        Linear(
            "gaussian" if m == s == 0 else f"polynomial of degree {m} in the mean and {s} in the deviation",
            np.vander(x, m + 1, increasing=True), np.vander(x, s + 1, increasing=True), known,
        )
        for m, s in sorted(degrees, key=sum)
    ]  # fmt: skip
    forms += [Saturating(x, known)] if most >= 2 else []
    return sorted(forms, key=lambda form: form.count)


def _section(form: Form, cells: Cells, devices: int, seed: int, unit: float) -> tuple[dict[str, object], dict[str, Interval]]:
    """Fields of the section ``programming`` with their intervals."""
    parameters, intervals = figures(form, cells, devices, seed, lambda values: values)
    if isinstance(form, Saturating):
        named = dict(zip(("programming.limit_us", "programming.knee"), intervals, strict=True))
        limit, knee = (rounded(value) for value in parameters)
        return {"kind": "saturating", "unit_us": unit, "limit_us": limit, "knee": knee}, named
    assert isinstance(form, Linear)
    p = form.mean.shape[1]
    mean, sigma = ([rounded(value) for value in part] for part in (parameters[:p], parameters[p:]))
    if form.count == 2:
        return (
            {"kind": "gaussian", "mean_us": mean[0], "sigma_us": max(sigma[0], 0.0)},
            dict(zip(("programming.mean_us", "programming.sigma_us"), intervals, strict=True)),
        )
    names = [f"programming.mean_coefficients_us.{n}" for n in range(p)]
    names += [f"programming.sigma_coefficients_us.{n}" for n in range(len(sigma))]
    section = {"kind": "polynomial", "unit_us": unit, "mean_coefficients_us": mean, "sigma_coefficients_us": sigma}
    return section, dict(zip(names, intervals, strict=True))


def _at_goals(goal: F64, error: F64, known: float, group: I64, groups: int, devices: int, seed: int) -> dict[str, Interval]:
    """Mean and deviation of the error at some goals, as measured: they hold whatever the form."""
    centre, cell = binned(goal, _SHOWN)
    drawn = np.concatenate([np.ones((1, groups)), resamples(groups, seed)])
    cells = statistics(group, groups, cell, centre.size, error).weighted(drawn)
    count = np.maximum(cells.count, 1)
    mean = cells.total / count
    variance = np.maximum(cells.squares / count - mean**2, 0) * count / np.maximum(count - 1, 1)
    sigma = np.sqrt(np.maximum(variance - known, 0))
    found = {}
    for what, values, made in (("mean", mean, interval), ("deviation", sigma, positive_interval)):
        for n, at in enumerate(centre):
            name = f"programming error at {at:.4g} µS, {what}"
            found[name] = made(float(values[0, n]), values[1:, n], devices)
    return found


def _misfit(measured: dict[str, Interval], form: Form, parameters: F64, x: F64, unit: float) -> tuple[str, ...]:
    """Goals at which the fit leaves the interval of what was measured, where these are more than chance gives."""
    mean, sigma = form.moments(parameters)
    outside = []
    for name, one in measured.items():
        at = float(name.split()[3]) / unit
        value = float(np.interp(at, x, mean[0] if name.endswith("mean") else sigma[0]))
        if not one.low <= value <= one.high:
            outside.append(name)
    if len(outside) <= 2 + 0.1 * len(measured):
        return ()
    return (f"the fit leaves the 95 % interval of the measured values at {len(outside)} of {len(measured)} places",)


def _devices_apart(residuals: F64, written: Measured) -> tuple[str, ...]:
    """The share of the error that a device repeats from write to write, by analysis of variance."""
    _, device = np.unique(written.device, return_inverse=True)
    number = np.bincount(device)
    if (number < 2).all():
        return ()
    total, square = np.bincount(device, residuals), np.bincount(device, residuals**2)
    count, devices = number.sum(), number.size
    within = (square - total**2 / number).sum() / (count - devices)
    between = (total**2 / number).sum() - total.sum() ** 2 / count
    effective = (count - (number**2).sum() / count) / (devices - 1)
    share = max((between / (devices - 1) - within) / effective, 0.0)
    if within <= 0:
        return ()
    # The ratio of the two mean squares spreads by about this where no device differs.
    if between / (devices - 1) / within - 1 <= 4 * np.sqrt(2 / (devices - 1) + 2 / (count - devices)):
        return ()
    return (
        f"a device repeats {share:.0%} of its programming error variance from write to write (the rest is drawn anew); "
        "the simulation draws all of it anew",
    )
