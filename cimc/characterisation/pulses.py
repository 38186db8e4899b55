"""The response to blind pulses: mean steps, and their spread from pulse to pulse and from device to device apart."""

from __future__ import annotations

import numpy as np

from cimc.characterisation.cells import F64, I64, binned, grouped, statistics
from cimc.characterisation.effect import Effect, need, rounded
from cimc.characterisation.normal_fit import Form, Linear
from cimc.characterisation.reader import Measured
from cimc.characterisation.uncertainty import FEWEST, Interval, chosen, interval, resamples
from cimc.errors import DataError

_RECORDS = 40
#: Pulses where soft bounds leave less than this part of the step at the middle say little of the spread.
_LEAST_SHAPE = 0.3
#: A device whose mean answer stays below this part of the others' does not respond.
_DEAD = 0.2
_POWERS = (0.5, 1.5, 2.0, 3.0)


def fit_pulses(trains: Measured, window_us: tuple[float, float] | None, read_sigma_us: float | None, seed: int) -> Effect:
    """``pulse``: soft bounds over the window; what other form fits better is told.

    Args:
        trains: The records.
        window_us: Lowest and highest conductance that weights are written to; None: the range that the pulses reached.
        read_sigma_us: Read noise, which is taken off; None: not measured.
        seed: Of folds and resamples.

    Raises:
        DataError: Too few devices or pulses.
    """
    trains, notes = _one_amplitude(trains)
    need(int(np.unique(trains.device).size), FEWEST, "devices", trains.source)
    paths: dict[str, float] = {}
    if window_us is None:
        both = np.concatenate([trains["before_us"], trains["after_us"]])
        window_us = max(float(both.min()), 0.0), float(both.max())
        paths |= {"g_min_us": rounded(window_us[0]), "g_max_us": rounded(window_us[1])}
        notes.append("no file of programming: g_min_us and g_max_us are the range that the pulses reached")
    half = (window_us[1] - window_us[0]) / 2
    if half <= 0:
        raise DataError("no pulse moves a conductance", where=trains.source, fix="check the columns before_us and after_us")
    u = np.clip((trains["before_us"] - window_us[0]) / half - 1, -1, 1)
    step, up = trains["after_us"] - trains["before_us"], trains["polarity"] > 0
    known_us2 = 2 * (read_sigma_us or 0.0) ** 2
    if read_sigma_us is None:
        notes.append("no file of reads: the spread of pulses holds the noise of two reads too")
    intervals: dict[str, Interval] = {}
    likelihoods: dict[str, float] = {}
    found: list[str] = []
    answer = np.full(step.size, np.nan)
    shape = np.where(up, 1 - u, 1 + u)
    for rising, name in ((True, "up"), (False, "down")):
        own = up == rising
        if not own.any():
            notes.append(f"no {name} pulses: pulse.{name}_us is not measured")
            continue
        need(int(own.sum()), _RECORDS, f"{name} pulses", trains.source)
        moved = step[own] if rising else -step[own]
        if moved.mean() <= 0:
            what = f"{name} pulses move conductances by {-moved.mean() if not rising else moved.mean():.3g} µS on the average"
            raise DataError(what, where=trains.source, fix="check the column polarity: up raises a conductance")
        one, scores, better = _mean_step(trains.device[own], shape[own], moved, known_us2, seed, trains.source)
        paths[f"pulse.{name}_us"], intervals[f"pulse.{name}_us"] = rounded(one.value), one
        likelihoods |= {f"{name}, {form}": value for form, value in scores.items()}
        found += [f"{name} pulses follow {better} better than soft bounds, which the simulation has"] if better else []
        answer[own] = moved / (one.value * np.maximum(shape[own], 1e-9))
    useful = (shape >= _LEAST_SHAPE) & np.isfinite(answer)
    scale = np.where(up, paths.get("pulse.up_us", 1.0), paths.get("pulse.down_us", 1.0)) * np.maximum(shape, 1e-9)
    spread, dead, residuals = spreads(trains.device[useful], answer[useful], (known_us2 / scale**2)[useful], seed)
    intervals |= {f"pulse.{name}": one for name, one in spread.items()}
    paths |= {f"pulse.{name}": rounded(one.value) for name, one in spread.items()}
    found += [dead] if dead else []
    devices = int(np.unique(trains.device).size)
    source = f"{trains.source}, {devices} devices"
    return Effect(paths, source, intervals, likelihoods, "soft bounds", residuals, tuple(found), tuple(notes))


