"""The number that noise is keyed by: of a batch's first row among all rows."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from cimc.ir.program import VmmBackwardStep, VmmStep


def first_row_of(step: VmmStep | VmmBackwardStep, x: NDArray[Any], images: int, first_image: int) -> int:
    """Number of the first row: a batch that was flattened into rows (tokens, patches) has several of them an image."""
    geometry = step.geometry
    axis = geometry.input_perm[0] if geometry.kind == "dense" and geometry.kept else 0
    rows = x.shape[axis] if axis < x.ndim else 1  # another rank than the layer's is refused where the input is unfolded
    return first_image * (rows // images if images and rows % images == 0 else 1)
