"""Gradients of a product's outputs as one vector a position, and gradients of its inputs back from such vectors.

What `unfold` is to the forward read, for the transposed one: here a convolution's windows are what comes out, and add up
where they overlap (col2im); those of a transposed convolution are what goes in (im2col).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.geometry import Conv, ConvTranspose, Dense, Shape, inverse
from cimc.runtime import im2col
from cimc.runtime.planes import Window, flattened

Array = NDArray[Any]


def output_vectors(dy: Array, geometry: Dense | Conv | ConvTranspose, x_shape: Shape, groups: int, columns: int) -> Array:
    """``[images, groups, columns, positions]``: what meets the columns of each group at each position.

    Args:
        dy: Gradient of the product, in its shape.
        geometry: Of the product.
        x_shape: Of its activation.
        groups: Of the layer's matrix.
        columns: Likewise.
    """
    images, positions = geometry.images(x_shape), geometry.positions(x_shape)
    if isinstance(geometry, Dense):
        rows = dy.transpose(inverse(geometry.output_perm)).reshape(images, positions, groups, columns)
        return np.ascontiguousarray(rows.transpose(0, 2, 3, 1))
    if isinstance(geometry, ConvTranspose):
        dy = im2col.unfold(flattened(dy), Window.of(geometry, x_shape))
    return np.ascontiguousarray(dy).reshape(images, groups, columns, positions)


def input_gradient(vectors: Array, geometry: Dense | Conv | ConvTranspose, x_shape: Shape) -> Array:
    """The gradient of the activation, of shape ``x_shape``, from ``[images, groups * rows, positions]``."""
    if isinstance(geometry, Dense):
        order = geometry.input_perm
        return vectors.swapaxes(1, 2).reshape([x_shape[a] for a in order]).transpose(inverse(order))
    if isinstance(geometry, Conv):
        vectors = im2col.fold(vectors, Window.of(geometry, x_shape))
    return vectors.reshape(x_shape)
