"""Differential pairs: ``|w|`` on the plus columns where w > 0, on the minus columns where w < 0; the others hold digit 0."""

from __future__ import annotations

import numpy as np

from cimc.ir.weight_codes.code import F64, WeightCode, slices
from cimc.targets.description import Target


class DifferentialPair(WeightCode):
    """See `WeightCode`."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        bits = target.weights.bits
        self.full = float(self.base - 1) if bits is None else float(2 ** (bits - 1) - 1)
        self.shift = 0.0
        self.alpha = tuple(float(sign * self.base**cell) for sign in (1, -1) for cell in range(self.cells))
        self.transposed_signs = (1.0, -1.0) if self.cells == 1 else None

    def encode(self, steps: F64) -> F64:
        """See `WeightCode`."""
        parts = np.maximum(steps, 0.0), np.maximum(-steps, 0.0)
        return np.stack([digit for part in parts for digit in slices(part, self.base, self.cells)], axis=2)
