"""Kinds of drift and of read noise: what a device does between its write and a read.

The age of a device is the time since its last write. A younger device than a section's ``t0_s`` counts as that old: sources
measured nothing earlier.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from cimc.targets.curve import Curve
from cimc.targets.section import Section

F64 = NDArray[np.float64]

_UNIT = "Conductance that x = 1 stands for, where figures are functions of x = g / unit_us. It does not follow g_max_us."


class DriftSection(Section):
    """How a conductance moves after its write. Base of the sections of all kinds. null: it stays."""

    kind: str = Field(description="Name of a drift model: built in, registered, or from an entry point (cimc.drift).")
    compensation: Literal["none", "global", "column"] = Field(
        "none",
        description="Digital factor against drift: the summed current of a reference read after programming, over that of the "
        "same read now. global: one factor a layer; column: one for each device column. The read is made whenever time advances, "
        "and is counted.",
    )


class PowerLawDrift(DriftSection):
    """``g(t) = g * (t / t0_s)^-nu`` with ``nu = |nu_mean(x) + nu_sigma(x) * n|``, n standard normal of the cell and x of the
    conductance as written.
    """

    kind: Literal["power_law"] = "power_law"
    unit_us: float = Field(1.0, gt=0, le=1e9, description=_UNIT)
    t0_s: float = Field(1.0, gt=0, le=1e12, description="Age at which the written conductance holds; drift counts from there.")
    nu_mean: Curve = Curve()
    nu_sigma: Curve = Curve()


class RelaxationDrift(DriftSection):
    """``g(t) = from + mean(x) + s(x) * n`` with n standard normal, drawn anew for each write. Mean and deviation are each
    ``a(x) + b(x) * ln(t / t0_s)`` with polynomials of x, the conductance as written, or the goal where from is the goal. A
    deviation below 0 counts as 0. At ages up to t0_s the device holds what was written.
    """

    kind: Literal["relaxation"] = "relaxation"
    unit_us: float = Field(1.0, gt=0, le=1e9, description=_UNIT)
    t0_s: float = Field(1.0, gt=0, le=1e12, description="Age up to which the written conductance holds.")
    around: Literal["written", "goal"] = Field(
        "written",
        description="What the device relaxes from. written: the conductance that the write left; goal: the goal of the write, so "
        "that the stated deviation replaces the programming error (a blind pulse has no goal: there it is what the pulse left).",
    )
    mean_us: tuple[float, ...] = Field(
        (0.0,), min_length=1, max_length=16, description="a of the mean: coefficients of 1, x, ..."
    )
    mean_growth_us: tuple[float, ...] = Field((0.0,), min_length=1, max_length=16, description="b of the mean, likewise.")
    sigma_us: tuple[float, ...] = Field((0.0,), min_length=1, max_length=16, description="a of the deviation, likewise.")
    sigma_growth_us: tuple[float, ...] = Field((0.0,), min_length=1, max_length=16, description="b of the deviation, likewise.")


class SlowNoise(Section):
    """Noise that holds over many reads: random telegraph noise, or the slow part of 1/f noise. Beside the read noise, which each
    conversion draws anew. null: none.
    """

    sigma_us: float = Field(0.0, ge=0, le=1e6, description="Deviation of a conductance, the same at every conductance.")
    relative: float = Field(0.0, ge=0, le=10, description="The same in parts of the conductance; both parts add up.")
    states: Literal["two", "many"] = Field(
        "two",
        description="two: a conductance is one deviation above or below its mean, each half of the time (telegraph noise); many: "
        "normally distributed.",
    )
    held_images: int = Field(
        1,
        ge=1,
        le=1 << 30,
        description="Images over which a draw holds; the next ones have another. Of a layer whose positions are folded into the "
        "first axis, its row vectors.",
    )


class ReadNoiseSection(Section):
    """Read noise that depends on the device's state, beside the constant device.read_sigma_us. Base of the sections of all
    kinds, which are models of their own. null: the constant alone.
    """

    kind: str = Field(description="Name of a read noise model: built in, registered, or from an entry point (cimc.read_noise).")

    def variance_us2(self, g_us: ArrayLike, written_us: ArrayLike, age_s: ArrayLike) -> F64:
        """Variance of one read of each device, µS², at least 0; arguments are broadcast.

        Args:
            g_us: What the devices hold now, µS.
            written_us: What their last write left, µS.
            age_s: Seconds since then.
        """
        raise NotImplementedError(f"{type(self).__name__} has no variance_us2")


class FlickerNoise(ReadNoiseSection):
    """1/f noise: ``sigma = (g * relative(x) + absolute_us(x)) * sqrt(ln((t + t_read_s) / (2 t_read_s)))``; x is the conductance
    as written in ``relative`` and the present one in ``absolute_us``. Every conversion draws anew.
    """

    kind: Literal["flicker"] = "flicker"
    unit_us: float = Field(1.0, gt=0, le=1e9, description=_UNIT)
    t0_s: float = Field(1.0, gt=0, le=1e12, description="Youngest age: a younger device counts as that old.")
    t_read_s: float = Field(1e-6, gt=0, le=1e6, description="Duration of a read.")
    relative: Curve = Curve()
    absolute_us: Curve = Curve()

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if self.t0_s < self.t_read_s:
            raise ValueError(f"t0_s {self.t0_s} must not lie below t_read_s {self.t_read_s}")
        return self

    def variance_us2(self, g_us: ArrayLike, written_us: ArrayLike, age_s: ArrayLike) -> F64:
        """See `ReadNoiseSection`."""
        g, age = np.asarray(g_us, np.float64), np.maximum(np.asarray(age_s, np.float64), self.t0_s)
        written = np.asarray(written_us, np.float64)
        # A curve below 0 at the end of its range is no noise.
        sigma = np.maximum(g * self.relative.at(written / self.unit_us) + self.absolute_us.at(g / self.unit_us), 0)
        return sigma * sigma * np.log((age + self.t_read_s) / (2 * self.t_read_s))
