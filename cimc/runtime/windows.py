"""Gathering and spreading windows for the backward pass: im2col and col2im an image at a time, products by BLAS."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - numba's np.dot is this BLAS: loaded now, so that limits on its threads reach it
from numba import njit
from numpy.typing import NDArray

from cimc.runtime.serial import parallel
from cimc.runtime.unfold import Unfolding

Array = NDArray[Any]

#: Parts that the images are cut into, at most; each holds a partial sum of a weight gradient.
_PARTS = 8
#: Elements of all those partial sums, about, from which on there are fewer parts.
_MOST = 1 << 22
#: Columns of one product, about.
_COLUMNS = 512


@njit(cache=True, nogil=True)
def _together(positions: int, images: int) -> int:
    """Images whose windows stand side by side in one product, so that it has a few hundred columns."""
    return max(1, min(images, _COLUMNS // positions))


@njit(cache=True, nogil=True)
def _gather(image: Array, base: Array, row_offset: Array, start: int, run: int, step: int, out: Array) -> None:
    """``out[r, p] = image[start + base[p] + row_offset[r]]``; positions come in lines of ``run``, ``step`` apart."""
    for r in range(row_offset.size):
        for p in range(0, base.size, run):
            at = start + row_offset[r] + base[p]
            line = out[r, p : p + run]
            if step == 1:
                source = image[at : at + run]
                for i in range(run):
                    line[i] = source[i]
            else:
                for i in range(run):
                    line[i] = image[at + i * step]


@njit(cache=True, nogil=True)
def _scatter(columns: Array, base: Array, row_offset: Array, start: int, run: int, step: int, image: Array) -> None:
    """The transpose of `_gather`: adds."""
    for r in range(row_offset.size):
        for p in range(0, base.size, run):
            at = start + row_offset[r] + base[p]
            line = columns[r, p : p + run]
            if step == 1:
                goal = image[at : at + run]
                for i in range(run):
                    goal[i] += line[i]
            else:
                for i in range(run):
                    image[at + i * step] += line[i]


@njit(cache=True, nogil=True)
def _channels(flat: Array, first: int, end: int, begin: int, width: int, out: Array) -> Array:
    """Channels of a few images side by side, ``[width, images * positions]``; of one image, where they are."""
    if end - first == 1:
        return flat[first, begin : begin + width]
    positions = flat.shape[2]
    beside = out[: width * (end - first) * positions].reshape(width, (end - first) * positions)
    for n in range(first, end):
        beside[:, (n - first) * positions : (n - first + 1) * positions] = flat[n, begin : begin + width]
    return beside


@njit(cache=True, nogil=True)
def _outer(
    images: Array, flat: Array, first: int, end: int, base: Array, row_offset: Array, stride: int, run: int, step: int, out: Array
) -> None:
    groups, rows, width = out.shape
    positions = base.size
    some = _together(positions, end - first)
    room = np.empty(rows * some * positions, images.dtype)
    spare = np.empty(width * some * positions, images.dtype)
    product = np.empty((rows, width), images.dtype)
    for n in range(first, end, some):
        count = min(some, end - n)
        buffer = room[: rows * count * positions].reshape(rows, count * positions)
        for g in range(groups):
            for k in range(count):
                _gather(images[n + k], base, row_offset, g * stride, run, step, buffer[:, k * positions : (k + 1) * positions])
            np.dot(buffer, _channels(flat, n, n + count, g * width, width, spare).T, product)
            out[g] += product


@njit(cache=True, nogil=True)
def _add(
    weights: Array,
    flat: Array,
    first: int,
    end: int,
    base: Array,
    row_offset: Array,
    stride: int,
    run: int,
    step: int,
    images: Array,
) -> None:
    groups, rows, width = weights.shape
    positions = base.size
    some = _together(positions, end - first)
    room = np.empty(rows * some * positions, flat.dtype)
    spare = np.empty(width * some * positions, flat.dtype)
    for n in range(first, end, some):
        count = min(some, end - n)
        buffer = room[: rows * count * positions].reshape(rows, count * positions)
        for g in range(groups):
            np.dot(weights[g], _channels(flat, n, n + count, g * width, width, spare), buffer)
            for k in range(count):
                _scatter(buffer[:, k * positions : (k + 1) * positions], base, row_offset, g * stride, run, step, images[n + k])


@njit(cache=True, nogil=True)
def _product(
    weights: Array,
    images: Array,
    first: int,
    end: int,
    base: Array,
    row_offset: Array,
    stride: int,
    run: int,
    step: int,
    out: Array,
) -> None:
    groups, rows, width = weights.shape
    buffer = np.empty((width, base.size), images.dtype)
    for n in range(first, end):
        for g in range(groups):
            _gather(images[n], base, row_offset, g * stride, run, step, buffer)
            np.dot(weights[g], buffer, out[n, g * rows : (g + 1) * rows])


def _parts(images: int, most: int = _PARTS) -> list[tuple[int, int]]:
    parts = max(1, min(images, most))
    return [(images * n // parts, images * (n + 1) // parts) for n in range(parts)]


def outer(images: Array, flat: Array, where: Unfolding, line: tuple[int, int], groups: int) -> Array:
    """``[groups, rows, channels]``: over all images and positions, windows times channels.

    Args:
        images: ``[images, padded image]``, contiguous.
        flat: ``[images, groups * channels, positions]``, contiguous.
        where: How windows lie in an image.
        line: Positions of a line, and the step between them.
        groups: Groups of windows and channels.
    """
    shape = (groups, where.row_offset.size, flat.shape[1] // groups)
    size = shape[0] * shape[1] * shape[2]
    parts = _parts(len(images), max(1, min(_PARTS, _MOST // max(1, size))))
    sums = np.zeros((len(parts), *shape), images.dtype)

    def part(n: int) -> None:
        _outer(images, flat, *parts[n], where.base, where.row_offset, where.group_stride, *line, sums[n])

    parallel(part, len(parts))
    total: Array = sums.sum(axis=0)
    return total


def add(weights: Array, flat: Array, where: Unfolding, line: tuple[int, int]) -> Array:
    """``[images, padded image]``: windows ``weights @ flat`` added up where they lie.

    Args:
        weights: ``[groups, rows, channels]``, contiguous.
        flat: ``[images, groups * channels, positions]``, contiguous.
        where: How windows lie in an image.
        line: Positions of a line, and the step between them.
    """
    size = 1
    for side in where.padded:
        size *= side
    images = np.zeros((len(flat), size), flat.dtype)
    parts = _parts(len(flat))

    def part(n: int) -> None:
        _add(weights, flat, *parts[n], where.base, where.row_offset, where.group_stride, *line, images)

    parallel(part, len(parts))
    return images


def product(weights: Array, images: Array, where: Unfolding, line: tuple[int, int]) -> Array:
    """``[images, groups * rows, positions]``: ``weights`` (``[groups, rows, window]``) times the windows of each image."""
    groups, rows, _ = weights.shape
    out = np.empty((len(images), groups * rows, where.positions), images.dtype)
    parts = _parts(len(images))

    def part(n: int) -> None:
        _product(weights, images, *parts[n], where.base, where.row_offset, where.group_stride, *line, out)

    parallel(part, len(parts))
    return out
