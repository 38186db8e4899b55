"""The backward pass of crossbar steps in the digital unit: gradients of activations by W, and of W by outer products.

A transposed convolution is a convolution with the two sides exchanged. Images are cut into parts whose number does not depend
on the threads, and partial sums are added in order, so the same bytes come out for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.geometry import Conv, ConvTranspose, Dense, Shape, inverse
from cimc.ir.program import Layer, MaskStep
from cimc.runtime import rng, windows
from cimc.runtime.coding import Coding
from cimc.runtime.draws import INFERENCE, Stream
from cimc.runtime.planes import Window, flattened
from cimc.runtime.random_values import dropped

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
    groups, _, columns = w.shape
    if isinstance(geometry, Dense):
        products = _products(_columns(dy, geometry, groups, columns).astype(kind, copy=False), w.swapaxes(1, 2))
        kept = geometry.input_perm[: geometry.kept]
        inner = geometry.input_perm[geometry.kept :]
        full = products.reshape([x_shape[a] for a in (*kept, *inner)])
        out = full.transpose(inverse(geometry.input_perm))
    elif isinstance(geometry, Conv):
        out = windows.scatter(w, flattened(dy, kind), Window.of(geometry, x_shape)).reshape(x_shape)
    else:
        out = windows.product(w, flattened(dy, kind), Window.of(geometry, x_shape)).reshape(x_shape)
    dx: Array = np.ascontiguousarray(out).astype(dy.dtype, copy=False)
    return dx


def weight_gradient(x: Array, dy: Array, layer: Layer, geometry: Dense | Conv | ConvTranspose, alpha: float = 1.0) -> Array:
    """``dW = rows(X)^T @ columns(dY) * alpha``, ``[groups, rows, columns]``, zero between packed groups.

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
        dw = windows.outer(flattened(x, kind), flattened(dy, kind), Window.of(geometry, x.shape), groups)
    else:
        dw = windows.outer(flattened(dy, kind), flattened(x, kind), Window.of(geometry, x.shape), groups)
    if isinstance(geometry, ConvTranspose):
        dw = dw.swapaxes(1, 2)
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
    return dy.transpose(inverse(geometry.output_perm)).reshape(-1, groups, columns)


def _products(a: Array, b: Array) -> Array:
    """``[n, groups, k]`` times ``[groups, k, m]``, as ``[n, groups, m]``."""
    if a.shape[1] == 1:
        alone: Array = (a[:, 0] @ b[0])[:, None]
        return alone
    return np.ascontiguousarray(np.matmul(a.swapaxes(0, 1), b).swapaxes(0, 1))


def clip_gradient(dx: Array, x: Array, coding: Coding) -> Array:
    """The gradient of an activation, zero where the DAC clipped it."""
    if coding.bits is None:
        return dx
    code = np.rint(x.astype(np.float64) * coding.gain)
    inside = (code >= coding.low) & (code <= coding.high)
    passed: Array = dx * inside.astype(dx.dtype)
    return passed


def dropout_mask(step: MaskStep, x: Array, seed: int, images: int, first_image: int, stream: Stream = INFERENCE) -> Array:
    """Factors of the shape of ``x``: element k of image n is a draw of its own, whatever the batch."""
    return dropped(step.ratio, x, rng.key("dropout", seed, step.name, *stream), images, first_image)[1]
