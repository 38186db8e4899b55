"""Offset weights: ``w + 2**(bits - 1)`` on one column; the shift comes off with the unit column (Shafiee et al., ISCA 2016)."""

from __future__ import annotations

import numpy as np

from cimc.ir.weight_codes.code import F64, WeightCode, slices
from cimc.targets.description import Target


class Offset(WeightCode):
    """See `WeightCode`."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        bits = target.weights.bits
        self.full = (self.base - 1) / 2 if bits is None else float(2 ** (bits - 1) - 1)
        self.shift = self.full if bits is None else float(2 ** (bits - 1))
        self.alpha = tuple(float(self.base**cell) for cell in range(self.cells))
        self.unit = -self.shift
        self.transposed_signs = (1.0,) if self.cells == 1 else None

    def encode(self, steps: F64) -> F64:
        """See `WeightCode`."""
        return np.stack(slices(steps + self.shift, self.base, self.cells), axis=2)
