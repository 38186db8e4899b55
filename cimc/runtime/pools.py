"""The backward pass of max pools."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cimc.ir.geometry import Conv
from cimc.runtime.serial import parallel, threads

Array = NDArray[Any]


@njit(cache=True, nogil=True)
def _spread(
    dy: Array, x: Array, y: Array, kernel: Array, strides: Array, dilations: Array, begin: Array, first: int, end: int, dx: Array
) -> None:
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


def max_pool_gradient(dy: Array, x: Array, y: Array, geometry: Conv) -> Array:
    """Gradient of the input: each output's goes to the first element of its window, row by row, that equals the output.

    Args:
        dy: Gradient of the output, ``[images, channels, *spatial]`` with one or two spatial axes.
        x: The forward input.
        y: The forward output.
        geometry: The windows.
    """
    flat = len(geometry.kernel_shape) == 1
    begin = geometry.resolved_pads(x.shape[2:])[0]
    kernel, strides, dilations, pads = (
        np.array((low, *sizes) if flat else sizes)
        for low, sizes in ((1, geometry.kernel_shape), (1, geometry.strides), (1, geometry.dilations), (0, begin))
    )
    planes = x.shape[0] * x.shape[1]
    rows = (1,) if flat else ()
    dx = np.zeros((planes, *rows, *x.shape[2:]), dy.dtype)
    goals, inputs, outputs = (np.ascontiguousarray(v).reshape(planes, *rows, *v.shape[2:]) for v in (dy, x, y))
    parts = max(1, min(planes, 4 * threads()))

    def part(n: int) -> None:
        first, end = planes * n // parts, planes * (n + 1) // parts
        _spread(goals, inputs, outputs, kernel, strides, dilations, pads, first, end, dx)

    parallel(part, parts)
    return dx.reshape(x.shape)
