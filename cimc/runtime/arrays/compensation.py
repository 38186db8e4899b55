"""Drift compensation: digital factors from a reference read, as ``device.drift.compensation`` chooses.

A reference read drives every word line with the full read voltage. On each device column of a row slice its current is
proportional to the sum of the column's conductances. A factor is that sum as the last writes left it, over what one read shows
now, read noise included; the quantisation of the converter is left out. ``global`` takes the sums of a whole layer together, the
compensation of Joshi et al. 2020 (doi 10.1038/s41467-020-16108-9); ``column`` takes each device column by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.arrays.devices import Devices, tile_of_column

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Factors:
    """Digital factors of one copy of a layer."""

    columns: F64
    """``[groups, slices, planes, columns]``."""
    units: F64
    """Of unit columns or references, ``[groups, slices, unit columns]``."""

    @classmethod
    def measured(
        cls, written: Devices, now: Devices, row_cuts: tuple[int, ...], read_sigma_us: float, kind: str, key: int
    ) -> Self:
        """Factors of one reference read.

        Args:
            written: What the last writes left.
            now: What the devices hold at the time of the read, with the variance of its noise where that differs by device.
            row_cuts: Row slices.
            read_sigma_us: Read noise of a device, where it is the same for all.
            kind: ``global`` or ``column``.
            key: Of the noise.
        """
        starts = np.asarray(row_cuts[:-1])

        def sums(g_us: NDArray[np.float32]) -> F64:
            return np.add.reduceat(g_us.astype(np.float64), starts, axis=1)

        before, found = [], []
        variances = (now.variance_us2, now.unit_variance_us2)
        for number, (old, new) in enumerate(((written.g_us, now.g_us), (written.unit_g_us, now.unit_g_us))):
            own = variances[number]
            variance = np.full(new.shape, read_sigma_us**2, np.float32) if own is None else own
            total = sums(new)
            noise = rng.normals(rng.key(key, number), 0, total.size).reshape(total.shape)
            before.append(sums(old))
            found.append(total + np.sqrt(sums(variance)) * noise)
        if kind == "global":
            factor = _ratio(before[0].sum(), found[0].sum())
            return cls(np.full(before[0].shape, factor), np.full(before[1].shape, factor))
        return cls(_ratio(before[0], found[0]), _ratio(before[1], found[1]))

    def applied(self, devices: Devices, unit_cuts: tuple[int, ...]) -> Devices:
        """Devices whose digital coefficients carry the factors."""
        c = devices.coefficients
        unit = None if c.unit is None else c.unit * self.units[:, :, tile_of_column(unit_cuts)]
        return replace(devices, coefficients=replace(c, alpha=c.alpha * self.columns, unit=unit))

    @property
    def mean(self) -> float:
        """One factor for the whole layer, which transposed reads take."""
        return float(self.columns.mean())


def _ratio(before: F64, now: F64) -> F64:
    """1 where a read shows nothing."""
    seen = np.asarray(now) > 0
    found: F64 = np.where(seen, before / np.where(seen, now, 1.0), 1.0)
    return found
