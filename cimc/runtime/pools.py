"""The backward pass of max pools."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.geometry import Conv
from cimc.runtime.atomic import bound
from cimc.runtime.jit import kernel
from cimc.runtime.rng import Scalar
from cimc.runtime.team import Crew, crew, share

Array = NDArray[Any]


@kernel()
def _give(
    first: Scalar, end: Scalar, _: Scalar, dy: Array, x: Array, y: Array, kernel: Array, strides: Array, dilations: Array,
    begin: Array, dx: Array,
) -> None:  # fmt: skip
    """Windows are searched backwards and without a jump, as which element won is beyond a processor's guess."""
    _, height, width = x.shape
    k0, k1 = kernel
    s0, s1 = strides
    d0, d1 = dilations
    b0, b1 = begin
    ranges = np.empty((y.shape[2], 2), np.int64)
    for j in range(y.shape[2]):
        left = j * s1 - b1
        ranges[j] = max(0, (-left + d1 - 1) // d1), min(k1, (width - left + d1 - 1) // d1)
    for plane in range(first, end):
        image, goal = x[plane].reshape(-1), dx[plane].reshape(-1)
        for i in range(y.shape[1]):
            top = i * s0 - b0
            a0, a1 = max(0, (-top + d0 - 1) // d0), min(k0, (height - top + d0 - 1) // d0)
            for j in range(y.shape[2]):
                largest, winner = y[plane, i, j], -1
                for a in range(a1 - 1, a0 - 1, -1):
                    line = (top + a * d0) * width + j * s1 - b1
                    for c in range(ranges[j, 1] - 1, ranges[j, 0] - 1, -1):
                        at = line + c * d1
                        winner = at if image[at] == largest else winner
                if winner >= 0:
                    goal[winner] += dy[plane, i, j]


@kernel()
def _give_pairs(first: Scalar, end: Scalar, _: Scalar, dy: Array, x: Array, y: Array, dx: Array) -> None:
    """As `_give`, of windows of two by two side by side, the pools of most networks: a fifth of the time.

    Unsigned indices spare the question whether one counts from the end.
    """
    _, height, width = x.shape
    one, two, below, plane = np.uint64(1), np.uint64(2), np.uint64(width), np.uint64(height * width)
    rows, columns = np.uint64(y.shape[1]), np.uint64(y.shape[2])
    images, goals, largest, gradients = x.reshape(-1), dx.reshape(-1), y.reshape(-1), dy.reshape(-1)
    none, output = dy.dtype.type(0), np.uint64(first) * rows * columns
    for p in range(np.uint64(first), np.uint64(end)):
        goals[p * plane : (p + one) * plane] = none
        for i in range(rows):
            line = p * plane + i * two * below
            for j in range(columns):
                corner, value = line + j * two, largest[output]
                winner = corner + below + one
                winner = corner + below if images[corner + below] == value else winner
                winner = corner + one if images[corner + one] == value else winner
                winner = corner if images[corner] == value else winner
                goals[winner] = gradients[output] if value == value else none  # NaN has no winner
                output += one


@kernel()
def _share_give(
    crew: Crew, dy: Array, x: Array, y: Array, kernel: Array, strides: Array, dilations: Array, begin: Array, dx: Array
) -> None:
    share(crew, len(x), bound(_give, (dy, x, y, kernel, strides, dilations, begin, dx)))


@kernel()
def _share_give_pairs(crew: Crew, dy: Array, x: Array, y: Array, dx: Array) -> None:
    share(crew, len(x), bound(_give_pairs, (dy, x, y, dx)))


def max_pool_gradient(dy: Array, x: Array, y: Array, geometry: Conv) -> Array:
    """Gradient of the input: each output's goes to the first element of its window, row by row, that equals the output.

    Args:
        dy: Gradient of the output, ``[images, channels, *spatial]`` with one or two spatial axes.
        x: The forward input.
        y: The forward output.
        geometry: The windows.
    """
    planes, flat = x.shape[0] * x.shape[1], len(geometry.kernel_shape) == 1
    rows = (1,) if flat else ()
    goals, inputs, outputs = (np.ascontiguousarray(v).reshape(planes, *rows, *v.shape[2:]) for v in (dy, x, y))
    begin = geometry.resolved_pads(x.shape[2:])[0]
    sizes, strides, dilations = geometry.kernel_shape, geometry.strides, geometry.dilations
    within = all(2 * n <= size for n, size in zip(y.shape[2:], x.shape[2:], strict=True))
    if sizes == strides == (2, 2) and dilations == (1, 1) and within and not any(begin):
        dx = np.empty(inputs.shape, dy.dtype)
        _share_give_pairs(crew(), goals, inputs, outputs, dx)
    else:
        dx = np.zeros(inputs.shape, dy.dtype)
        shapes = (np.array((low, *own) if flat else own) for low, own in ((1, sizes), (1, strides), (1, dilations), (0, begin)))
        _share_give(crew(), goals, inputs, outputs, *shapes, dx)
    return dx.reshape(x.shape)
