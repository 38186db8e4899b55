"""Pictures for calibration without data: piecewise constant, with edges and flat areas of several sizes, as natural ones have.

White noise averages out in the first convolution, so that the layers behind it are calibrated for far too small values.
Here every patch of 16 pixels is cut to blocks of 1, 2, 4, 8 or 16; a block is black or white in three of four cases, else
of a random shade, which all channels share in one of two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

BLOCKS = (1, 2, 4, 8, 16)
SATURATED, GREY = 0.75, 0.5


def spatial_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes along which a picture or a signal extends; none below three dimensions.

    Of three dimensions it is the longer of the last two. Of more it is all but the first and the channels', which are last
    if only there stands 1, 3 or 4.
    """
    if len(shape) < 3:
        return ()
    if len(shape) == 3:
        return (1 if shape[1] > shape[2] else 2,)
    channels_last = shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4)
    return tuple(range(1, len(shape) - 1)) if channels_last else tuple(range(2, len(shape)))


def pictures(shape: tuple[int, ...], rng: np.random.Generator) -> F32:
    """Random pictures, values 0 to 1.

    Args:
        shape: At least three dimensions, images along the first.
        rng: Where they come from.
    """
    axes = spatial_axes(shape)
    channels = next(a for a in range(1, len(shape)) if a not in axes)
    shared = tuple(1 if a == channels else size for a, size in enumerate(shape))
    which = _blocks(rng.integers(0, len(BLOCKS), _cut(shared, axes, BLOCKS[-1]), np.uint8), shared, axes, BLOCKS[-1])
    out = np.zeros(shape, np.float32)
    for number, size in enumerate(BLOCKS):
        shade = rng.random(_cut(shape, axes, size), np.float32)
        chance, grey = (rng.random(_cut(shared, axes, size), np.float32) for _ in range(2))
        shade = np.where(grey < GREY, shade.take([0], channels), shade)
        shade = np.where(chance < SATURATED, np.float32(chance < SATURATED / 2), shade)
        np.copyto(out, _blocks(shade, shape, axes, size), where=which == number)
    return out


def _cut(shape: tuple[int, ...], axes: tuple[int, ...], size: int) -> tuple[int, ...]:
    return tuple(-(-n // size) if a in axes else n for a, n in enumerate(shape))


def _blocks(x: NDArray[Any], shape: tuple[int, ...], axes: tuple[int, ...], size: int) -> NDArray[Any]:
    """Each entry as a block of ``size`` along the axes, cut to the shape."""
    for axis in axes:
        x = np.repeat(x, size, axis)
    return x[tuple(slice(n) for n in shape)]
