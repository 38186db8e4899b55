"""Programming models: where a written conductance lands. Chosen by ``device.programming.kind``."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.devices.draws import F32, U64, normals, uniforms
from cimc.runtime.jit import kernel
from cimc.runtime.rng import Scalar
from cimc.targets.programming_sections import Programming, ProgrammingSection
from cimc.targets.table_sections import TableProgramming


class ProgrammingModel(Protocol):
    """Made from the target's ``device.programming`` section; says where written conductances land.

    What it states about its error, the section says: `ProgrammingSection.error_us`.
    """

    def __init__(self, section: ProgrammingSection) -> None: ...

    def write(self, goal_us: F32, keys: U64) -> F32:
        """What devices hold after a write to their goals (µS, ``[n]``), at least 0; ``keys`` of the writes, ``[n]``."""


class NormalProgramming:
    """``g = goal + mean + sigma * normal``, never below zero, with what the section states for each goal."""

    def __init__(self, section: ProgrammingSection) -> None:
        self.section = section

    def write(self, goal_us: F32, keys: U64) -> F32:
        """See `ProgrammingModel`."""
        mean, sigma = self.section.error_us(goal_us)
        held: NDArray[np.float32] = np.maximum(goal_us + mean + sigma * normals(keys), 0).astype(np.float32)
        return held


class DrawnQuantile:
    """``g = goal + error``, the error a quantile of the table whose share is drawn, never below zero."""

    def __init__(self, section: TableProgramming) -> None:
        self.section = section

    def write(self, goal_us: F32, keys: U64) -> F32:
        """See `ProgrammingModel`."""
        held: F32 = np.maximum(goal_us + self.section.quantile_us(goal_us, uniforms(keys)), 0).astype(np.float32)
        return held


@kernel(fastmath={"contract"})
def _write_gaussian(goal_us: F32, mean: Scalar, sigma: Scalar, low: Scalar, high: Scalar, first: Scalar) -> None:
    for i in range(goal_us.size):
        error = mean + sigma * rng.normal_of(rng.hash32(low, high, np.uint32(first + np.uint32(i))))
        goal_us[i] = max(goal_us[i] + error, np.float32(0))


class GaussianProgramming(NormalProgramming):
    """The same error at every goal. Whole layers are written in compiled code, with one key for all devices."""

    def __init__(self, section: Programming) -> None:
        super().__init__(section)
        self.mean_us, self.sigma_us = np.float32(section.mean_us), np.float32(section.sigma_us)

    def write_all(self, goal_us: F32, seed: int, first: int) -> None:
        """Replace goals (µS, ``[n]``, contiguous) in place; device ``first + i`` draws the same error in any block."""
        if self.mean_us == 0 and self.sigma_us == 0:
            return
        for low, high, counter, begin, end in rng.spans(seed, first, goal_us.size):
            _write_gaussian(goal_us[begin:end], self.mean_us, self.sigma_us, low, high, counter)
