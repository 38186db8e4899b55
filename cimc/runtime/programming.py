"""Programming models: where a written conductance lands. Chosen by ``device.programming.kind``."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.jit import kernel
from cimc.runtime.rng import Scalar
from cimc.targets.description import Programming

F32 = NDArray[np.float32]


class ProgrammingModel(Protocol):
    """Made from the target's ``device.programming``; writes conductances."""

    def __init__(self, settings: Programming) -> None: ...

    def write(self, goal_us: F32, seed: int, first: int) -> None:
        """Replace goals (µS, ``[n]``) by what the devices then hold.

        Args:
            goal_us: Contiguous; changed in place.
            seed: Key of the chip, the layer and the write, from `rng.key`.
            first: Number of the first of these devices in its layer: the same device draws the same error in any block.
        """


@kernel(fastmath={"contract"})
def _write_gaussian(goal_us: F32, mean: Scalar, sigma: Scalar, low: Scalar, high: Scalar, first: Scalar) -> None:
    for i in range(goal_us.size):
        error = mean + sigma * rng.normal_of(rng.hash32(low, high, np.uint32(first + np.uint32(i))))
        goal_us[i] = max(goal_us[i] + error, np.float32(0))


class Gaussian:
    """``g = goal + mean + sigma * normal``, never below zero, not clipped to the window."""

    def __init__(self, settings: Programming) -> None:
        self.mean_us, self.sigma_us = np.float32(settings.mean_us), np.float32(settings.sigma_us)

    def write(self, goal_us: F32, seed: int, first: int) -> None:
        if self.mean_us == 0 and self.sigma_us == 0:
            return
        for low, high, counter, begin, end in rng.spans(seed, first, goal_us.size):
            _write_gaussian(goal_us[begin:end], self.mean_us, self.sigma_us, low, high, counter)
