"""Whether gradients are finite, and how large: one look at each array."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import within
from cimc.runtime.jit import kernel

F32 = NDArray[np.float32]


@kernel()
def _sum_of_squares(g: F32) -> float:
    total = 0.0
    for i in range(g.size):
        total += np.float64(g[i]) * np.float64(g[i])
    return total


@kernel(fastmath={"reassoc"})
def _vanishes(g: F32) -> bool:
    """Zero times a finite number is zero, times any other NaN."""
    total = np.float32(0)
    for i in range(g.size):
        total += g[i] * np.float32(0)
    return bool(total == 0)


def finite(array: NDArray[Any]) -> bool:
    """Whether no element, as float32, is NaN or infinite."""
    return bool(_vanishes(np.ascontiguousarray(array, np.float32).reshape(-1)))


def clip_gradients(gradients: Mapping[str, NDArray[Any]], max_norm: float) -> tuple[dict[str, F32], float]:
    """Gradients scaled so that their global 2-norm is at most ``max_norm``, and the norm before.

    The sum is in float64 and in a fixed order. A norm that is not finite scales nothing: the caller sees it and stops.
    """
    within("max_norm", max_norm, 0, inf)
    clipped = {name: np.asarray(g, np.float32, order="C") for name, g in gradients.items()}
    norm = sqrt(sum(_sum_of_squares(g.reshape(-1)) for g in clipped.values()))
    if isfinite(norm) and norm > max_norm:
        clipped = {name: g * np.float32(max_norm / norm) for name, g in clipped.items()}
    return clipped, norm
