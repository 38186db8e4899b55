"""Products of the backward pass of windows, an image at a time: by the tiles of `tiles`, over images laid out by `planes`.

Positions are laid out at the image's pitch where they are what vectors run along; between their lines there are zeros, or what
is left out in the end.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.atomic import bound
from cimc.runtime.jit import kernel
from cimc.runtime.planes import Laid, Window, back, copy, laid
from cimc.runtime.rng import Scalar
from cimc.runtime.team import Crew, crew, share
from cimc.runtime.tiles import ROWS, WIDTH, multiply, transpose

Array = NDArray[Any]
Index = NDArray[np.int64]

#: Parts that the images are cut into, at most; each holds a partial sum of a weight gradient.
_PARTS = 8
#: Elements of all those partial sums, about, from which on there are fewer parts.
_MOST = 1 << 22
#: Positions of one product of an outer product, about: their panel stays in the first-level cache.
_POSITIONS = 256


@kernel()
def _outer(image: Array, flat: Array, first: int, end: int, rows: Index, where: Laid, out: Array) -> None:
    """Partial sum of images ``first`` to ``end`` into ``out``, ``[groups, rows of tiles, columns of panels]``.

    Columns are the lanes of vectors: a panel holds two vectors a position, and pixels meet it one by one.
    """
    groups, tall, pitch = out.shape
    plane, starts = where.plane, where.placed.source
    channels, columns, positions = image.shape[1] // groups, flat.shape[1] // groups, flat.shape[2]
    wide, run = WIDTH // image.itemsize, positions // starts.size
    some, several = max(1, min(end - first, _POSITIONS // positions)), max(1, _POSITIONS // run)
    laid, panel = np.zeros(some * channels * plane, image.dtype), np.zeros(several * run * wide, image.dtype)
    images, flats, outs, out_rows = image.reshape(-1), flat.reshape(-1), out.reshape(-1), np.arange(0, tall * pitch, pitch)
    a_from = (np.arange(some).reshape(-1, 1) * channels * plane + starts).reshape(-1)
    b_from = np.arange(0, panel.size, run * wide)
    for n in range(first, end, some):
        count = min(some, end - n)
        for g in range(groups):
            for k in range(count):
                at = ((n + k) * groups + g) * channels * image.shape[2]
                copy(images, at, laid, k * channels * plane, channels, image.shape[2], plane, where.lines)
            for begin in range(0, count * starts.size, several):
                stop = min(begin + several, count * starts.size)
                for column in range(0, columns, wide):
                    own = min(wide, columns - column)
                    for i in range(begin, stop, starts.size):
                        at = ((n + i // starts.size) * groups + g) * columns + column
                        at, size = at * positions + i % starts.size * run, min(stop - i, starts.size) * run
                        transpose(flats, at, positions, own, size, panel, b_from[i - begin], wide)
                    out_at = g * tall * pitch + column
                    multiply(laid, rows, 1, panel, 0, wide, a_from[begin:stop], b_from, run, outs, out_rows, out_at)


@kernel()
def _scatter(
    first: Scalar, end: Scalar, _: Scalar, weights: Array, rows: Index, flat: Array, out_rows: Index, where: Laid, out: Array
) -> None:
    """Images ``first`` to ``end``: ``out[n, channel, pixel]``."""
    groups, wide = len(weights), WIDTH // flat.itemsize
    channels, columns = out.shape[1] // groups, flat.shape[1] // groups
    # An odd number of cache lines from column to column, so that they do not meet in the cache.
    pitch = ((where.span + wide - 1) // wide | 1) * wide
    x, y = np.zeros(columns * pitch, flat.dtype), np.empty(channels * where.plane + wide, flat.dtype)
    flats, outs, none = flat.reshape(-1), out.reshape(-1), np.zeros(1, np.int64)
    placed, lines = back(where.placed), back(where.lines)
    for n in range(first, end):
        for g in range(groups):
            copy(flats, (n * groups + g) * columns * flat.shape[2], x, 0, columns, flat.shape[2], pitch, placed)
            y[:] = 0
            for j in range(0, where.span, wide):
                multiply(weights[g], rows, ROWS, x, j, pitch, none, none, columns, y, out_rows, j)
            copy(y, 0, outs, (n * groups + g) * channels * out.shape[2], channels, where.plane, out.shape[2], lines)


@kernel()
def _correlate(first: Scalar, end: Scalar, _: Scalar, weights: Array, rows: Index, image: Array, where: Laid, out: Array) -> None:
    """Images ``first`` to ``end``: ``out[n, row, position]``."""
    groups, wide = len(weights), WIDTH // image.itemsize
    channels, outputs = image.shape[1] // groups, out.shape[1] // groups
    at, plane, pitch = where.at, where.plane, (where.span + wide - 1) // wide * wide
    x, y = np.zeros(channels * plane + pitch + wide, image.dtype), np.empty(rows.size * pitch, image.dtype)
    images, outs, elements, out_rows = image.reshape(-1), out.reshape(-1), np.arange(at.size), np.arange(0, y.size, pitch)
    for n in range(first, end):
        for g in range(groups):
            copy(images, (n * groups + g) * channels * image.shape[2], x, 0, channels, image.shape[2], plane, where.lines)
            y[:] = 0
            for j in range(0, pitch, wide):
                multiply(weights[g], rows, at.size, x, j, plane, elements, at, channels, y, out_rows, j)
            copy(y, 0, outs, (n * groups + g) * outputs * out.shape[2], outputs, pitch, out.shape[2], where.placed)


@kernel()
def _outer_parts(
    first: Scalar, end: Scalar, _: Scalar, image: Array, flat: Array, rows: Index, where: Laid, totals: Array
) -> None:
    for n in range(first, end):
        begin, stop = len(image) * n // len(totals), len(image) * (n + 1) // len(totals)
        _outer(image, flat, begin, stop, rows, where, totals[n])


@kernel()
def _share_outer(crew: Crew, image: Array, flat: Array, rows: Index, where: Laid, totals: Array) -> None:
    share(crew, len(totals), bound(_outer_parts, (image, flat, rows, where, totals)))


@kernel()
def _share_scatter(crew: Crew, weights: Array, rows: Index, flat: Array, out_rows: Index, where: Laid, out: Array) -> None:
    share(crew, len(flat), bound(_scatter, (weights, rows, flat, out_rows, where, out)))


@kernel()
def _share_correlate(crew: Crew, weights: Array, rows: Index, image: Array, where: Laid, out: Array) -> None:
    share(crew, len(image), bound(_correlate, (weights, rows, image, where, out)))


def _tiles(starts: Index) -> Index:
    """Rows of whole tiles, the last repeated."""
    return np.concatenate([starts, np.repeat(starts[-1:], -starts.size % ROWS)])


@kernel()
def _by_tiles(weights: Array, kernel: Scalar, factors: Array) -> None:
    """Rows ``[channels, kernel]`` as ``[kernel, channels]``, and the factors of a tile of them together.

    So they come from the second-level cache in time. Beyond the last row ``factors``, ``[groups, tiles, columns, ROWS]``, stay 0.
    """
    groups, rows, columns = weights.shape
    channels = rows // kernel
    for g in range(groups):
        for row in range(rows):
            source, tile = weights[g, row % channels * kernel + row // channels], factors[g, row // ROWS]
            for j in range(columns):
                tile[j, row % ROWS] = source[j]


@lru_cache(maxsize=256)
def _lanes(tiles: int, columns: int) -> Index:
    """Where the rows of `_by_tiles` start."""
    starts: Index = (np.arange(0, tiles * ROWS * columns, ROWS * columns)[:, None] + np.arange(ROWS)).reshape(-1)
    return starts


@lru_cache(maxsize=256)
def _pixels(window: Window, channels: int, by_element: bool) -> Index:
    """Where what a window sees at the first position lies in the channels' planes, channel by channel or element by element."""
    where = laid(window)
    places = np.arange(channels)[:, None] * where.plane + where.at
    return _tiles((places.T if by_element else places).reshape(-1))


