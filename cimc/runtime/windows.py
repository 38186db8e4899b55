"""The backward pass of windows, an image at a time, by the tiles of `cimc.runtime.tiles`.

An image is laid out anew in a buffer that stays in the cache: with its padding, and one plane for each phase of the strides,
so that what one kernel element meets at consecutive positions is contiguous. Positions are laid out at the image's pitch where
they are what vectors run along; between their lines there are zeros, or what is left out in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cimc.ir.geometry import Shape
from cimc.runtime.serial import Started, parallel, start
from cimc.runtime.tiles import COLUMNS, ROWS, VECTOR, multiply, transpose

Array = NDArray[Any]
Index = NDArray[np.int64]

#: Parts that the images are cut into, at most; each holds a partial sum of a weight gradient.
_PARTS = 8
#: Elements of all those partial sums, about, from which on there are fewer parts.
_MOST = 1 << 22
#: Positions of one product of an outer product, about: their panel stays in the first-level cache.
_POSITIONS = 256


@dataclass(frozen=True)
class Window:
    """Position ``p`` and kernel element ``k`` meet pixel ``p * stride + k * dilation - begin`` of an image, in each axis."""

    image: Shape
    positions: Shape
    kernel: Shape
    strides: Shape
    dilations: Shape
    begin: Shape


@dataclass(frozen=True)
class Lines:
    """Lines that are copied from plane to plane."""

    source: Index
    goal: Index
    run: Index
    source_step: int = 1
    goal_step: int = 1

    @property
    def there(self) -> tuple[Any, ...]:
        """As `_copy` takes them."""
        return self.source, self.goal, self.run, self.source_step, self.goal_step

    @property
    def back(self) -> tuple[Any, ...]:
        """From the goal to the source."""
        return self.goal, self.source, self.run, self.goal_step, self.source_step


@dataclass(frozen=True)
class Laid:
    """How an image is laid out, and how positions run in it."""

    lines: Lines
    """Into a channel's planes."""
    plane: int
    """Elements of a channel."""
    at: Index
    """Where each kernel element meets the first position."""
    span: int
    """From the first position to behind the last."""
    placed: Lines
    """Positions: from ``span`` to an array of their own."""


def _flat(places: list[Index], sizes: Shape) -> Index:
    """Flat indices of a grid of places in an array of those sizes; the last axis apart."""
    flat = np.zeros(1, np.int64)
    for place, size in zip(places, sizes, strict=True):
        flat = (flat[:, None] * size + place).reshape(-1)
    return flat


