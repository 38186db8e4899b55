"""The backward pass of crossbar steps in the digital unit: gradients of activations by W, and of W by outer products.

A convolution's windows are gathered image by image into a buffer that stays in the cache, and one BLAS product a group does
the rest; a transposed convolution is the same with the two sides exchanged. Images are cut into parts whose number does not
depend on the threads, and partial sums are added in order, so the same bytes come out for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.geometry import Conv, ConvTranspose, Dense, Shape
from cimc.ir.program import Layer, MaskStep
from cimc.runtime import rng, windows
from cimc.runtime.coding import Coding
from cimc.runtime.unfold import Unfolding, unfolding

Array = NDArray[Any]


def activation_gradient(
    dy: Array, weights: Array, x_shape: Shape, geometry: Dense | Conv | ConvTranspose, alpha: float = 1.0
) -> Array:
    """``dX = dY @ W^T * alpha``, in the activation's shape and the gradient's dtype.

    Args:
        dy: Gradient of the product, in its shape.
        weights: ``[groups, rows, columns]``.
        x_shape: Of the activation.
        geometry: Of the step.
        alpha: Digital factor of the step.
    """
    kind = _kind(dy)
    w = np.ascontiguousarray(weights, kind)
    if alpha != 1:
        w = w * w.dtype.type(alpha)
    groups, rows, columns = w.shape
    if isinstance(geometry, Dense):
        products = _products(_columns(dy, geometry, groups, columns).astype(kind, copy=False), w.swapaxes(1, 2))
        kept = geometry.input_perm[: geometry.kept]
        inner = geometry.input_perm[geometry.kept :]
        full = products.reshape([x_shape[a] for a in (*kept, *inner)])
        out = full.transpose(np.argsort(geometry.input_perm))
    elif isinstance(geometry, Conv):
        where = unfolding(geometry, x_shape, groups, rows)
        image = windows.add(w, _flat(dy, kind), where, _run(geometry, x_shape))
        out = image.reshape(-1, *where.padded)[(slice(None), *where.inner)].reshape(x_shape)
    else:
        image, where, run = _spread(dy, geometry, x_shape, groups, columns, kind)
        out = windows.product(w, image, where, run).reshape(x_shape)
    dx: Array = np.ascontiguousarray(out).astype(dy.dtype, copy=False)
    return dx


def weight_gradient(x: Array, dy: Array, layer: Layer, geometry: Dense | Conv | ConvTranspose, alpha: float = 1.0) -> Array:
    """``dW = rows(X)^T @ columns(dY) * alpha``, ``[groups, rows, columns]``; zero between packed groups.

    Args:
        x: The activation, real-valued.
        dy: Gradient of the product.
        layer: Gives the shape of its matrix.
        geometry: Of the step.
        alpha: Digital factor of the step.
    """
    kind = _kind(dy)
    groups, rows, columns = layer.groups, layer.rows, layer.columns
    if isinstance(geometry, Dense):
        inputs = np.ascontiguousarray(x.transpose(geometry.input_perm), kind).reshape(-1, groups, rows)
        outputs = _columns(dy, geometry, groups, columns).astype(kind, copy=False)
        dw = np.matmul(inputs.transpose(1, 2, 0), outputs.transpose(1, 0, 2))
    elif isinstance(geometry, Conv):
        where = unfolding(geometry, x.shape, groups, rows)
        dw = windows.outer(_padded(x, where, kind), _flat(dy, kind), where, _run(geometry, x.shape), groups)
    else:
        image, where, run = _spread(dy, geometry, x.shape, groups, columns, kind)
        dw = windows.outer(image, _flat(x, kind), where, run, groups).swapaxes(1, 2)
    if alpha != 1:
        dw = dw * dw.dtype.type(alpha)
    if layer.group_packing > 1:
        parts = np.eye(layer.group_packing, dtype=dw.dtype)
        dw = dw * np.kron(parts, np.ones((layer.weight.shape[1], layer.weight.shape[2]), dw.dtype))
    return np.ascontiguousarray(dw)


def _kind(array: Array) -> Any:
    return np.float64 if array.dtype == np.float64 else np.float32


def _columns(dy: Array, geometry: Dense, groups: int, columns: int) -> Array:
    """``[positions, groups, columns]``."""
    return dy.transpose(np.argsort(geometry.output_perm)).reshape(-1, groups, columns)


def _products(a: Array, b: Array) -> Array:
    """``[n, groups, k]`` times ``[groups, k, m]``, as ``[n, groups, m]``."""
    if a.shape[1] == 1:
        alone: Array = (a[:, 0] @ b[0])[:, None]
        return alone
    return np.ascontiguousarray(np.matmul(a.swapaxes(0, 1), b).swapaxes(0, 1))


def _flat(array: Array, kind: Any) -> Array:
    """``[images, channels, positions]``."""
    return np.ascontiguousarray(array, kind).reshape(*array.shape[:2], -1)


def _padded(x: Array, where: Unfolding, kind: Any) -> Array:
    """``[images, padded image]``."""
    if where.contiguous:
        return np.ascontiguousarray(x, kind).reshape(len(x), -1)
    image = np.zeros((len(x), *where.padded), kind)
    image[(slice(None), *where.inner)] = x
    return image.reshape(len(x), -1)


def _run(geometry: Conv, x_shape: Shape) -> tuple[int, int]:
    """Positions of a line of outputs, and the step from one to the next in the padded image."""
    return geometry.output_spatial(x_shape[2:])[-1], geometry.strides[-1]


def _spread(
    dy: Array, geometry: ConvTranspose, x_shape: Shape, groups: int, columns: int, kind: Any
) -> tuple[Array, Unfolding, tuple[int, int]]:
    """The outputs' gradient as the image over which the inputs' positions are windows: before cropping and with room for all."""
    spatial = x_shape[2:]
    begin, size = geometry.resolved(spatial)
    extents = [d * (k - 1) + 1 for k, d in zip(geometry.kernel_shape, geometry.dilations, strict=True)]
    reach = [s * (n - 1) + e for s, n, e in zip(geometry.strides, spatial, extents, strict=True)]
    full = [max(b + n, r) for b, n, r in zip(begin, size, reach, strict=True)]
    image = np.zeros((*dy.shape[:2], *full), kind)
    image[(slice(None), slice(None), *(slice(b, b + n) for b, n in zip(begin, size, strict=True)))] = dy
    trimmed = image[(slice(None), slice(None), *(slice(0, r) for r in reach))]
    window = Conv(
        kernel_shape=geometry.kernel_shape, strides=geometry.strides, dilations=geometry.dilations, pads=(0,) * (2 * len(spatial))
    )
    where = unfolding(window, trimmed.shape, groups, columns)
    return np.ascontiguousarray(trimmed).reshape(len(dy), -1), where, (spatial[-1], geometry.strides[-1])


def clip_gradient(dx: Array, x: Array, coding: Coding) -> Array:
    """The gradient of an activation, zero where the DAC clipped it."""
    if coding.bits is None:
        return dx
    code = np.rint(x.astype(np.float64) * coding.gain)
    inside = (code >= coding.low) & (code <= coding.high)
    passed: Array = dx * inside.astype(dx.dtype)
    return passed


def dropout_mask(step: MaskStep, x: Array, seed: int, first_image: int) -> Array:
    """Factors of the shape of ``x``: element k of image n is a draw of its own, whatever the batch."""
    size = x.size // len(x) if x.ndim and len(x) else x.size
    draws = rng.uniforms(rng.key("dropout", seed, step.name), first_image * size, x.size)
    mask: Array = (draws >= step.ratio).astype(np.float32) * np.float32(1 / (1 - step.ratio))
    return mask.reshape(x.shape).astype(x.dtype, copy=False)