def outer(image: Array, flat: Array, window: Window, groups: int) -> Array:
    """``[groups, channels * kernel, columns]``: summed over all images and positions, windows times columns.

    Args:
        image: ``[images, groups * channels, pixels]``, contiguous.
        flat: ``[images, groups * columns, positions]``, contiguous.
        window: How they meet.
        groups: Groups of channels and columns.
    """
    where, channels, columns = laid(window), image.shape[1] // groups, flat.shape[1] // groups
    tiles, rows, wide = _pixels(window, channels, False), channels * where.at.size, WIDTH // image.itemsize
    # As many for any number of threads, and added up in order.
    parts = max(1, min(len(image), _PARTS, _MOST // max(1, groups * rows * columns)))
    totals = np.zeros((parts, groups, tiles.size, -(-columns // wide) * wide), image.dtype)
    _share_outer(crew(), image, flat, tiles, where, totals)
    total = totals[0, :, :rows, :columns]
    for other in totals[1:, :, :rows, :columns]:
        total += other
    return total


def scatter(weights: Array, flat: Array, window: Window) -> Array:
    """``[images, groups * channels, pixels]``: windows ``weights @ flat`` added up where they lie.

    Args:
        weights: ``[groups, channels * kernel, columns]``, contiguous.
        flat: ``[images, groups * columns, positions]``, contiguous.
        window: How they meet.
    """
    groups, rows, columns = weights.shape
    where, kernel = laid(window), prod(window.kernel)
    channels = rows // kernel
    out = np.empty((len(flat), groups * channels, prod(window.image)), flat.dtype)
    out_rows = _pixels(window, channels, True)
    factors = np.zeros((groups, out_rows.size // ROWS, columns, ROWS), weights.dtype)
    _by_tiles(weights, kernel, factors)
    _share_scatter(crew(), factors.reshape(groups, -1), _lanes(out_rows.size // ROWS, columns), flat, out_rows, where, out)
    return out


def product(weights: Array, image: Array, window: Window) -> Array:
    """``[images, groups * rows, positions]``: weights times windows.

    Args:
        weights: ``[groups, rows, channels * kernel]``, contiguous.
        image: ``[images, groups * channels, pixels]``, contiguous.
        window: How they meet.
    """
    groups, rows, inputs = weights.shape
    where, tiles = laid(window), _tiles(np.arange(rows) * inputs)
    out = np.empty((len(image), groups * rows, prod(window.positions)), image.dtype)
    _share_correlate(crew(), weights.reshape(groups, -1), tiles, image, where, out)
    return out
