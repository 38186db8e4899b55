"""What the devices of one copy of a layer hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cimc.ir.encoding import Coefficients, level_step_us
from cimc.runtime.devices.model import Arrays
from cimc.targets.description import Target

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Devices:
    """What a layer's devices hold, and how the digital side combines them."""

    g_us: F32
    """``[groups, rows, planes, columns]``, µS."""
    unit_g_us: F32
    """Of unit columns or references, ``[groups, rows, unit columns]``, µS; no columns where the target has none."""
    coefficients: Coefficients
    arrays: Arrays = field(default_factory=dict)
    """What the device model keeps beside ``g_us``, each of its shape."""
    unit_arrays: Arrays = field(default_factory=dict)
    """The same of the unit columns."""
    variance_us2: F32 | None = None
    """Variance of a read of each device, µS², shaped as ``g_us``; None: that of ``device.read_sigma_us``."""
    unit_variance_us2: F32 | None = None
    """The same of the unit columns."""

    def of_planes(self, planes: Sequence[int]) -> Devices:
        """The devices of some device columns of each weight column; all: these devices themselves."""
        if len(planes) == self.g_us.shape[2]:
            return self
        some = list(planes)
        g_us, alpha = np.ascontiguousarray(self.g_us[:, :, some]), self.coefficients.alpha[:, :, some]
        variance = None if self.variance_us2 is None else self.variance_us2[:, :, some]
        arrays = {name: array[:, :, some] for name, array in self.arrays.items()}
        coefficients = replace(self.coefficients, alpha=alpha)
        return replace(self, g_us=g_us, coefficients=coefficients, arrays=arrays, variance_us2=variance)

    def weights(self, row_cuts: tuple[int, ...], unit_cuts: tuple[int, ...], target: Target) -> F32:
        """What the devices hold in weight units, ``[groups, rows, columns]``: what a product without noise multiplies by."""
        groups, rows, _, columns = self.g_us.shape
        # A conversion per bit rounds the leakage of g_min away; after an integrated one the unit column takes it off.
        zero = target.device.g_min_us if target.adc.conversion == "per_bit" else 0.0
        c, tiles = self.coefficients, tile_of_column(unit_cuts)
        unit_weight = (c.weight_step / level_step_us(target)).reshape(groups, 1, columns)
        held = np.empty((groups, rows, columns), np.float32)
        for s, (r0, r1) in enumerate(pairwise(row_cuts)):
            part = np.einsum("gpc,grpc->grc", c.alpha[:, s], self.g_us[:, r0:r1].astype(np.float64) - zero)
            if c.unit is not None:
                part += c.unit[:, s, None] * (self.unit_g_us[:, r0:r1, tiles].astype(np.float64) - zero)
            held[:, r0:r1] = part * unit_weight
        return held


def tile_of_column(column_cuts: tuple[int, ...]) -> NDArray[np.int64]:
    """Number of each weight column's tile."""
    return np.repeat(np.arange(len(column_cuts) - 1), np.diff(column_cuts))
