"""Gradients of a product's outputs as one vector a position, and gradients of its inputs back from such vectors.

What `unfold` is to the forward read, for the transposed one: here a convolution's windows are what comes out, and add up
where they overlap (col2im); those of a transposed convolution are what goes in (im2col).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.geometry import Conv, ConvTranspose, Dense, Shape

Array = NDArray[Any]


def image_axis(geometry: Dense | Conv | ConvTranspose, x_shape: Shape) -> int:
    """Images of a batch as a read numbers them: rows of a dense product's first axis, 1 where it has none."""
    if isinstance(geometry, Dense):
        return x_shape[geometry.input_perm[0]] if geometry.kept else 1
    return x_shape[0]


def output_vectors(dy: Array, geometry: Dense | Conv | ConvTranspose, x_shape: Shape, groups: int, columns: int) -> Array:
    """``[images, groups, columns, positions]``: what meets the columns of each group at each position.

    Args:
        dy: Gradient of the product, in its shape.
        geometry: Of the product.
        x_shape: Of its activation.
        groups: Of the layer's matrix.
        columns: Likewise.
    """
    images, positions = image_axis(geometry, x_shape), geometry.positions(x_shape)
    if isinstance(geometry, Dense):
        rows = dy.transpose(np.argsort(geometry.output_perm)).reshape(images, positions, groups, columns)
        return np.ascontiguousarray(rows.transpose(0, 2, 3, 1))
    if isinstance(geometry, ConvTranspose):
        begin, size = geometry.resolved(x_shape[2:])
        image = np.zeros((*dy.shape[:2], *_reach(begin, size, geometry, x_shape[2:])), dy.dtype)
        image[_inside(begin, size)] = dy
        windows = [image[place] for place in _places(geometry, x_shape[2:])]
        dy = np.stack(windows, axis=2)
    return np.ascontiguousarray(dy).reshape(images, groups, columns, positions)


def input_gradient(vectors: Array, geometry: Dense | Conv | ConvTranspose, x_shape: Shape) -> Array:
    """The gradient of the activation, of shape ``x_shape``, from ``[images, groups * rows, positions]``."""
    if isinstance(geometry, Dense):
        order = geometry.input_perm
        return vectors.swapaxes(1, 2).reshape([x_shape[a] for a in order]).transpose(np.argsort(order))
    if isinstance(geometry, ConvTranspose):
        return vectors.reshape(x_shape)
    spatial = x_shape[2:]
    begin, _ = geometry.resolved_pads(spatial)
    outputs = geometry.output_spatial(spatial)
    windows = vectors.reshape(*x_shape[:2], prod(geometry.kernel_shape), *outputs)
    image = np.zeros((*x_shape[:2], *_reach(begin, spatial, geometry, outputs)), vectors.dtype)
    for number, place in enumerate(_places(geometry, outputs)):
        image[place] += windows[:, :, number]
    inner: Array = image[_inside(begin, spatial)]
    return inner


def _inside(begin: Shape, size: Shape) -> tuple[Any, ...]:
    """The index of the data in an image that holds more."""
    return (..., *(slice(b, b + n) for b, n in zip(begin, size, strict=True)))


def _reach(begin: Shape, size: Shape, geometry: Conv | ConvTranspose, counts: Shape) -> list[int]:
    """Size of an image that holds the data, ``size`` from ``begin`` on, and every window."""
    kernel = zip(geometry.kernel_shape, geometry.strides, geometry.dilations, strict=True)
    ends = [(count - 1) * s + (k - 1) * d + 1 for count, (k, s, d) in zip(counts, kernel, strict=True)]
    return [max(b + n, end) for b, n, end in zip(begin, size, ends, strict=True)]


def _places(geometry: Conv | ConvTranspose, counts: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """For each point of the kernel, the index of what it meets in an image, over all windows."""
    for point in np.ndindex(*geometry.kernel_shape):
        steps = zip(point, geometry.dilations, counts, geometry.strides, strict=True)
        yield (..., *(slice(k * d, k * d + (count - 1) * s + 1, s) for k, d, count, s in steps))
