"""How sure a fit is: bootstrap over devices, and the likelihood of devices that were held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import NormalDist

import numpy as np

from cimc.characterisation.cells import F64, Cells
from cimc.characterisation.normal_fit import Form, log_likelihood

RESAMPLES, FOLDS = 200, 5
#: Fewest devices of a fit: fewer say too little of the spread between devices.
FEWEST = 8


@dataclass(frozen=True)
class Interval:
    """A fitted figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    devices: int
    """Devices that it was fitted to."""

    @property
    def more_devices(self) -> int:
        """Further devices that would halve the interval, whose width falls with the root of their number."""
        return 3 * self.devices


def t_quantile(share: float, degrees: int) -> float:
    """Quantile of Student's distribution for 7 degrees of freedom or more (Abramowitz and Stegun, 26.7.5)."""
    z, v = NormalDist().inv_cdf(share), float(degrees)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def interval(value: float, resampled: F64, devices: int) -> Interval:
    """95 % interval of a figure from its bootstrap values, by their deviation and Student's distribution."""
    half = t_quantile(0.975, devices - 1) * float(resampled.std()) * sqrt(devices / (devices - 1))
    return Interval(value, value - half, value + half, devices)


def positive_interval(value: float, resampled: F64, devices: int) -> Interval:
    """As `interval`, of a logarithm: for a deviation, whose errors are about as large in parts of it wherever it lies."""
    if value <= 0 or (resampled <= 0).any():
        return interval(value, resampled, devices)
    one = interval(log(value), np.log(resampled), devices)
    return Interval(value, exp(one.low), exp(one.high), devices)


def share_interval(hits: int, devices: int) -> Interval:
    """95 % interval of a share of devices (Wilson 1927, doi 10.2307/2276774)."""
    z, n, share = NormalDist().inv_cdf(0.975), devices, hits / devices
    centre, half = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Interval(share, max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0), devices)


def resamples(groups: int, seed: int) -> F64:
    """How often each group is drawn in each resample, ``[resamples, groups]``."""
    drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES)
    return drawn.astype(np.float64)


def held_out(form: Form, cells: Cells, seed: int) -> F64:
    """Log-likelihood of each group under a fit to groups of the other folds, ``[groups]``."""
    fold = np.random.default_rng(seed).permutation(cells.groups) % FOLDS
    others = (fold[None, :] != np.arange(FOLDS)[:, None]).astype(np.float64)
    parameters = form.fit(cells.weighted(others))
    return log_likelihood(form, parameters[fold], cells)


def chosen(forms: Sequence[Form], cells: Cells, seed: int, clearly: float = 1.0) -> tuple[Form, dict[str, float]]:
    """The first form that is about as likely for held-out devices as the best one, and the log-likelihood of a record under each.

    Args:
        forms: Simple ones first.
        cells: The records.
        seed: Of the folds.
        clearly: Standard errors, over groups, by which a later form must be better.
    """
    scores = {form.name: held_out(form, cells, seed) for form in forms}
    best = max(scores.values(), key=lambda score: float(score.sum()))
    for form in forms:
        lost = best - scores[form.name]
        if lost.mean() <= clearly * lost.std() / sqrt(cells.groups):
            break
    return form, {name: float(score.sum() / cells.count.sum()) for name, score in scores.items()}


def figures(form: Form, cells: Cells, devices: int, seed: int, wanted: Callable[[F64], F64]) -> tuple[F64, list[Interval]]:
    """Parameters of the fit (``[parameters]``), and an interval for each figure that ``wanted`` makes of parameters.

    Args:
        form: What is fitted.
        cells: The records.
        devices: How many devices they are of.
        seed: Of the resamples.
        wanted: Parameters ``[resamples, parameters]`` to figures ``[resamples, figures]``.
    """
    whole = form.fit(cells.whole)
    values, drawn = wanted(whole)[0], wanted(form.fit(cells.weighted(resamples(cells.groups, seed))))
    return whole[0], [interval(float(value), drawn[:, n], devices) for n, value in enumerate(values)]
