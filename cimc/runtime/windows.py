"""The backward pass of windows, an image at a time: correlations by the tiles of `cimc.runtime.tiles`, outer products by BLAS.

An image is laid out anew in a buffer that stays in the cache: with its padding, and one plane for each phase of the strides,
so that what one kernel element meets at consecutive positions is contiguous. A correlation runs over whole planes; what lies
between the lines of positions is left out in the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - numba's np.dot is this BLAS: loaded now, so that limits on its threads reach it
from numba import njit
from numpy.typing import NDArray

from cimc.ir.geometry import Shape
from cimc.runtime.serial import Started, parallel, start
from cimc.runtime.tiles import COLUMNS, ROWS, VECTOR, multiply

Array = NDArray[Any]
Index = NDArray[np.int64]

#: Parts that the images are cut into, at most; each holds a partial sum of a weight gradient.
_PARTS = 8
#: Elements of all those partial sums, about, from which on there are fewer parts.
_MOST = 1 << 22
#: Positions of one product of BLAS, about.
_COLUMNS = 256


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
    """Positions: from ``span`` to where they are wanted."""
    elements: Index
    """Numbers of the kernel elements of ``at``."""


def _flat(places: list[Index], sizes: Shape) -> Index:
    """Flat indices of a grid of places in an array of those sizes; the last axis apart."""
    flat = np.zeros(1, np.int64)
    for place, size in zip(places, sizes, strict=True):
        flat = (flat[:, None] * size + place).reshape(-1)
    return flat


@lru_cache(maxsize=256)
def _gathered(window: Window) -> Laid:
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
    span, placed = _placed(w.positions, sides)
    return Laid(lines, prod(w.strides) * size, at, span, placed, np.arange(at.size))


def _placed(positions: Shape, sides: Shape) -> tuple[int, Lines]:
    """Their span, and the lines of positions in it."""
    source = _flat([np.arange(n) for n in positions[:-1]], sides[:-1]) * sides[-1]
    lines = Lines(source, np.arange(source.size) * positions[-1], np.full(source.size, positions[-1]))
    return int(source[-1]) + positions[-1], lines


@lru_cache(maxsize=256)
def _scattered(window: Window) -> tuple[Laid, ...]:
    """The positions as an image with room about it, whose windows add up to the pixels; for each phase of the strides."""
    w = window
    before = [max(0, -(-((k - 1) * d - b) // s)) for k, d, b, s in zip(w.kernel, w.dilations, w.begin, w.strides, strict=True)]
    last = [max(p, (n - 1 + b) // s + 1) for p, n, b, s in zip(w.positions, w.image, w.begin, w.strides, strict=True)]
    sides = tuple(m + n for m, n in zip(before, last, strict=True))
    _, own = _placed(w.positions, w.positions)
    goal = _flat([np.arange(p) + m for p, m in zip(w.positions[:-1], before, strict=False)], sides[:-1]) * sides[-1] + before[-1]
    lines = Lines(own.source, goal, own.run)
    found = []
    for phase in np.ndindex(*w.strides):
        count = tuple(len(range(o, n, s)) for o, n, s in zip(phase, w.image, w.strides, strict=True))
        if not all(count):
            continue
        shifts = [o + b - np.arange(k) * d for o, b, k, d in zip(phase, w.begin, w.kernel, w.dilations, strict=True)]
        meets = [shift % s == 0 for shift, s in zip(shifts, w.strides, strict=True)]
        elements = _flat([np.flatnonzero(m) for m in meets], w.kernel)
        at = _flat([v[m] // s + b for v, m, s, b in zip(shifts, meets, w.strides, before, strict=True)], sides)
        span, placed = _placed(count, sides)
        pixels = [np.arange(o, n, s) for o, n, s in zip(phase, w.image, w.strides, strict=True)]
        places = _flat(pixels[:-1], w.image[:-1]) * w.image[-1] + phase[-1]
        found.append(Laid(lines, prod(sides), at, span, Lines(placed.source, places, placed.run, 1, w.strides[-1]), elements))
    return tuple(found)


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
    image: Array, flat: Array, first: int, end: int, rows: Index, plane: int, lines: Any, starts: Index, run: int, out: Array
) -> None:
    """Partial sum of images ``first`` to ``end`` into ``out``, ``[groups, rows, columns]``; positions come in lines."""
    groups, tall, wide = out.shape
    channels, positions = image.shape[1] // groups, flat.shape[2]
    some, several = max(1, min(end - first, _COLUMNS // positions)), max(1, min(starts.size, _COLUMNS // run))
    laid = np.zeros((some, channels * plane), image.dtype)
    room, spare = np.empty(tall * some * several * run, image.dtype), np.empty(wide * some * several * run, image.dtype)
    product = np.empty((tall, wide), image.dtype)
    images = image.reshape(-1)
    for n in range(first, end, some):
        count = min(some, end - n)
        for g in range(groups):
            for k in range(count):
                at = ((n + k) * groups + g) * channels * image.shape[2]
                _copy(images, at, laid[k], 0, channels, image.shape[2], plane, *lines)
            for begin in range(0, starts.size, several):
                here = starts[begin : begin + several]
                width = here.size * run
                windows = room[: tall * count * width].reshape(tall, count * width)
                columns = spare[: wide * count * width].reshape(wide, count * width)
                for k in range(count):
                    columns[:, k * width : (k + 1) * width] = flat[
                        n + k, g * wide : (g + 1) * wide, begin * run : begin * run + width
                    ]
                    for r in range(tall):
                        for i in range(here.size):
                            line = windows[r, k * width + i * run : k * width + (i + 1) * run]
                            source = laid[k, rows[r] + here[i] : rows[r] + here[i] + run]
                            for p in range(run):
                                line[p] = source[p]
                np.dot(windows, columns.T, product)
                out[g] += product


@njit(cache=True, nogil=True)
def _correlate(
    weights: Array, rows: Index, elements: Index, a_step: int, image: Array, groups: int, first: int, end: int, at: Index,
    plane: int, span: int, lines: Any, placed: Any, outputs: int, out: Array,
) -> None:  # fmt: skip
    """Images ``first`` to ``end``: ``out[n, row, position]``; rows of a group begin in its weights where ``rows`` says."""
    channels = image.shape[1] // groups
    lanes = VECTOR // image.itemsize
    wide = lanes * COLUMNS
    pitch = (span + wide - 1) // wide * wide
    x, y = np.zeros(channels * plane + pitch + wide, image.dtype), np.empty(rows.size * pitch, image.dtype)
    images, outs = image.reshape(-1), out.reshape(-1)
    for n in range(first, end):
        for g in range(groups):
            _copy(images, (n * groups + g) * channels * image.shape[2], x, 0, channels, image.shape[2], plane, *lines)
            for j in range(0, pitch, wide):
                for i in range(0, rows.size, ROWS):
                    multiply(weights[g], rows, i, a_step, x, j, plane, elements, at, at.size, channels, y, i * pitch + j, pitch)
            _copy(y, 0, outs, (n * groups + g) * outputs * out.shape[2], outputs, pitch, out.shape[2], *placed)


def _tuple(lines: Lines) -> tuple[Any, ...]:
    return lines.source, lines.goal, lines.run, lines.source_step, lines.goal_step


def _parts(images: int, most: int = _PARTS) -> list[tuple[int, int]]:
    parts = max(1, min(images, most))
    return [(images * n // parts, images * (n + 1) // parts) for n in range(parts)]


def _rows(starts: Index) -> Index:
    """With what a last tile takes beyond them."""
    return np.concatenate([starts, np.repeat(starts[-1:], -starts.size % ROWS)])


def outer(image: Array, flat: Array, window: Window, groups: int) -> Started:
    """Partial sums ``[groups, channels * kernel, columns]``: over all images and positions, windows times columns.

    Args:
        image: ``[images, groups * channels, pixels]``, contiguous.
        flat: ``[images, groups * columns, positions]``, contiguous.
        window: How they meet.
        groups: Groups of channels and columns.
    """
    laid = _gathered(window)
    rows = (np.arange(image.shape[1] // groups)[:, None] * laid.plane + laid.at).reshape(-1)
    shape = (groups, rows.size, flat.shape[1] // groups)
    parts = _parts(len(image), max(1, min(_PARTS, _MOST // max(1, prod(shape)))))
    starts, run = laid.placed.source, window.positions[-1]

    def part(n: int) -> Array:
        total = np.zeros(shape, image.dtype)
        _outer(image, flat, *parts[n], rows, laid.plane, _tuple(laid.lines), starts, run, total)
        return total

    return start(part, len(parts))


def scatter(weights: Array, flat: Array, window: Window) -> Array:
    """``[images, groups * channels, pixels]``: windows ``weights @ flat`` added up where they lie.

    Args:
        weights: ``[groups, channels * kernel, columns]``, contiguous.
        flat: ``[images, groups * columns, positions]``, contiguous.
        window: How they meet.
    """
    groups, _, columns = weights.shape
    channels = weights.shape[1] // prod(window.kernel)
    out = np.empty((len(flat), groups * channels, prod(window.image)), flat.dtype)
    rows = np.arange(channels) * prod(window.kernel) * columns
    for laid in _scattered(window):
        _run(weights, rows, laid.elements * columns, 1, flat, laid, channels, out)
    return out


def product(weights: Array, image: Array, window: Window) -> Array:
    """``[images, groups * rows, positions]``: weights times windows.

    Args:
        weights: ``[groups, rows, channels * kernel]``, contiguous.
        image: ``[images, groups * channels, pixels]``, contiguous.
        window: How they meet.
    """
    groups, rows, inputs = weights.shape
    laid = _gathered(window)
    out = np.empty((len(image), groups * rows, prod(window.positions)), image.dtype)
    _run(weights, np.arange(rows) * inputs, laid.elements, prod(window.kernel), image, laid, rows, out)
    return out


def _run(weights: Array, rows: Index, elements: Index, step: int, image: Array, laid: Laid, outputs: int, out: Array) -> None:
    parts = _parts(len(image))
    flat, groups = weights.reshape(len(weights), -1), len(weights)

    def part(n: int) -> None:
        _correlate(
            flat, _rows(rows), elements, step, image, groups, *parts[n], laid.at, laid.plane, laid.span, _tuple(laid.lines),
            _tuple(laid.placed), outputs, out,
        )  # fmt: skip

    parallel(part, len(parts))
