"""What the digital side does with the repeats of a layer: it averages reads of one input, and repeats of one column."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.backends.interface import Handle
from cimc.runtime.unfold import Unfolding

Array = NDArray[Any]


def mean_of_reads(
    handle: Handle, reads: int, codes: Array, where: Unfolding, seed: int, first_image: int, factor: Array, constant: Array,
    y: Array, strides: tuple[int, int, int],
) -> int:  # fmt: skip
    """As `Handle.read`, the mean of so many reads; each draws noise under a key of its own, the first under ``seed`` itself."""
    saturated = handle.read(codes, where, seed, first_image, factor, constant, y, strides)
    for number in range(1, reads):
        again, key = np.empty_like(y), rng.key(seed, "repeated read", number)
        saturated += handle.read(codes, where, key, first_image, factor, constant, again, strides)
        y += again
    if reads > 1:
        y /= reads
    return saturated


def mean_of_columns(y: Array, repeats: int, groups: int, columns: int, positions: int | None) -> Array:
    """The mean over the repeats of each column, flat.

    Args:
        y: Flat outputs; of one vector after the other, or ``[images, columns, positions]``.
        repeats: Of each column.
        groups: Of the layer.
        columns: Of one group on the crossbars, repeats included.
        positions: None where one vector follows the other.
    """
    if repeats == 1:
        return y
    inner = () if positions is None else (positions,)
    mean: Array = y.reshape(-1, groups, repeats, columns // repeats, *inner).mean(axis=2, dtype=y.dtype)
    return mean.reshape(-1)


def on_columns(values: Array, repeats: int, groups: int) -> Array:
    """One number for each output column, ``[groups * columns]``, as one for each column on the crossbars."""
    return values if repeats == 1 else np.tile(values.reshape(groups, -1), repeats).reshape(-1)
