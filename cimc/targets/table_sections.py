"""Kinds that are tables of measured values, for effects that no formula fits. Between entries they are interpolated; beyond the
first and the last entry these hold.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from cimc.targets.programming_sections import OverRange
from cimc.targets.time_sections import ReadNoiseSection

F64 = NDArray[np.float64]
_LIMIT = 1e9


class TableProgramming(OverRange):
    """Quantiles of the error, at some goals. A write draws a share uniform over 0 to 1 and lands at the goal plus the quantile of
    that share, interpolated between shares and between goals.
    """

    kind: Literal["table"] = "table"
    goals_us: tuple[float, ...] = Field(
        (0.0,), min_length=1, max_length=256, description="Goals of the table, rising. Beyond the first and last, these hold."
    )
    shares: tuple[float, ...] = Field(
        (0.0, 1.0), min_length=2, max_length=257, description="Shares of the quantiles, rising from 0 to 1."
    )
    quantiles_us: tuple[tuple[float, ...], ...] = Field(
        ((0.0, 0.0),),
        min_length=1,
        max_length=256,
        description="For each goal its list: the error (written - goal) that so large a share of writes does not exceed.",
    )

    @model_validator(mode="after")
    def _table(self) -> Self:
        for name, values in (("goals_us", self.goals_us), ("shares", self.shares)):
            if any(b <= a for a, b in pairwise(values)):
                raise ValueError(f"{name} must rise from entry to entry")
        if self.shares[0] != 0 or self.shares[-1] != 1:
            raise ValueError("shares must begin with 0 and end with 1")
        if not 0 <= self.goals_us[0] <= self.goals_us[-1] <= _LIMIT:
            raise ValueError(f"goals_us must lie between 0 and {_LIMIT:g}")
        if len(self.quantiles_us) != len(self.goals_us):
            raise ValueError(
                f"quantiles_us has {len(self.quantiles_us)} lists, it needs one for each of {len(self.goals_us)} goals"
            )
        for row in self.quantiles_us:
            if len(row) != len(self.shares):
                raise ValueError(
                    f"a list of quantiles_us has {len(row)} entries, it needs one for each of {len(self.shares)} shares"
                )
            if any(b < a for a, b in pairwise(row)):
                raise ValueError("quantiles of a goal must not fall from entry to entry")
            if max(-row[0], row[-1]) > _LIMIT:
                raise ValueError(f"quantiles_us must lie between {-_LIMIT:g} and {_LIMIT:g}")
        return self

    def quantile_us(self, goal_us: ArrayLike, share: ArrayLike) -> F64:
        """The error (µS) at each goal (µS) of which a share of writes stays below; arguments have one shape."""
        low, part = self._between(goal_us)
        table = np.array(self.quantiles_us)
        shares = np.asarray(share, np.float64)
        left = np.clip(np.searchsorted(self.shares, shares, side="right") - 1, 0, len(self.shares) - 2)
        edges = np.array(self.shares)
        along = (shares - edges[left]) / (edges[left + 1] - edges[left])
        high = np.minimum(low + 1, len(table) - 1)
        below, above = ((1 - part) * table[low, n] + part * table[high, n] for n in (left, left + 1))
        found: F64 = below + along * (above - below)
        return found

    def error_us(self, goal_us: ArrayLike) -> tuple[F64, F64]:
        """See `ProgrammingSection`: the moments of the interpolated quantiles, exactly."""
        low, part = self._between(goal_us)
        table, width = np.array(self.quantiles_us), np.diff(self.shares)
        high = np.minimum(low + 1, len(table) - 1)

        def product(a: F64, b: F64) -> F64:
            """Mean of the product of two functions of the share, each linear between entries."""
            left, right = (a[:, :-1], b[:, :-1]), (a[:, 1:], b[:, 1:])
            terms = 2 * left[0] * left[1] + left[0] * right[1] + right[0] * left[1] + 2 * right[0] * right[1]
            found: F64 = terms @ width / 6
            return found

        means = (table[:, :-1] + table[:, 1:]) @ width / 2
        spread = table - means[:, None]
        after = np.vstack([spread[1:], spread[-1:]])
        own, cross = product(spread, spread), product(spread, after)
        mean = (1 - part) * means[low] + part * means[high]
        variance = (1 - part) ** 2 * own[low] + 2 * part * (1 - part) * cross[low] + part**2 * own[high]
        return mean, np.sqrt(np.maximum(variance, 0))

    def _range(self) -> F64:
        return np.linspace(self.goals_us[0], self.goals_us[-1], 65)

    def _between(self, goal_us: ArrayLike) -> tuple[NDArray[np.int64], F64]:
        """For each goal the entry below it, and how far it lies on the way to the next, 0 to 1."""
        place = np.interp(np.asarray(goal_us, np.float64), self.goals_us, np.arange(len(self.goals_us)))
        low = np.floor(place).astype(np.int64)
        return low, place - low


class TableNoise(ReadNoiseSection):
    """Deviation of a read at some conductances, interpolated at the present one; the age of a device does not matter."""

    kind: Literal["table"] = "table"
    g_us: tuple[float, ...] = Field(
        (0.0,),
        min_length=1,
        max_length=256,
        description="Conductances of the table, rising. Beyond the first and last, these hold.",
    )
    sigma_us: tuple[float, ...] = Field(
        (0.0,), min_length=1, max_length=256, description="Deviation of a read at each of these conductances."
    )

    @model_validator(mode="after")
    def _table(self) -> Self:
        if any(b <= a for a, b in pairwise(self.g_us)):
            raise ValueError("g_us must rise from entry to entry")
        if not 0 <= self.g_us[0] <= self.g_us[-1] <= _LIMIT:
            raise ValueError(f"g_us must lie between 0 and {_LIMIT:g}")
        if len(self.sigma_us) != len(self.g_us):
            raise ValueError(f"sigma_us has {len(self.sigma_us)} entries, it needs one for each of {len(self.g_us)} conductances")
        if not 0 <= min(self.sigma_us) <= max(self.sigma_us) <= _LIMIT:
            raise ValueError(f"sigma_us must lie between 0 and {_LIMIT:g}")
        return self

    def variance_us2(self, g_us: ArrayLike, written_us: ArrayLike, age_s: ArrayLike) -> F64:
        """See `ReadNoiseSection`."""
        g, _, _ = np.broadcast_arrays(np.asarray(g_us, np.float64), written_us, age_s)
        found: F64 = np.square(np.interp(g, self.g_us, self.sigma_us))
        return found
