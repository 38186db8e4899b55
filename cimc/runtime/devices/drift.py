"""Drift models: how a conductance moves after its write. Chosen by ``device.drift.kind``."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.polynomial.polynomial import polyval
from numpy.typing import NDArray

from cimc.runtime.devices.draws import F32, U64, normals
from cimc.targets.time_sections import DriftSection, PowerLawDrift, RelaxationDrift

F64 = NDArray[np.float64]
#: Counter of a cell's draw for its drift; those below are used for its birth.
CELL_DRAW = 3


class DriftModel(Protocol):
    """Made from the target's ``device.drift`` section."""

    needs_goal: bool
    """Whether the goal of each write is kept, so that `conductance` gets it."""

    def __init__(self, section: DriftSection) -> None: ...

    def conductance(self, written_us: F32, goal_us: F32, age_s: F64, cells: U64, writes: U64) -> F32:
        """What devices hold some time after their last write, µS, ``[n]``, at least 0. All arguments are ``[n]``.

        Args:
            written_us: Conductance that the write left.
            goal_us: Goal of the write; where no goal is kept, ``written_us``.
            age_s: Time since then, at least 0.
            cells: Keys of the cells, for what a device keeps all its life: use draws from counter 3 on.
            writes: Keys of the writes, for what each write draws anew.
        """


class PowerLaw:
    """``g(t) = g * (t / t0)^-nu``, nu of the cell (Joshi et al. 2020, doi 10.1038/s41467-020-16108-9)."""

    needs_goal = False

    def __init__(self, section: PowerLawDrift) -> None:
        self.section = section

    def conductance(self, written_us: F32, goal_us: F32, age_s: F64, cells: U64, writes: U64) -> F32:
        """See `DriftModel`."""
        s = self.section
        x = written_us.astype(np.float64) / s.unit_us
        nu = np.abs(s.nu_mean.at(x) + s.nu_sigma.at(x) * normals(cells, CELL_DRAW))
        held: F32 = (written_us * (np.maximum(age_s, s.t0_s) / s.t0_s) ** -nu).astype(np.float32)
        return held


class Relaxation:
    """A normal shift of each write, whose mean and deviation grow with the logarithm of time."""

    def __init__(self, section: RelaxationDrift) -> None:
        self.section, self.needs_goal = section, section.around == "goal"

    def conductance(self, written_us: F32, goal_us: F32, age_s: F64, cells: U64, writes: U64) -> F32:
        """See `DriftModel`."""
        s = self.section
        start = (goal_us if self.needs_goal else written_us).astype(np.float64)
        x, growth = start / s.unit_us, np.log(np.maximum(age_s, s.t0_s) / s.t0_s)

        def figure(at_t0: tuple[float, ...], per_e_fold: tuple[float, ...]) -> Any:
            return polyval(x, at_t0) + polyval(x, per_e_fold) * growth

        mean = figure(s.mean_us, s.mean_growth_us)
        sigma = np.maximum(figure(s.sigma_us, s.sigma_growth_us), 0)
        moved = np.maximum(start + mean + sigma * normals(writes), 0)
        held: F32 = np.where(age_s > s.t0_s, moved, written_us).astype(np.float32)
        return held
