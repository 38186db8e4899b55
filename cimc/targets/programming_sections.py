"""Kinds of programming error: how far a written conductance lands from its goal, and what each kind states about it.

Every kind here is a normal error, drawn once a write, whose mean and deviation may depend on the goal; `table_sections` has the
kind of any other error. A conductance is not clipped to the window, and never below 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.polynomial.polynomial import polyval
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from cimc.targets.section import Section

F64 = NDArray[np.float64]
#: Coefficients of a polynomial, the constant first.
Coefficients = tuple[float, ...]


class ProgrammingSection(Section):
    """How far a written conductance lands from its goal. Base of the sections of all kinds."""

    kind: str = Field(description="Name of a programming model: built in, registered, or from an entry point (cimc.programming).")

    if TYPE_CHECKING:  # a field of some kinds, a property of others

        @property
        def mean_us(self) -> float:
            """Typical mean error over the conductances that are written, µS: for ADC ranges and bands of tests."""

        @property
        def sigma_us(self) -> float:
            """Typical deviation of the error, µS, likewise."""

    def error_us(self, goal_us: ArrayLike) -> tuple[F64, F64]:
        """Mean and standard deviation (µS) of written minus goal at each goal (µS), before conductances below 0 become 0."""
        goal = np.asarray(goal_us, np.float64)
        return np.full(goal.shape, self.mean_us), np.full(goal.shape, self.sigma_us)


class Programming(ProgrammingSection):
    """How far a written conductance lands from its goal: drawn once a write, not clipped to the window, never below 0."""

    kind: str = Field("gaussian", description=ProgrammingSection.model_fields["kind"].description)
    mean_us: float = Field(0.0, ge=-1e6, le=1e6, description="Mean of (conductance written - goal).")
    sigma_us: float = Field(0.0, ge=0, le=1e6, description="Standard deviation of the same.")


class OverRange(ProgrammingSection):
    """A kind whose error depends on the goal: its typical figures are those over the goals of `_range`."""

    @property
    def mean_us(self) -> float:
        """Mean of the mean errors over the range that the source measured."""
        return float(self.error_us(self._range())[0].mean())

    @property
    def sigma_us(self) -> float:
        """Root mean square of the deviations over the same range."""
        return float(np.sqrt(np.square(self.error_us(self._range())[1]).mean()))

    def _range(self) -> F64:
        """Goals (µS) that fill the range that the source measured."""
        raise NotImplementedError


class _OverWindow(OverRange):
    """The range goes from 0 to ``unit_us``."""

    unit_us: float = Field(
        1.0,
        gt=0,
        le=1e9,
        description="Conductance that x = 1 stands for, where the error is a function of x = goal / unit_us: the largest one "
        "that the source measured. It does not follow g_max_us.",
    )

    def _range(self) -> F64:
        return np.linspace(0, self.unit_us, 65)


class PolynomialProgramming(_OverWindow):
    """A normal error whose mean and deviation are polynomials of x = goal / unit_us; a deviation below 0 counts as 0."""

    kind: Literal["polynomial"] = "polynomial"
    mean_coefficients_us: Coefficients = Field(
        (0.0,), min_length=1, max_length=16, description="Mean error: coefficients of 1, x, x^2, ..."
    )
    sigma_coefficients_us: Coefficients = Field(
        (0.0,), min_length=1, max_length=16, description="Deviation of the error: coefficients of 1, x, x^2, ..."
    )

    def error_us(self, goal_us: ArrayLike) -> tuple[F64, F64]:
        """See `ProgrammingSection`."""
        x = np.asarray(goal_us, np.float64) / self.unit_us
        mean: F64 = np.asarray(polyval(x, self.mean_coefficients_us), np.float64)
        sigma: F64 = np.maximum(polyval(x, self.sigma_coefficients_us), 0)
        return mean, sigma


class SaturatingProgramming(_OverWindow):
    """A normal error whose deviation rises from 0 and saturates: ``limit_us * (1 - exp(-x / knee))``, as SONOS cells have it."""

    kind: Literal["saturating"] = "saturating"
    limit_us: float = Field(0.0, ge=0, le=1e6, description="Deviation of the error far above the knee.")
    knee: float = Field(1.0, gt=0, le=1e9, description="x over which the deviation rises by 1 - 1/e of the limit.")

    def error_us(self, goal_us: ArrayLike) -> tuple[F64, F64]:
        """See `ProgrammingSection`."""
        x = np.asarray(goal_us, np.float64) / self.unit_us
        return np.zeros(x.shape), self.limit_us * -np.expm1(-x / self.knee)
