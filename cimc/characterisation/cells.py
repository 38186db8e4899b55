"""Records as sufficient statistics: counts, sums and sums of squares by group of devices and by cell.

A cell holds the records of about one condition, such as one goal. A group holds devices, whole. Fits, bootstrap and held-out
likelihood all work on these arrays, however many records there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Most groups that devices are kept in, and most cells of one axis.
MOST_GROUPS, MOST_CELLS = 2000, 64


@dataclass(frozen=True)
class Cells:
    """Statistics of a normal response by group (or resample) and cell, each ``[groups, cells]``."""

    count: F64
    total: F64
    squares: F64

    def weighted(self, weights: F64) -> Cells:
        """Sums over groups with weights ``[resamples, groups]``: ``[resamples, cells]``."""
        return Cells(weights @ self.count, weights @ self.total, weights @ self.squares)

    @property
    def whole(self) -> Cells:
        """All groups as one, ``[1, cells]``."""
        return self.weighted(np.ones((1, self.count.shape[0])))

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.count.shape[0])


def grouped(device: I64) -> tuple[I64, int]:
    """Group of each record (``[n]``) and the number of groups: a device each, or several where there are very many."""
    _, code = np.unique(device, return_inverse=True)
    count = int(code.max()) + 1
    return code % MOST_GROUPS, min(count, MOST_GROUPS)


def binned(x: F64, most: int = MOST_CELLS) -> tuple[F64, I64]:
    """Centre of each cell and cell of each record: one for each value, or quantiles where there are more values than ``most``."""
    values, code = np.unique(x, return_inverse=True)
    if values.size > most:
        edges = np.unique(np.quantile(x, np.linspace(0, 1, most + 1)[1:-1]))
        code = np.searchsorted(edges, x, side="right")
        _, code = np.unique(code, return_inverse=True)
    count = np.bincount(code)
    return np.bincount(code, x) / count, code


def statistics(group: I64, groups: int, cell: I64, cells: int, response: F64, weight: F64 | None = None) -> Cells:
    """Statistics of a response, ``[n]``, or of the squares it is the root of: ``weight`` then counts degrees of freedom."""
    place, size = group * cells + cell, groups * cells
    ones = np.ones(response.size) if weight is None else weight

    def table(values: F64) -> F64:
        found: F64 = np.bincount(place, values, minlength=size).astype(np.float64).reshape(groups, cells)
        return found

    return Cells(table(ones), table(response), table(response * response))
