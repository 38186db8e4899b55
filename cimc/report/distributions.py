"""Many values as figures: histograms as curves, and box plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.report.pictures import Boxes, Line, Picture, shown

#: Bins of a histogram, layers with a histogram of their own.
_BINS, MOST_LAYERS = 48, 8
_QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def histograms(title: str, x_label: str, about: str, series: Mapping[str, NDArray[Any]]) -> Picture:
    """The share of each series' values by bin, over the range of them all."""
    finite = {name: values[np.isfinite(values)].astype(np.float64).reshape(-1) for name, values in series.items()}
    ends = [(values.min(), values.max()) for values in finite.values() if values.size] or [(0.0, 1.0)]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    middle = (edges[:-1] + edges[1:]) / 2
    lines = []
    for name, values in finite.items():
        counts, _ = np.histogram(values, edges)
        lines.append(Line(name, middle, 100 * counts / max(values.size, 1)))
    return Picture(title, x_label, "share of the devices, %", lines, about)


def boxes(title: str, x_label: str, about: str, names: Sequence[str], values: Sequence[NDArray[Any]]) -> Picture:
    """A box plot for each name: lowest, quartiles and highest of its values."""
    rows = np.array([np.quantile(one.astype(np.float64), _QUARTILES) for one in values]).reshape(-1, 5)
    kept, cut = shown(names, rows[:, -1], "rows")
    return Picture(title, x_label, "", about=about + cut, boxes=[Boxes("", [names[k] for k in kept], rows[kept])])
