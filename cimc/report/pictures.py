"""Pictures as data: what a page draws, without a plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
#: Names of a chart at most; what is left out is said.
MOST_NAMES = 40


@dataclass(frozen=True)
class Line:
    """One curve of a picture."""

    label: str
    x: F64
    y: F64
    """The same length as ``x``."""
    low: F64 | None = None
    high: F64 | None = None
    """A band about the curve, or error bars of points; None: none."""
    points: bool = False
    """Draw points with error bars, not a curve."""


@dataclass(frozen=True)
class Bars:
    """A series of horizontal bars, one for each name."""

    label: str
    names: Sequence[str]
    values: F64
    """Lengths, as many as names."""
    starts: F64 | None = None
    """Where each bar begins; None: at 0, or at the end of the bar of the series before (stacked)."""


@dataclass(frozen=True)
class Boxes:
    """A series of horizontal box plots, one for each name."""

    label: str
    names: Sequence[str]
    quantiles: F64
    """``[names, 5]``: lowest, lower quartile, median, upper quartile, highest."""


@dataclass(frozen=True)
class Picture:
    """Curves, bars or box plots over one pair of axes. Bars and boxes have their names along the vertical axis."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line] = ()
    about: str = ""
    """What it shows, in a sentence below it."""
    log_x: bool = False
    bars: Sequence[Bars] = ()
    """All of the same names."""
    boxes: Sequence[Boxes] = ()
    """Likewise."""

    @property
    def names(self) -> Sequence[str]:
        """Names along the vertical axis, from the top; empty for curves."""
        series: Sequence[Bars | Boxes] = [*self.bars, *self.boxes]
        return series[0].names if series else ()


def shown(names: Sequence[str], size: NDArray[np.float64], what: str) -> tuple[NDArray[np.int64], str]:
    """Which entries a chart shows, in their order: the largest where there are too many, and a sentence that says so."""
    if len(names) <= MOST_NAMES:
        return np.arange(len(names)), ""
    kept = np.sort(np.argsort(-size, kind="stable")[:MOST_NAMES])
    return kept, f" The {MOST_NAMES} {what} with the largest values of {len(names)}."
