"""Pictures as data: what a page draws, without a plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


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
class Picture:
    """Curves over one pair of axes."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    about: str = ""
    """What it shows, in a sentence below it."""
    log_x: bool = False
