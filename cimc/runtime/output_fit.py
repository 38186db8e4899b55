"""A digital scale and offset for each output channel of a crossbar step, fitted so that the chip agrees with a reference.

``y`` are the outputs of a channel on the chip, and ``r`` those of the reference at the same positions. ``scale * y + offset`` is
to agree with ``r``:

==================  ==================================  =======================
method              scale                               offset
==================  ==================================  =======================
``moments``         ``sqrt(var(r) / var(y))``           ``mean(r) - scale * mean(y)``
``least_squares``   ``cov(y, r) / var(y)``              the same
``offset``          1                                   the same
==================  ==================================  =======================

``moments`` gives a channel the mean and variance of the reference, as batch statistics taken anew do. ``least_squares`` leaves
the smallest error of the step itself, but makes noisy outputs smaller, which adds up in a deep network.

A coefficient is used only where the data show that it is needed: a scale that differs from 1, or an offset that differs from 0,
by more than `_ERRORS` standard errors. An image counts as one sample, because the positions of an image are not independent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cimc.ir.geometry import Dense, Geometry, inverse

Array = NDArray[Any]
F64 = NDArray[np.float64]
Method = Literal["moments", "least_squares", "offset"]

#: In words.
METHODS: dict[Method, str] = {
    "moments": "scale and offset by mean and variance",
    "least_squares": "scale and offset by least squares",
    "offset": "offset alone",
}

#: Standard errors by which a coefficient must differ from that of an exact channel.
_ERRORS = 2.0
#: A channel of the reference whose deviation is below this share of the step's largest has no variance to fit a scale to.
_FLAT = 1e-3
#: Images below which nothing is fitted, and below which no scale is.
_FEW, _FEW_FOR_SCALE = 4, 16


@dataclass(frozen=True)
class OutputFit:
    """What a step's outputs are multiplied by, and what is added then: float64 ``[channels]`` each."""

    scale: F64
    offset: F64

    @property
    def changes(self) -> bool:
        """Whether any channel has a coefficient that is not that of an exact one."""
        return bool((self.scale != 1).any() or (self.offset != 0).any())

    @property
    def counts(self) -> tuple[int, int]:
        """Channels with a scale, and those with an offset alone."""
        scaled = self.scale != 1
        return int(scaled.sum()), int((~scaled & (self.offset != 0)).sum())

    def applied(self, y: Array, geometry: Geometry) -> Array:
        """The outputs ``y`` of a step, corrected, in their dtype."""
        if isinstance(geometry, Dense):
            scale, offset = (part.reshape(geometry.output_dims) for part in (self.scale, self.offset))
            return (y.transpose(inverse(geometry.output_perm)) * scale + offset).transpose(geometry.output_perm).astype(y.dtype)
        shape = (-1, *(1,) * (y.ndim - 2))
        return (y * self.scale.reshape(shape) + self.offset.reshape(shape)).astype(y.dtype)

    def after(self, scale: Array | None, offset: Array | None) -> tuple[F64, F64]:
        """One scale and offset for those of the program (None: 1 and 0) and these behind them."""
        return self.scale * (1.0 if scale is None else scale), self.offset + self.scale * (0.0 if offset is None else offset)


def by_channel(y: Array, geometry: Geometry) -> F64:
    """The outputs of a step as float64 ``[positions, channels]``."""
    if isinstance(geometry, Dense):
        moved = y.transpose(inverse(geometry.output_perm))
        return moved.reshape(-1, prod(geometry.output_dims)).astype(np.float64)
    return np.moveaxis(y, 1, -1).reshape(-1, y.shape[1]).astype(np.float64)


@dataclass(frozen=True)
class _Moments:
    """Means and sums of squared deviations of ``y`` and ``r``, and the sum of their products, ``[channels]`` each."""

    count: int
    mean_y: F64
    mean_r: F64
    yy: F64
    rr: F64
    yr: F64

    @classmethod
    def of(cls, y: F64, r: F64) -> Self:
        mean_y, mean_r = y.mean(axis=0), r.mean(axis=0)
        dy, dr = y - mean_y, r - mean_r
        return cls(len(y), mean_y, mean_r, np.square(dy).sum(axis=0), np.square(dr).sum(axis=0), (dy * dr).sum(axis=0))

    def __add__(self, other: _Moments) -> _Moments:
        """Those of both sets of positions: each set's own deviations, and those of its mean from the common one."""
        count = self.count + other.count
        dy, dr = other.mean_y - self.mean_y, other.mean_r - self.mean_r
        share, weight = other.count / count, self.count * other.count / count
        return _Moments(
            count, self.mean_y + share * dy, self.mean_r + share * dr,
            self.yy + other.yy + weight * dy * dy, self.rr + other.rr + weight * dr * dr, self.yr + other.yr + weight * dy * dr,
        )  # fmt: skip


def fit(parts: Iterable[tuple[F64, F64]], channels: int, images: int, method: Method) -> OutputFit:
    """Fit one step.

    Args:
        parts: Outputs of the chip and those of the reference, ``[positions, channels]`` each, part by part.
        channels: Of the step.
        images: How many all parts hold.
        method: As the module tells.

    Returns:
        The fit; a channel that needs no scale has 1, one that needs no offset 0.
    """
    with np.errstate(all="ignore"):  # what is no number after all is left out below
        found = [_Moments.of(y, r) for y, r in parts if len(y)]
        if images < _FEW or not found:
            return OutputFit(np.ones(channels), np.zeros(channels))
        moments = sum(found[1:], found[0])
        mean_y, mean_r = moments.mean_y, moments.mean_r
        var_y, var_r, cov = (part / moments.count for part in (moments.yy, moments.rr, moments.yr))
        scale = _scales(var_y, var_r, cov, images, method)
        offset = mean_r - scale * mean_y
        spread = np.maximum(var_r + np.square(scale) * var_y - 2 * scale * cov, 0.0)
        offset = np.where(np.abs(offset) > _ERRORS * np.sqrt(spread / images), offset, 0.0)
    sound = np.isfinite(scale) & np.isfinite(offset)
    return OutputFit(np.where(sound, scale, 1.0), np.where(sound, offset, 0.0))


def _scales(var_y: F64, var_r: F64, cov: F64, images: int, method: Method) -> F64:
    """Scales that the data show to be needed; else 1."""
    able = (var_r > _FLAT**2 * var_r.max(initial=0.0)) & (var_y > 0) & (cov > 0)
    if method == "offset" or images < _FEW_FOR_SCALE:
        return np.ones(len(var_y))
    scale = cov / var_y if method == "least_squares" else np.sqrt(var_r / var_y)
    # Standard error of a slope: what the regression leaves of var(r), over var(y), an image a sample.
    error = np.sqrt(np.maximum(var_r - np.square(cov) / var_y, 0.0) / var_y / images)
    return np.where(able & (np.abs(scale - 1) > _ERRORS * error), scale, 1.0)