@lru_cache(maxsize=256)
def _laid(window: Window) -> Laid:
    """The image, a plane for each phase of the strides; positions are those of the window."""
    w = window
    reach = [(k - 1) * d + (p - 1) * s + 1 for k, d, p, s in zip(w.kernel, w.dilations, w.positions, w.strides, strict=True)]
    sides = tuple(-(-max(b + n, r) // s) for b, n, r, s in zip(w.begin, w.image, reach, w.strides, strict=True))
    size, pitch = prod(sides), sides[-1]
    source, goal, run = [], [], []
    pixels = [np.arange(n) for n in w.image[:-1]]
    padded = [p + b for p, b in zip(pixels, w.begin, strict=False)]
    phase = _flat([p % s for p, s in zip(padded, w.strides, strict=False)], w.strides[:-1])
    inner = _flat([p // s for p, s in zip(padded, w.strides, strict=False)], sides[:-1])
    for last in range(w.strides[-1]):
        first = (last - w.begin[-1]) % w.strides[-1]
        count = len(range(first, w.image[-1], w.strides[-1]))
        source.append(_flat(pixels, w.image[:-1]) * w.image[-1] + first)
        goal.append((phase * w.strides[-1] + last) * size + inner * pitch + (first + w.begin[-1]) // w.strides[-1])
        run.append(np.full(inner.size, count))
    offsets = [np.arange(k) * d for k, d in zip(w.kernel, w.dilations, strict=True)]
    at = _flat([o % s for o, s in zip(offsets, w.strides, strict=True)], w.strides) * size
    at += _flat([o // s for o, s in zip(offsets, w.strides, strict=True)], sides)
    lines = Lines(np.concatenate(source), np.concatenate(goal), np.concatenate(run), w.strides[-1])
    begins, long = _flat([np.arange(n) for n in w.positions[:-1]], sides[:-1]) * pitch, w.positions[-1]
    placed = Lines(begins, np.arange(begins.size) * long, np.full(begins.size, long))
    return Laid(lines, prod(w.strides) * size, at, int(begins[-1]) + long, placed)


@njit(cache=True, nogil=True)
def _copy(
    source: Array, source_at: int, goal: Array, goal_at: int, channels: int, source_pitch: int, goal_pitch: int,
    sources: Index, goals: Index, runs: Index, source_step: int, goal_step: int,
) -> None:  # fmt: skip
    """Lines of all channels."""
    for c in range(channels):
        for n in range(runs.size):
            x = source[source_at + c * source_pitch + sources[n] :]
            y = goal[goal_at + c * goal_pitch + goals[n] :]
            if source_step == 1 and goal_step == 1:
                for i in range(runs[n]):
                    y[i] = x[i]
            else:
                for i in range(runs[n]):
                    y[i * goal_step] = x[i * source_step]


@njit(cache=True, nogil=True)
def _outer(
    image: Array, flat: Array, first: int, end: int, rows: Index, plane: int, lines: Any, starts: Index, out: Array
) -> None:
    """Partial sum of images ``first`` to ``end`` into ``out``, ``[groups, rows of tiles, columns of panels]``.

    Columns are the lanes of vectors: a panel holds two vectors a position, and pixels meet it one by one.
    """
    groups, tall, pitch = out.shape
    channels, columns, positions = image.shape[1] // groups, flat.shape[1] // groups, flat.shape[2]
    wide, run = VECTOR // image.itemsize * COLUMNS, positions // starts.size
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
                _copy(images, at, laid, k * channels * plane, channels, image.shape[2], plane, *lines)
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


@njit(cache=True, nogil=True)
def _scatter(
    weights: Array, rows: Index, flat: Array, first: int, end: int, out_rows: Index, plane: int, span: int, lines: Any,
    placed: Any, out: Array,
) -> None:  # fmt: skip
    """Images ``first`` to ``end``: ``out[n, channel, pixel]``."""
    groups, wide = len(weights), VECTOR // flat.itemsize * COLUMNS
    channels, columns = out.shape[1] // groups, flat.shape[1] // groups
    # An odd number of cache lines from column to column, so that they do not meet in the cache.
    pitch = ((span + wide - 1) // wide | 1) * wide
    x, y = np.zeros(columns * pitch, flat.dtype), np.empty(channels * plane + wide, flat.dtype)
    flats, outs, none = flat.reshape(-1), out.reshape(-1), np.zeros(1, np.int64)
    for n in range(first, end):
        for g in range(groups):
            _copy(flats, (n * groups + g) * columns * flat.shape[2], x, 0, columns, flat.shape[2], pitch, *placed)
            y[:] = 0
            for j in range(0, span, wide):
                multiply(weights[g], rows, ROWS, x, j, pitch, none, none, columns, y, out_rows, j)
            _copy(y, 0, outs, (n * groups + g) * channels * out.shape[2], channels, plane, out.shape[2], *lines)


@njit(cache=True, nogil=True)
def _correlate(
    weights: Array, rows: Index, image: Array, first: int, end: int, at: Index, plane: int, span: int, lines: Any, placed: Any,
    out: Array,
) -> None:  # fmt: skip
    """Images ``first`` to ``end``: ``out[n, row, position]``."""
    groups, wide = len(weights), VECTOR // image.itemsize * COLUMNS
    channels, outputs = image.shape[1] // groups, out.shape[1] // groups
    pitch = (span + wide - 1) // wide * wide
    x, y = np.zeros(channels * plane + pitch + wide, image.dtype), np.empty(rows.size * pitch, image.dtype)
    images, outs, elements, out_rows = image.reshape(-1), out.reshape(-1), np.arange(at.size), np.arange(0, y.size, pitch)
    for n in range(first, end):
        for g in range(groups):
            _copy(images, (n * groups + g) * channels * image.shape[2], x, 0, channels, image.shape[2], plane, *lines)
            y[:] = 0
            for j in range(0, pitch, wide):
                multiply(weights[g], rows, at.size, x, j, plane, elements, at, channels, y, out_rows, j)
            _copy(y, 0, outs, (n * groups + g) * outputs * out.shape[2], outputs, pitch, out.shape[2], *placed)


def _parts(images: int, most: int = _PARTS) -> list[tuple[int, int]]:
    parts = max(1, min(images, most))
    return [(images * n // parts, images * (n + 1) // parts) for n in range(parts)]


def _tiles(starts: Index) -> Index:
    """Rows of whole tiles, the last repeated."""
    return np.concatenate([starts, np.repeat(starts[-1:], -starts.size % ROWS)])


def outer(image: Array, flat: Array, window: Window, groups: int) -> Started:
    """Partial sums ``[groups, channels * kernel, columns]``: over all images and positions, windows times columns.

    Args:
        image: ``[images, groups * channels, pixels]``, contiguous.
        flat: ``[images, groups * columns, positions]``, contiguous.
        window: How they meet.
        groups: Groups of channels and columns.
    """
    laid = _laid(window)
    rows = (np.arange(image.shape[1] // groups)[:, None] * laid.plane + laid.at).reshape(-1)
    columns, wide = flat.shape[1] // groups, VECTOR // image.itemsize * COLUMNS
    tiles, shape = _tiles(rows), (groups, rows.size, columns)
    parts = _parts(len(image), max(1, min(_PARTS, _MOST // max(1, prod(shape)))))

    def part(n: int) -> Array:
        total = np.zeros((groups, tiles.size, -(-columns // wide) * wide), image.dtype)
        _outer(image, flat, *parts[n], tiles, laid.plane, laid.lines.there, laid.placed.source, total)
        return total[:, : rows.size, :columns]

    return start(part, len(parts))


def scatter(weights: Array, flat: Array, window: Window) -> Array:
    """``[images, groups * channels, pixels]``: windows ``weights @ flat`` added up where they lie.

    Args:
        weights: ``[groups, channels * kernel, columns]``, contiguous.
        flat: ``[images, groups * columns, positions]``, contiguous.
        window: How they meet.
    """
    groups, rows, columns = weights.shape
    laid, kernel = _laid(window), prod(window.kernel)
    channels = rows // kernel
    out = np.empty((len(flat), groups * channels, prod(window.image)), flat.dtype)
    out_rows = _tiles((laid.at[:, None] + np.arange(channels) * laid.plane).reshape(-1))
    # A tile's factors lie together, so that they come from the second-level cache in time; beyond the last row they are 0.
    own = np.zeros((groups, out_rows.size, columns), weights.dtype)
    own[:, :rows] = weights.reshape(groups, channels, kernel, columns).swapaxes(1, 2).reshape(weights.shape)
    factors = np.ascontiguousarray(own.reshape(groups, -1, ROWS, columns).swapaxes(2, 3)).reshape(groups, -1)
    tiles = (np.arange(0, factors.shape[1], ROWS * columns)[:, None] + np.arange(ROWS)).reshape(-1)

    def part(first: int, end: int) -> None:
        _scatter(
            factors, tiles, flat, first, end, out_rows, laid.plane, laid.span, laid.lines.back, laid.placed.back, out
        )  # fmt: skip

    _each(part, len(flat))
    return out


def product(weights: Array, image: Array, window: Window) -> Array:
    """``[images, groups * rows, positions]``: weights times windows.

    Args:
        weights: ``[groups, rows, channels * kernel]``, contiguous.
        image: ``[images, groups * channels, pixels]``, contiguous.
        window: How they meet.
    """
    groups, rows, inputs = weights.shape
    laid, tiles = _laid(window), _tiles(np.arange(rows) * inputs)
    out = np.empty((len(image), groups * rows, prod(window.positions)), image.dtype)

    def part(first: int, end: int) -> None:
        _correlate(
            weights.reshape(groups, -1), tiles, image, first, end, laid.at, laid.plane, laid.span, laid.lines.there,
            laid.placed.there, out,
        )  # fmt: skip

    _each(part, len(image))
    return out


def _each(part: Callable[[int, int], None], images: int) -> None:
    parts = _parts(images)
    parallel(lambda n: part(*parts[n]), len(parts))
