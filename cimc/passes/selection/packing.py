"""Groups side by side on one array."""

from __future__ import annotations

from cimc.ir.geometry import WeightView
from cimc.targets.description import Target


def group_packing(view: WeightView, target: Target) -> int:
    """ONNX groups that share one array, on the block diagonal: as many as fit and divide; 1 where arrays are unlimited."""
    groups, rows, columns = view.shape
    array = target.array
    most_columns = None if array.columns is None else target.weight_columns(array.columns)
    limits = [limit // size for limit, size in ((array.rows, rows), (most_columns, columns)) if limit is not None]
    most = min(limits, default=1)
    return next((p for p in range(min(most, groups), 0, -1) if groups % p == 0), 1)
