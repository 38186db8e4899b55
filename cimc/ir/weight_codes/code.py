"""The interface of weight codes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cimc.errors import TargetError
from cimc.targets.description import Target

F64 = NDArray[np.float64]


class WeightCode:
    """How the weights of a target stand in devices. All in level steps: a device of digit d holds ``g_min + d * step``.

    A weight of s level steps (-`full` to `full`) is got back from the digits of its device columns p, and from the digit of the
    devices of its reference or unit column::

        s = sum over p of alpha[p] * digit[p] + unit * reference_digit

    Args:
        target: The chip.

    Attributes:
        full: Level steps that the largest weight spans.
        shift: Added to a weight before it is rounded to whole steps, so that -`full` is a digit of 0 or more.
        alpha: How the digital side weighs each device column, one entry a device column of a weight.
        unit: How it weighs the unit column, or the column of references; 0: the code reads none.
        reference_digit: Digit of all devices of that column.
        transposed_signs: Sign with which each device column of a weight is driven in a transposed read; None: the code has no
            transposed read, as its columns do not weigh the same.

    Raises:
        TargetError: The cells of a weight cannot hold its bits.
    """

    full: float
    shift: float
    alpha: tuple[float, ...]
    unit: float = 0.0
    reference_digit: float = 1.0
    transposed_signs: tuple[float, ...] | None = None

    def __init__(self, target: Target) -> None:
        w, base = target.weights, target.device.levels or 2
        self.base, self.cells = base, w.cells
        if w.bits is not None and base**w.cells < w.values(w.bits):
            needed = w.values(w.bits)
            cells = next(n for n in range(1, 17) if base**n >= needed)
            raise TargetError(
                f"{w.cells} cells of {base} levels hold {base**w.cells} values, a weight of {w.bits} bits needs {needed}",
                where=f"target {target.name}, weights.cells",
                fix=f"--set weights.cells={cells}, or fewer weights.bits",
            )

    def encode(self, steps: F64) -> F64:
        """Digits of weights.

        Args:
            steps: Weights in level steps, ``[groups, rows, columns]``, from `cimc.ir.encoding.quantise`.

        Returns:
            ``[groups, rows, device columns of a weight, columns]``, from 0 to ``levels - 1``.
        """
        raise NotImplementedError

    def decode(self, digits: F64) -> F64:
        """Weights in level steps, ``[groups, rows, columns]``, of digits as `encode` gives them."""
        steps: F64 = np.tensordot(digits, np.asarray(self.alpha), (2, 0)) + self.unit * self.reference_digit
        return steps


def slices(values: F64, base: int, cells: int) -> list[F64]:
    """Digits of base ``base``, least significant first; a single cell keeps the fraction of a continuous weight."""
    if cells == 1:
        return [values]
    digits = []
    for _ in range(cells):
        values, digit = np.divmod(values, base)
        digits.append(digit)
    return digits
