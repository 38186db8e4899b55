"""What a layer's errors depend on besides its weights, and the names of their causes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cimc.ir.records import ONCE, InputCoding, Layer, Repeats
from cimc.targets.description import Target

Cause = Literal[
    "weight rounding",
    "weight clipping",
    "programming error",
    "faults",
    "read noise",
    "DAC step",
    "DAC clipping",
    "ADC step",
    "ADC noise",
    "ADC mismatch",
    "ADC saturation",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
#: Causes that are the same in every read of a die.
FIXED: tuple[Cause, ...] = ("weight rounding", "weight clipping", "programming error", "faults")

#: Causes whose power grows with the square of the weight that spans the window.
ON_LINES: tuple[Cause, ...] = (
    "programming error", "faults", "read noise", "ADC step", "ADC noise", "ADC mismatch", "ADC saturation",
)  # fmt: skip


#: Vectors that products are made with at most, and multiply-accumulates of one such product.
_VECTORS, _WORK = 512, 2e9


def mean_square(values: NDArray[Any]) -> NDArray[np.float64]:
    """Over the vectors of ``[groups, vectors, n]``, ``[groups, n]``."""
    power: NDArray[np.float64] = np.einsum("gnc,gnc->gc", values, values, dtype=np.float64) / max(1, values.shape[1])
    return power


@dataclass(frozen=True)
class LayerRead:
    """Inputs and converters of one layer."""

    vectors: NDArray[np.float32]
    """What the word lines get, real-valued, ``[vectors, groups, rows]``."""
    coding: InputCoding
    row_cuts: tuple[int, ...]
    range_ua: float | None
    """Full scale of the ADC; None: there is none, or an LSB is one level step."""
    target: Target
    repeats: Repeats = ONCE

    @classmethod
    def of(cls, samples: NDArray[Any], layer: Layer, target: Target, row_cuts: tuple[int, ...] | None = None) -> LayerRead:
        """The read of a layer.

        Args:
            samples: Inputs of the layer, one vector after the other, of any shape.
            layer: Its coding, range and repeats hold.
            target: The chip.
            row_cuts: Instead of the layer's.
        """
        vectors = np.tile(samples.reshape(-1, layer.groups, layer.inputs), layer.repeats.rows)
        cuts = layer.row_cuts if row_cuts is None else row_cuts
        return cls(vectors, layer.coding, cuts, layer.adc_range_ua, target, layer.repeats)

    def sampled(self, weights: int) -> LayerRead:
        """The same with fewer vectors, at even distances, so that products with so many ``weights`` stay quick."""
        wanted = int(np.clip(_WORK / max(1, weights), 16, _VECTORS))
        if len(self.vectors) <= wanted:
            return self
        return replace(self, vectors=self.vectors[np.arange(wanted) * len(self.vectors) // wanted])
