"""Whether neighbours on a word line or a bit line err alike. No kind of device holds it, so it is told only."""

from __future__ import annotations

import numpy as np

from cimc.characterisation.cells import F64
from cimc.characterisation.reader import Measured

_FEWEST = 50


def neighbours(written: Measured, residuals: F64) -> tuple[str, ...]:
    """Correlation of the mean residuals (``[n]``) of adjacent devices, where it is more than chance."""
    if not {"row", "column"} <= written.columns.keys():
        return ()
    place, code = np.unique(np.stack([written["row"], written["column"]], axis=1), axis=0, return_inverse=True)
    code = code.reshape(-1)
    mean = np.bincount(code, residuals) / np.bincount(code)
    mean -= mean.mean()
    number = {(row, column): n for n, (row, column) in enumerate(place.tolist())}
    found = []
    for step, what in (((0.0, 1.0), "word line"), ((1.0, 0.0), "bit line")):
        pairs = [(n, other) for (r, c), n in number.items() if (other := number.get((r + step[0], c + step[1]))) is not None]
        if len(pairs) < _FEWEST or not mean.any():
            continue
        one, other = np.array(pairs).T
        correlation = float((mean[one] * mean[other]).mean() / (mean**2).mean())
        if abs(correlation) > 4 / np.sqrt(len(pairs)):
            found.append(
                f"errors of adjacent devices on a {what} correlate by {correlation:.2f} ({len(pairs)} pairs); "
                "the simulation draws devices independently"
            )
    return tuple(found)
