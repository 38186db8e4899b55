"""col2im and im2col, an image and a channel at a time, over planes laid out by `planes`."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.atomic import bound
from cimc.runtime.jit import kernel
from cimc.runtime.planes import Laid, Window, back, copy, laid
from cimc.runtime.rng import Scalar
from cimc.runtime.team import Crew, crew, share

Array = NDArray[Any]


@kernel()
def _fold(first: Scalar, end: Scalar, _: Scalar, vectors: Array, where: Laid, out: Array) -> None:
    """Images ``first`` to ``end``: ``out[n, channel, pixel]``."""
    at, placed, lines = where.at, where.placed, back(where.lines)
    y, outs = np.empty(where.plane, out.dtype), out.reshape(-1)
    for n in range(first, end):
        for c in range(out.shape[1]):
            y[:] = 0
            for k in range(at.size):
                values = vectors[n, c * at.size + k]
                for i in range(placed.run.size):
                    goal, source = y[at[k] + placed.source[i] :], values[placed.goal[i] :]
                    for p in range(placed.run[i]):
                        goal[p] += source[p]
            copy(y, 0, outs, (n * out.shape[1] + c) * out.shape[2], 1, where.plane, out.shape[2], lines)


@kernel()
def _unfold(first: Scalar, end: Scalar, _: Scalar, image: Array, where: Laid, out: Array) -> None:
    """Images ``first`` to ``end``: ``out[n, (channel, kernel element), position]``."""
    channels, positions, at, plane = image.shape[1], out.shape[2], where.at, where.plane
    x, images, outs = np.zeros(plane, image.dtype), image.reshape(-1), out.reshape(-1)
    for n in range(first, end):
        for c in range(channels):
            copy(images, (n * channels + c) * image.shape[2], x, 0, 1, image.shape[2], plane, where.lines)
            for k in range(at.size):
                goal_at = ((n * channels + c) * at.size + k) * positions
                copy(x, at[k], outs, goal_at, 1, plane, positions, where.placed)


@kernel()
def _share_fold(crew: Crew, vectors: Array, where: Laid, out: Array) -> None:
    share(crew, len(vectors), bound(_fold, (vectors, where, out)))


@kernel()
def _share_unfold(crew: Crew, image: Array, where: Laid, out: Array) -> None:
    share(crew, len(image), bound(_unfold, (image, where, out)))


def fold(vectors: Array, window: Window) -> Array:
    """``[images, channels, pixels]``: windows added up where they lie, col2im; in order of kernel elements.

    Args:
        vectors: ``[images, channels * kernel, positions]``, contiguous.
        window: How they lie.
    """
    where = laid(window)
    out = np.empty((len(vectors), vectors.shape[1] // where.at.size, prod(window.image)), vectors.dtype)
    _share_fold(crew(), vectors, where, out)
    return out


def unfold(image: Array, window: Window) -> Array:
    """``[images, channels * kernel, positions]``: the windows of an image, im2col.

    Args:
        image: ``[images, channels, pixels]``, contiguous.
        window: How they lie.
    """
    where = laid(window)
    out = np.empty((len(image), image.shape[1] * where.at.size, prod(window.positions)), image.dtype)
    _share_unfold(crew(), image, where, out)
    return out
