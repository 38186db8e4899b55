"""A shared reference: a weight on one device, less a reference in the middle of the window that several columns share.

``w = g - g_ref``. Every device of a column of references holds the shift, and the read of that column is taken off each weight
column that shares it, `SharedReferenceWeights.columns_per_reference` of them. An error of a reference is an error of all of
these. Of an even number of levels the highest is not used, so that 0 and the reference are levels.
"""

from __future__ import annotations

from cimc.errors import TargetError
from cimc.ir.weight_codes.code import F64, WeightCode
from cimc.targets.description import Target


class SharedReference(WeightCode):
    """See `WeightCode`.

    Raises:
        TargetError: Devices of two levels have none in the middle.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        bits, levels = target.weights.bits, target.device.levels
        if levels == 2:
            raise TargetError(
                "devices of 2 levels have none in the middle of the window, where the references are",
                where=f"target {target.name}, weights.representation",
                fix="--set device.levels=4, or weights.representation=differential_pair",
            )
        if bits is None:
            self.full = 0.5 if levels is None else float((levels - 1) // 2)
            self.shift = self.full
        else:
            self.full, self.shift = float(2 ** (bits - 1) - 1), float(2 ** (bits - 1))
        self.alpha, self.unit, self.reference_digit = (1.0,), -1.0, self.shift
        self.transposed_signs = (1.0,)

    def encode(self, steps: F64) -> F64:
        """See `WeightCode`."""
        return (steps + self.shift)[:, :, None]
