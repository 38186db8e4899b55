"""Maximum-likelihood fits of a normal response whose mean and deviation are linear in their parameters.

``response ~ Normal(M b, (S c)^2 + known)`` for each cell, by Fisher scoring in b and c in turn (Aitkin 1987, doi
10.2307/2347792). Many resamples are fitted at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cimc.characterisation.cells import F64, Cells

_ROUNDS = 30
#: Smallest deviation in a fit, in parts of the root mean square of the response.
_FLOOR = 0.01


class Form(Protocol):
    """A family of normal distributions by cell. Parameters are ``[resamples, parameters]``."""

    @property
    def name(self) -> str:
        """For messages and the table of likelihoods."""

    @property
    def count(self) -> int:
        """Number of parameters."""

    @property
    def known(self) -> F64:
        """Variance of each cell that another measurement has shown, ``[cells]``."""

    def fit(self, cells: Cells) -> F64:
        """Parameters of each resample."""

    def moments(self, parameters: F64) -> tuple[F64, F64]:
        """Mean and deviation of the effect in each cell, ``[resamples, cells]``; noise that is known apart is not in it."""


@dataclass(frozen=True)
class Linear:
    """Mean ``M b`` and deviation ``max(S c, 0)``; the parameters are b, then c.

    Args:
        name: For messages.
        mean: M, ``[cells, p]``; p may be 0.
        sigma: S, ``[cells, q]``.
        known: Variance of each cell that another measurement has shown, ``[cells]``.
    """

    name: str
    mean: F64
    sigma: F64
    known: F64

    @property
    def count(self) -> int:
        """See `Form`."""
        return int(self.mean.shape[1] + self.sigma.shape[1])

    def moments(self, parameters: F64) -> tuple[F64, F64]:
        """See `Form`."""
        p = self.mean.shape[1]
        return parameters[:, :p] @ self.mean.T, np.maximum(parameters[:, p:] @ self.sigma.T, 0)

    def fit(self, cells: Cells) -> F64:
        """See `Form`. Deviations are enlarged for the degrees of freedom that the mean takes."""
        n, p = cells.count, self.mean.shape[1]
        records = n.sum(axis=1, keepdims=True)
        rms = np.sqrt(cells.squares.sum(axis=1, keepdims=True) / records)
        floor = np.maximum(_FLOOR * rms, 1e-9)
        b = np.zeros((n.shape[0], p))
        variance = np.broadcast_to(np.maximum(rms, floor) ** 2, n.shape)
        c = np.zeros((n.shape[0], self.sigma.shape[1]))
        for turn in range(_ROUNDS):
            if p:
                b = _solved(self.mean, n / variance, cells.total / variance)
            mean = b @ self.mean.T
            square = cells.squares - 2 * mean * cells.total + n * mean * mean
            if turn == 0:
                spread = np.sqrt(np.maximum(square / np.maximum(n, 1) - self.known, floor**2))
                c = _solved(self.sigma, n, n * spread)
            sigma = np.maximum(c @ self.sigma.T, floor)
            variance = sigma * sigma + self.known
            weight = 2 * sigma * sigma / variance**2
            before, c = c, _solved(self.sigma, n * weight, weight * (n * sigma + (square - n * variance) / (2 * sigma)))
            sigma = np.maximum(c @ self.sigma.T, floor)
            variance = sigma * sigma + self.known
            if np.abs(c - before).max() <= 1e-5 * rms.max():
                break
        return np.concatenate([b, c * np.sqrt(records / np.maximum(records - p, 1))], axis=1)


@dataclass(frozen=True)
class Saturating:
    """Mean 0 and deviation ``limit * (1 - exp(-x / knee))``; the parameters are limit and knee.

    Args:
        x: Of each cell, ``[cells]``.
        known: As `Linear`.
    """

    x: F64
    known: F64
    name: str = "saturating"
    count: int = 2

    def moments(self, parameters: F64) -> tuple[F64, F64]:
        """See `Form`."""
        sigma: F64 = parameters[:, :1] * -np.expm1(-self.x / parameters[:, 1:])
        return np.zeros(sigma.shape), sigma

    def fit(self, cells: Cells) -> F64:
        """See `Form`. The likelihood is looked at over a grid of knees, and its top found by a parabola."""
        knees = np.geomspace(0.02, 5.0, 40)
        limits, likelihoods = [], []
        for knee in knees:
            own = Linear(self.name, np.zeros((self.x.size, 0)), -np.expm1(-self.x / knee)[:, None], self.known)
            limit = np.maximum(own.fit(cells), 0)
            limits.append(limit[:, 0])
            likelihoods.append(log_likelihood(own, limit, cells))
        table, which = np.array(likelihoods), np.arange(cells.count.shape[0])
        top = np.clip(table.argmax(axis=0), 1, knees.size - 2)
        low, middle, high = (table[top + step, which] for step in (-1, 0, 1))
        curvature = np.minimum(low - 2 * middle + high, -1e-12)
        shift = np.clip(0.5 * (low - high) / curvature, -1, 1)
        step = np.log(knees[1] / knees[0])
        knee = knees[top] * np.exp(shift * step)
        limit = np.stack([np.interp(k, knees, own) for k, own in zip(knee, np.array(limits).T, strict=True)])
        return np.stack([limit, knee], axis=1)


def log_likelihood(form: Form, parameters: F64, cells: Cells) -> F64:
    """Logarithm of the likelihood of each resample's cells under its parameters, ``[resamples]``."""
    mean, sigma = form.moments(parameters)
    records = np.maximum(cells.count.sum(axis=1, keepdims=True), 1)
    least = (_FLOOR**2) * cells.squares.sum(axis=1, keepdims=True) / records + 1e-18
    variance = np.maximum(sigma * sigma + form.known, least)
    square = cells.squares - 2 * mean * cells.total + cells.count * mean * mean
    found: F64 = -0.5 * (cells.count * np.log(2 * np.pi * variance) + square / variance).sum(axis=1)
    return found


def _solved(design: F64, weight: F64, right: F64) -> F64:
    """Weighted least squares of each resample: weights and weighted responses ``[resamples, cells]``."""
    matrix = (weight[:, None, :] * design.T) @ design
    size = design.shape[1]
    ridge = 1e-10 * np.trace(matrix, axis1=1, axis2=2)[:, None, None] / max(size, 1) + 1e-300
    found: F64 = np.linalg.solve(matrix + ridge * np.eye(size), (right @ design)[..., None])[..., 0]
    return found
