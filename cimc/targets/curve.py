"""A figure as a function of the conductance."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.polynomial.polynomial import polyval
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from cimc.targets.section import Section

#: A conductance below this share of the unit counts as it: logarithm and power have no value at 0.
SMALLEST_X = 1e-7


class Curve(Section):
    """A function of x, a conductance in parts of the section's unit_us:
    ``clamp(polynomial(x) + log * ln(x) + factor * x^power, low, high)``, and from ``above_x`` on ``above(x)`` instead.
    """

    polynomial: tuple[float, ...] = Field((0.0,), min_length=1, max_length=16, description="Coefficients of 1, x, x^2, ...")
    log: float = Field(0.0, ge=-1e9, le=1e9, description="Factor of the natural logarithm of x.")
    factor: float = Field(0.0, ge=-1e9, le=1e9, description="Factor of the power of x.")
    power: float = Field(0.0, ge=-16, le=16, description="Exponent of that power.")
    low: float | None = Field(None, ge=-1e9, le=1e9, description="Lowest value; null: no limit.")
    high: float | None = Field(None, ge=-1e9, le=1e9, description="Highest value; null: no limit.")
    above_x: float | None = Field(
        None, gt=0, le=1e9, description="x from which on the polynomial `above` holds, without limits; null: nowhere."
    )
    above: tuple[float, ...] = Field(
        (0.0,), min_length=1, max_length=16, description="Coefficients of 1, x, x^2, ... from above_x on."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None and self.high < self.low:
            raise ValueError(f"high {self.high} must not lie below low {self.low}")
        return self

    def at(self, x: ArrayLike) -> NDArray[np.float64]:
        """The values at x (any shape); x below 1e-7 counts as 1e-7."""
        x = np.maximum(np.asarray(x, np.float64), SMALLEST_X)
        value = polyval(x, self.polynomial)
        if self.log:
            value = value + self.log * np.log(x)
        if self.factor:
            value = value + self.factor * x**self.power
        if self.low is not None or self.high is not None:
            value = np.clip(value, self.low, self.high)
        if self.above_x is not None:
            value = np.where(x >= self.above_x, polyval(x, self.above), value)
        found: NDArray[np.float64] = np.asarray(value, np.float64)
        return found
