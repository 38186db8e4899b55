"""A table of the quantiles of the programming error, and whether held-out devices prefer it to a normal error.

Both are compared by the likelihood of the error's bin, where bins are cut at quantiles of the standardised residuals. So a table,
which knows no error beyond its ends, has a likelihood too.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from cimc.characterisation.cells import F64, I64, binned
from cimc.characterisation.effect import rounded

_SHARES = np.array([0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1])
#: Records of a goal that a list of quantiles needs, and goals of a table at most.
_RECORDS, _GOALS = 100, 16
#: Standard errors by which held-out devices must prefer the table.
_CLEARLY = 4.0


@dataclass(frozen=True)
class ErrorTable:
    """Fields of a section of kind ``table``, and what was compared."""

    figures: dict[str, Any]
    scores: dict[str, float]


def better_table(
    goal_us: F64, error_us: F64, residuals: F64, normal: str, group: I64, groups: int, seed: int
) -> ErrorTable | None:
    """The table, if held-out devices clearly prefer it to the normal error of the form ``normal``; else None.

    Args:
        goal_us: Of each record, ``[n]``, µS.
        error_us: Read-back less goal, ``[n]``, µS.
        residuals: Errors standardised by the form, ``[n]``.
        normal: Name of the form.
        group: Group of devices of each record, ``[n]``.
        groups: Their number.
        seed: Of the folds.
    """
    goals, place = binned(goal_us, _GOALS)
    if np.bincount(place).min() < _RECORDS:
        return None
    edges = np.quantile(residuals, _SHARES[1:-1])
    bins = np.searchsorted(edges, residuals, side="right")
    cumulative = np.array([0.0, *(NormalDist().cdf(edge) for edge in edges), 1.0])
    of_normal = np.log(np.maximum(np.diff(cumulative), 1e-12))[bins]
    of_table = np.empty(residuals.size)
    fold = (np.random.default_rng(seed).permutation(groups) % 5)[group]
    for number in range(5):
        own, others = fold == number, fold != number
        counts = np.bincount(place[others] * (edges.size + 1) + bins[others], minlength=goals.size * (edges.size + 1)) + 0.5
        shares = counts.reshape(goals.size, -1) / counts.reshape(goals.size, -1).sum(axis=1, keepdims=True)
        of_table[own] = np.log(shares[place[own], bins[own]])
    gain = np.bincount(group, of_table - of_normal, minlength=groups)
    if gain.mean() <= _CLEARLY * gain.std() / np.sqrt(groups):
        return None
    rows = [[rounded(value) for value in np.quantile(error_us[place == n], _SHARES)] for n in range(goals.size)]
    figures = {
        "kind": "table", "goals_us": [rounded(goal) for goal in goals], "shares": _SHARES.tolist(), "quantiles_us": rows,
    }  # fmt: skip
    scores = {"bins of the error, table": float(of_table.mean()), f"bins of the error, {normal}": float(of_normal.mean())}
    return ErrorTable(figures, scores)
