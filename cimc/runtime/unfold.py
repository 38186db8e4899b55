"""Where a position's inputs lie: im2col as two index vectors, never as a matrix.

Inputs become codes once, in an image of their own that holds the padding. Input ``r`` of group ``g`` at position ``p`` is
``image[g * group_stride + base[p] + row_offset[r]]``: a window moves as a whole, for any rank, stride and dilation. The
same form serves dense products and the pixels of a transposed convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import DataError
from cimc.ir.geometry import Conv, ConvTranspose, Dense, Shape

#: Values of one image, padding included, or of one output channel: beyond it an array is a mistake, or hostile.
MOST_VALUES = 1 << 30

Array = NDArray[Any]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Unfolding:
    """How the inputs of one image form row vectors."""

    perm: tuple[int, ...] | None
    """Transposition that brings the input to image-major order; None: it is already."""
    inner: tuple[slice, ...]
    """Where the data lie in the padded image ``[channels, *padded]``."""
    padded: Shape
    """Shape of one padded image."""
    base: Index
    """``[positions]``."""
    row_offset: Index
    """``[rows]``."""
    group_stride: int

    @cached_property
    def positions(self) -> int:
        return self.base.size

    @cached_property
    def size(self) -> int:
        """Values of one image without padding."""
        return prod(len(range(n)[part]) for n, part in zip(self.padded, self.inner, strict=True))

    @cached_property
    def padded_size(self) -> int:
        return prod(self.padded)

    @cached_property
    def line_ends(self) -> Index:
        """Of each position: where the line of positions ends whose inputs lie one behind the other."""
        ends = np.append(np.flatnonzero(np.diff(self.base) != 1) + 1, self.positions)
        return ends[np.searchsorted(ends, np.arange(self.positions), side="right")]

    @cached_property
    def contiguous(self) -> bool:
        """No padding: the input's own layout is the padded image."""
        return all(s == slice(None) for s in self.inner)

    def padded_images(self, x: Array, dtype: Any) -> Array:
        """An input as ``[images, padded size]``, contiguous; without padding it is not copied if it need not be."""
        if self.perm is not None:
            x = x.transpose(self.perm)
        images = x.size // self.size if self.size else 0
        if self.contiguous:
            return np.ascontiguousarray(x, dtype).reshape(images, self.padded_size)
        # Padding is an input of 0 like any other, whatever code that has.
        padded = np.zeros((images, *self.padded), dtype)
        padded[(slice(None), *self.inner)] = x
        return padded.reshape(images, self.padded_size)


@lru_cache(maxsize=256)
def unfolding(
    geometry: Dense | Conv | ConvTranspose, input_shape: Shape, groups: int, rows: int, repeats: int = 1
) -> Unfolding:  # fmt: skip
    """The unfolding of one input; ``input_shape`` with its image axis, whose size does not matter.

    Args:
        geometry: How the input forms row vectors.
        input_shape: Shape of the input.
        groups: Of the layer.
        rows: Inputs of one group's matrix.
        repeats: Times that each of them drives a word line.

    Raises:
        DataError: The input does not hold ``groups * rows`` values a position, has no position, or is too large.
    """
    make: Any = _dense if isinstance(geometry, Dense) else _windows
    where: Unfolding = make(geometry, input_shape, groups, rows)
    reach = [int(index.max(initial=0)) for index in (where.base, where.row_offset)]
    if where.positions and sum(reach) + (groups - 1) * where.group_stride >= max(1, where.padded_size):
        raise DataError(f"windows of an input of shape {list(input_shape)} leave it")
    return where if repeats == 1 else replace(where, row_offset=np.tile(where.row_offset, repeats))


def _windows(geometry: Conv | ConvTranspose, input_shape: Shape, groups: int, rows: int) -> Unfolding:
    if len(input_shape) != 2 + len(geometry.kernel_shape):
        raise DataError(f"an input of shape {list(input_shape)} for a kernel of {len(geometry.kernel_shape)} axes")
    channels, spatial = input_shape[1], input_shape[2:]
    per_channel = 1 if isinstance(geometry, ConvTranspose) else prod(geometry.kernel_shape)
    if channels * per_channel != groups * rows:
        raise DataError(f"an input of {channels} channels does not suit {groups} x {rows} rows")
    if isinstance(geometry, ConvTranspose):
        _limited(input_shape, "output", geometry.resolved(spatial)[1])
        if not geometry.reaches(spatial):
            raise DataError(
                f"an input of shape {list(input_shape)} does not give the stated output of {geometry.explicit_output}"
            )
        pixels = prod(spatial)
        whole = (slice(None),) * (1 + len(spatial))
        return Unfolding(None, whole, input_shape[1:], np.arange(pixels), np.arange(rows) * pixels, rows * pixels)
    begin, end = geometry.resolved_pads(spatial)
    padded = tuple(b + n + e for b, n, e in zip(begin, spatial, end, strict=True))
    if any(size < extent for size, extent in zip(padded, geometry.extents(), strict=True)):
        raise DataError(f"an input of shape {list(input_shape)} is smaller than a window of {geometry.extents()}")
    _limited(input_shape, "output", geometry.output_spatial(spatial))
    _limited(input_shape, "padded input", (channels, *padded))
    inner = tuple(slice(b, b + n) if b or e else slice(None) for b, n, e in zip(begin, spatial, end, strict=True))
    steps = [prod(padded[a + 1 :]) for a in range(len(padded))]
    base = _grid(geometry.output_spatial(spatial), [s * t for s, t in zip(steps, geometry.strides, strict=True)])
    window = _grid(geometry.kernel_shape, [s * d for s, d in zip(steps, geometry.dilations, strict=True)])
    area = prod(padded)
    in_group = rows // per_channel
    offsets = (np.arange(in_group)[:, None] * area + window).reshape(-1)
    return Unfolding(None, (slice(None), *inner), (channels, *padded), base, offsets, in_group * area)


def _limited(input_shape: Shape, what: str, sizes: Shape) -> None:
    """Refuse sizes that no array can have.

    Raises:
        DataError: One is not positive, or together they are too many.
    """
    if min(sizes, default=1) < 1 or prod(sizes) > MOST_VALUES:
        raise DataError(f"an input of shape {list(input_shape)} gives an {what} of {' x '.join(map(str, sizes))} values an image")


def _dense(geometry: Dense, input_shape: Shape, groups: int, rows: int) -> Unfolding:
    if len(input_shape) != len(geometry.input_perm):
        raise DataError(f"an input of shape {list(input_shape)}, the layer takes one of {len(geometry.input_perm)} axes")
    width = prod(input_shape[a] for a in geometry.input_perm[geometry.kept :])
    if width != groups * rows:
        raise DataError(f"an input of shape {list(input_shape)} holds {width} values a position, the layer {groups * rows} rows")
    positions = prod(input_shape[a] for a in geometry.input_perm[1 : geometry.kept])
    perm = None if geometry.input_perm == tuple(range(len(geometry.input_perm))) else geometry.input_perm
    return Unfolding(perm, (slice(None),), (positions * width,), np.arange(positions) * width, np.arange(rows), rows)


def _grid(sizes: Shape, steps: list[int]) -> Index:
    """Flat offsets of a grid of that many points and steps along each axis, row-major."""
    flat = np.zeros(1, np.int64)
    for size, step in zip(sizes, steps, strict=True):
        flat = (flat[:, None] + np.arange(size) * step).reshape(-1)
    return flat