def _one_amplitude(trains: Measured) -> tuple[Measured, list[str]]:
    """The pulses of the commonest amplitude of each polarity."""
    notes = list(trains.notes)
    if "amplitude_v" not in trains.columns:
        return trains, notes
    keep = np.zeros(trains.device.size, bool)
    for sign in (1.0, -1.0):
        own = trains["polarity"] == sign
        values, counts = np.unique(trains["amplitude_v"][own], return_counts=True)
        if values.size:
            common = values[counts.argmax()]
            keep |= own & (trains["amplitude_v"] == common)
            if values.size > 1:
                word = "up" if sign > 0 else "down"
                notes.append(f"{word} pulses of other amplitudes than {common:g} V are left out: {counts.sum() - counts.max()}")
    return trains.rows(keep), notes


def _mean_step(
    device: I64, shape: F64, moved: F64, known_us2: float, seed: int, source: str
) -> tuple[Interval, dict[str, float], str]:
    """The step at the middle under soft bounds, held-out likelihoods, and the form that is clearly likelier ("": none).

    Strong devices are more often near the end, so each device has a step of its own; the figure is the mean of those that
    respond.
    """
    names, code = np.unique(device, return_inverse=True)
    own = np.bincount(code, moved * shape) / np.maximum(np.bincount(code, shape * shape), 1e-12)
    responds = own > _DEAD * max(float(np.median(own)), 0.0)
    need(int(responds.sum()), FEWEST, "devices that respond to pulses", source)
    drawn = resamples(int(responds.sum()), seed)
    step = interval(float(own[responds].mean()), drawn @ own[responds] / responds.sum(), int(responds.sum()))
    some = responds[code]
    device, shape, moved = names[code[some]], shape[some], moved[some] * step.value / own[code[some]]
    centre, cell = binned(shape, 16)
    group, groups = grouped(device)
    cells = statistics(group, groups, cell, centre.size, moved)
    known = np.full(centre.size, known_us2)

    def form(name: str, design: F64) -> Linear:
        return Linear(name, design, np.hstack([design, np.ones((centre.size, 1))]), known)

    soft = form("soft bounds", centre[:, None])
    others: list[Form] = [form("equal steps", np.ones((centre.size, 1)))]
    others += [form(f"a power {power:g} of the distance to the end", centre[:, None] ** power) for power in _POWERS]
    if centre.size >= 8:
        knots = np.linspace(centre[0], centre[-1], 5)
        others.append(form("a table of steps", np.stack([np.interp(centre, knots, one) for one in np.eye(5)], axis=1)))
    best, scores = chosen([soft, *others], cells, seed, clearly=4.0)
    return step, scores, "" if best is soft else best.name


def spreads(device: I64, answer: F64, noise: F64, seed: int) -> tuple[dict[str, Interval], str, F64]:
    """Relative spread from pulse to pulse and of the mean step from device to device, by analysis of variance.

    Args:
        device: Of each pulse, ``[n]``.
        answer: Step over the mean step there, ``[n]``.
        noise: Variance of the answer by the noise of reads, ``[n]``.
        seed: Of the resamples.
    """
    _, code = np.unique(device, return_inverse=True)
    count = np.bincount(code).astype(np.float64)
    own = np.bincount(code, answer) / count
    error = np.sqrt(np.bincount(code, (answer - own[code]) ** 2) / np.maximum(count - 1, 1) / count)
    typical = float(np.median(own))
    dead = (own + 2 * error < _DEAD * typical) & (count >= 4)
    alive = ~dead & (count >= 2)
    told = f"{dead.sum()} of {dead.size} devices do not respond to pulses; the simulation lets every device respond" * bool(
        dead.any()
    )
    if alive.sum() < FEWEST:
        return {}, told, np.zeros(0)
    m, mean = count[alive], own[alive]
    within = np.bincount(code, (answer - own[code]) ** 2 - noise * (1 - 1 / count[code]))[alive]

    def of(weights: F64) -> F64:
        total = weights.sum(axis=1)
        cycle = np.maximum(weights @ within / (weights @ (m - 1)), 0)
        middle = weights @ mean / total
        about = weights @ mean**2 / total - middle**2
        device_part = np.maximum(about * total / (total - 1) - cycle * (weights @ (1 / m)) / total, 0)
        # A pulse's factor multiplies that of its device.
        found: F64 = np.sqrt(np.stack([cycle / (middle**2 + device_part), device_part / middle**2], axis=1))
        return found

    (whole,), drawn = of(np.ones((1, m.size))), of(resamples(m.size, seed))
    names = ("cycle_spread", "device_spread")
    found = {name: interval(float(whole[n]), drawn[:, n], m.size) for n, name in enumerate(names)}
    residuals = (answer - own[code])[alive[code]] / max(float(whole[0]), 1e-30)
    return found, told, residuals
