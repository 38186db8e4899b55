"""Compiled kernels of the crossbars: inputs to codes, and the read of a block of rows.

`read` does a block of rows at a time: gather codes, multiply by the conductances of a row slice, then in the same cache-hot
block read noise, ADC and the digital sum. Codes and conductance grid steps are integers whose products stay exact, so
neither blocks nor threads change a byte; noise is keyed by image, position, phase, slice and device column.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cimc.runtime import rng

Array = NDArray[Any]

PLAIN, TWO_PHASE, OFFSET = 0, 1, 2
#: Up to so many rows a plain loop beats packing the matrix for BLAS.
_FEW_ROWS = 3


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def quantise(x: Array, gain: float, low: float, high: float, mode: int, out: Array) -> int:
    """DAC codes of a flat input: ``clip(rint(x * gain), low, high)``.

    Args:
        x: ``[n]``, real.
        gain: Codes per unit of input.
        low: Lowest code.
        high: Highest code.
        mode: PLAIN; TWO_PHASE: positive codes into ``out[0]``, negative ones into ``out[1]``; OFFSET: ``low`` is code 0.
        out: ``[phases, n]``, unsigned, or signed where PLAIN codes may be negative.

    Returns:
        Inputs that were clipped.
    """
    clips = 0
    for i in range(x.size):
        code = np.rint(np.float64(x[i]) * gain)
        clips += (code > high) | (code < low)
        code = min(max(code, low), high)
        if mode == TWO_PHASE:
            out[0, i] = np.int32(max(code, 0.0))
            out[1, i] = np.int32(max(-code, 0.0))
        elif mode == OFFSET:
            out[0, i] = np.int32(code - low)
        else:
            out[0, i] = np.int32(code)
    return clips


@njit(inline="always")  # type: ignore[untyped-decorator]
def _convert(current: Array, base: float, slope: float, sigma: float, low: int, high: int, first: int, top: float) -> int:
    """Device columns of one row, in place: grid sums to noisy currents in LSB, then to ADC codes. Returns saturations."""
    saturated = np.int32(0)
    if sigma > 0:
        for j in range(current.size):
            noise = rng.normal_of(rng.hash32(low, high, np.uint32(first + np.uint32(j))))
            current[j] = (current[j] * slope + base) + sigma * noise
    else:
        for j in range(current.size):
            current[j] = current[j] * slope + base
    if top > 0:
        for j in range(current.size):
            code = np.rint(current[j])
            saturated += np.int32(code > top)
            current[j] = min(max(code, np.float32(0)), top)
    return saturated


@njit(cache=True, nogil=True, fastmath={"contract"})  # type: ignore[untyped-decorator]
def read(
    first_task: int,
    end_task: int,
    height: int,
    codes: Array,
    base: Array,
    row_offset: Array,
    group_stride: int,
    matrix: Array,
    row_cuts: Array,
    blocks: Array,
    alpha: Array,
    unit: Array,
    unit_of_column: Array,
    phase_weight: Array,
    constants: Array,
    fixed_height: bool,
    seed: int,
    first_image: int,
    scale: Array,
    offset: Array,
    y: Array,
    strides: Array,
) -> int:
    """Tasks ``first_task`` to ``end_task`` of a layer's read; a task is a block of rows times a block of columns of a group.

    Args:
        first_task: First task.
        end_task: End of the tasks.
        height: Rows (positions of all images in order) of a block.
        codes: ``[phases, images, image size]``: codes, or real inputs.
        base: ``[positions]``, see `unfold.Unfolding`.
        row_offset: ``[rows]``.
        group_stride: Values between two groups' inputs.
        matrix: ``[groups, rows * device columns]``, each block of columns ``[rows, its device columns]`` in turn.
        row_cuts: Row slices.
        blocks: ``[blocks, 5]``: first and end weight column, first and end unit column, offset in ``matrix``.
        alpha: ``[groups, slices, planes, columns]``; its dtype is the digital accumulator's.
        unit: The unit column's ``[groups, slices, columns]``; no columns where there is none.
        unit_of_column: ``[columns]``.
        phase_weight: ``[phases]``.
        constants: LSB per unit of code sum, LSB per unit of grid sum, LSB**2 of noise per unit of the codes' sum of
            squares, LSB**2 of noise of a conversion, highest ADC code (0: no ADC).
        fixed_height: Pad the last block, so that a row's bytes do not depend on how many there are (real inputs).
        seed: Key of chip, layer and direction.
        first_image: Number of the first image.
        scale: ``[groups * columns]``, float64: digital factor.
        offset: The same shape, added after it.
        y: Output, flat.
        strides: Of image, position and column in ``y``.

    Returns:
        Saturated conversions.
    """
    phases, images, _ = codes.shape
    positions, columns, planes = base.size, alpha.shape[3], alpha.shape[2]
    groups, slices = alpha.shape[0], row_cuts.size - 1
    total = images * positions
    row_blocks = (total + height - 1) // height
    units = 0
    tallest = 0
    for s in range(slices):
        tallest = max(tallest, row_cuts[s + 1] - row_cuts[s])
    widest, device_widest = 0, 0
    for b in range(blocks.shape[0]):
        widest = max(widest, blocks[b, 1] - blocks[b, 0])
        device_widest = max(device_widest, planes * (blocks[b, 1] - blocks[b, 0]) + blocks[b, 3] - blocks[b, 2])
        units = max(units, blocks[b, 3])
    rows = row_cuts[slices]
    lsb_code, lsb_grid, variance_code, variance_read, top = constants
    top32 = np.float32(top)
    slope = np.float32(lsb_grid)
    noisy = variance_code > 0 or variance_read > 0
    a_buffer = np.empty(height * tallest, matrix.dtype)
    i_buffer = np.empty(height * device_widest, matrix.dtype)
    acc = np.empty((height, widest), alpha.dtype)
    sums = np.empty((height, 2), np.float64)
    row_key = np.empty(height, np.uint64)
    saturated = 0
    for task in range(first_task, end_task):
        group = task // (row_blocks * blocks.shape[0])
        block = (task // row_blocks) % blocks.shape[0]
        first = (task % row_blocks) * height
        count = min(height, total - first)
        c0, c1, u0, u1, place = blocks[block]
        width = c1 - c0
        device_width = planes * width + u1 - u0
        acc[:count, :width] = 0
        if noisy:
            for i in range(count):
                image, position = divmod(first + i, positions)
                row_key[i] = rng.mix64(rng.mix64(np.uint64(seed) ^ np.uint64(first_image + image)) ^ np.uint64(position))
        for phase in range(phases):
            for s in range(slices):
                r0, r1 = row_cuts[s], row_cuts[s + 1]
                tall = r1 - r0
                padded = height if fixed_height else count
                a = a_buffer[: padded * tall].reshape(padded, tall)
                current = i_buffer[: padded * device_width].reshape(padded, device_width)
                for i in range(count):
                    image, position = divmod(first + i, positions)
                    at = base[position] + group * group_stride
                    total_code, total_square = 0.0, 0.0
                    if lsb_code != 0:
                        for r in range(tall):
                            value = np.float64(codes[phase, image, at + row_offset[r0 + r]])
                            a[i, r] = value
                            total_code += value
                            total_square += value * value
                    else:
                        for r in range(tall):
                            a[i, r] = codes[phase, image, at + row_offset[r0 + r]]
                    sums[i, 0], sums[i, 1] = total_code, total_square
                if fixed_height:
                    a[count:] = 0
                start = place + r0 * device_width
                part = matrix[group, start : start + tall * device_width].reshape(tall, device_width)
                if count <= _FEW_ROWS and not fixed_height:
                    for i in range(count):
                        current[i, :] = 0
                        for r in range(tall):
                            factor = a[i, r]
                            if factor != 0:
                                for j in range(device_width):
                                    current[i, j] += factor * part[r, j]
                else:
                    np.dot(a, part, current)
                for i in range(count):
                    level = np.float32(lsb_code * sums[i, 0])
                    sigma = np.float32(np.sqrt(variance_code * sums[i, 1] + variance_read)) if noisy else np.float32(0)
                    if level != 0 or slope != 1 or sigma > 0 or top > 0:
                        noise_key = rng.mix64(row_key[i] ^ np.uint64((phase << 32) | s)) if noisy else np.uint64(0)
                        low, high = np.uint32(noise_key), np.uint32(noise_key >> np.uint64(32))
                        device = group * (planes * columns + units)
                        for p in range(planes):
                            line = current[i, p * width : (p + 1) * width]
                            counter = np.uint32(device + p * columns + c0)
                            saturated += _convert(line, level, slope, sigma, low, high, counter, top32)
                        if u1 > u0:
                            line = current[i, planes * width : device_width]
                            counter = np.uint32(device + planes * columns + u0)
                            saturated += _convert(line, level, slope, sigma, low, high, counter, top32)
                    weight = phase_weight[phase]
                    for p in range(planes):
                        for j in range(width):
                            acc[i, j] += weight * alpha[group, s, p, c0 + j] * current[i, p * width + j]
                    if u1 > u0:
                        for j in range(width):
                            read_unit = current[i, planes * width + unit_of_column[c0 + j] - u0]
                            acc[i, j] += weight * unit[group, s, c0 + j] * read_unit
        out = group * columns + c0
        for i in range(count):
            image, position = divmod(first + i, positions)
            at = image * strides[0] + position * strides[1] + out * strides[2]
            for j in range(width):
                y[at + j * strides[2]] = np.float64(acc[i, j]) * scale[out + j] + offset[out + j]
    return saturated
