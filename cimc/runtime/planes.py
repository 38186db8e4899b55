"""An image laid out so that what one kernel element meets at consecutive positions is contiguous.

It gets its padding, and one plane for each phase of the strides. Positions run in it at the plane's own pitch: a kernel element
meets all of them a fixed distance from where the first element does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cimc.ir.geometry import Conv, ConvTranspose, Shape
from cimc.runtime.jit import kernel

Array = NDArray[Any]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Position ``p`` and kernel element ``k`` meet pixel ``p * stride + k * dilation - begin`` of an image, in each axis."""

    image: Shape
    positions: Shape
    kernel: Shape
    strides: Shape
    dilations: Shape
    begin: Shape

    @classmethod
    def of(cls, geometry: Conv | ConvTranspose, x_shape: Shape) -> Window:
        """How the inputs of a convolution meet its outputs; of a transposed one, the outputs its inputs."""
        spatial, how = x_shape[2:], (geometry.kernel_shape, geometry.strides, geometry.dilations)
        if isinstance(geometry, Conv):
            return cls(spatial, geometry.output_spatial(spatial), *how, geometry.resolved_pads(spatial)[0])
        begin, size = geometry.resolved(spatial)
        return cls(size, spatial, *how, begin)


def flattened(array: Array, dtype: Any = None) -> Array:
    """``[images, channels, pixels]``, contiguous; of that dtype, or of its own."""
    return np.ascontiguousarray(array, dtype).reshape(*array.shape[:2], -1)


class Lines(NamedTuple):
    """Lines that are copied from plane to plane; offsets and steps in elements."""

    source: Index
    """Where each begins."""
    goal: Index
    """Where it goes."""
    run: Index
    """Elements of it."""
    source_step: int = 1
    goal_step: int = 1


class Laid(NamedTuple):
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
def laid(window: Window) -> Laid:
    """The layout of one channel of images of that window."""
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


@kernel()
def back(lines: Lines) -> Lines:
    """From the goal to the source."""
    return Lines(lines.goal, lines.source, lines.run, lines.goal_step, lines.source_step)


@kernel()
def copy(
    source: Array, source_at: int, goal: Array, goal_at: int, channels: int, source_pitch: int, goal_pitch: int, lines: Lines
) -> None:
    """Lines of all channels, whose pitches are those from channel to channel."""
    for c in range(channels):
        for n in range(lines.run.size):
            x = source[source_at + c * source_pitch + lines.source[n] :]
            y = goal[goal_at + c * goal_pitch + lines.goal[n] :]
            if lines.source_step == 1 and lines.goal_step == 1:
                for i in range(lines.run[n]):
                    y[i] = x[i]
            else:
                for i in range(lines.run[n]):
                    y[i * lines.goal_step] = x[i * lines.source_step]
