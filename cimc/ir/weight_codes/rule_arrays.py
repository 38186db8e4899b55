"""Weights over the arrays of an update rule (`cimc.targets.update_sections`), a pair in each, first array first.

Each plus column holds half the window and half of the array's part of the weight, each minus column half the window, its
reference; alpha is twice the array's share. All of a weight starts in the first array.
"""

from __future__ import annotations

import numpy as np

from cimc.ir.weight_codes.code import F64, WeightCode
from cimc.targets.description import Target


class RuleArrays(WeightCode):
    """See `WeightCode`; chosen by the update rule, not by ``weights.representation``."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        bits, shares = target.weights.bits, target.update.shares
        self.full = float(self.base - 1) if bits is None else float(2 ** (bits - 1) - 1)
        self.shift = 0.0
        self.alpha = tuple(2 * sign * share for sign in (1.0, -1.0) for share in shares)
        self.transposed_signs = (1.0,) * len(shares) + (-1.0,) * len(shares)

    def encode(self, steps: F64) -> F64:
        """See `WeightCode`."""
        middle = np.full_like(steps, self.full / 2)
        return np.stack([middle + steps / 2, *[middle] * (len(self.alpha) - 1)], axis=2)
