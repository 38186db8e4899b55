"""The compiled read of a crossbar layer, a block of rows at a time, and what other reads share with it.

`read` gathers codes, multiplies them by the conductances of a row slice, then does read noise, ADC and the digital sum in the
same cache-hot block. Codes and conductance grid steps are integers whose products stay exact, so neither blocks nor threads
change a byte; noise is keyed by image, position, phase, slice and device column.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

from cimc.runtime import gemm, rng
from cimc.runtime.circuit import Circuit, Inputs, Lines, Outputs
from cimc.runtime.jit import kernel
from cimc.runtime.rng import Scalar
from cimc.runtime.simd import VECTOR, wide

Array = NDArray[Any]

#: Of what kernels alone call: no entry for other callers to compile, no test for divisions by 0.
INNER: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@njit(inline="always")
def converted(
    total: Scalar, slope: Scalar, level: Scalar, sigma: Scalar, bits: Scalar, noisy: Scalar, top: Scalar
) -> tuple[Scalar, Scalar]:
    """A grid sum to a current in LSB, then to a code where there is an ADC; and whether that lay above the top."""
    current = np.float32(total) * slope + level
    if noisy:
        current += sigma * rng.normal_of(bits)
    if top <= 0:
        return current, np.int32(0)
    code = np.rint(current)
    return min(max(code, np.float32(0)), top), np.int32(code > top)


@njit(inline="always")
def converted_own(
    total: Scalar, slope: Scalar, level: Scalar, variance: Scalar, variance_read: Scalar, gain: Scalar, offset: Scalar,
    bow: Scalar, bits: Scalar, noisy: Scalar, low: Scalar, top: Scalar,
) -> tuple[Scalar, Scalar]:  # fmt: skip
    """As `converted`, of a line with a gain, an offset and a bow of its own, and the variance of its cells' noise."""
    current = np.float32(total) * slope + level
    share = abs(current) * (np.float32(1) / top if top > 0 else np.float32(0))
    current = current * gain + (offset + bow * np.float32(4) * share * (np.float32(1) - share))
    if noisy:
        current += np.sqrt(gain * gain * variance + variance_read) * rng.normal_of(bits)
    if top <= 0:
        return current, np.int32(0)
    code = np.rint(current)
    return min(max(code, low), top), np.int32((code > top) | ((low < 0) & (code < low)))


@njit(inline="always")
def deviation(variance_code: Scalar, squares: Scalar, variance_read: Scalar) -> Scalar:
    """Standard deviation of a current in LSB, all float32."""
    return np.sqrt(variance_code * squares + variance_read)


@kernel(**INNER)
def draw(low: Scalar, high: Scalar, first: Scalar, bits: Array) -> None:
    """Random bits of a key's counters from ``first`` on."""
    wide()
    for j in range(bits.size):
        bits[j] = rng.hash32(low, high, np.uint32(first + np.uint32(j)))


@kernel(**INNER)
def keys(first: Scalar, count: Scalar, positions: Scalar, seed: Scalar, first_image: Scalar, low: Array, high: Array) -> None:
    """Halves of the noise keys of a block's positions."""
    spread_seed = rng.mix64(seed)
    done = 0
    while done < count:
        image, position = divmod(first + done, positions)
        end = min(count, done + positions - position)
        key = rng.mix64(spread_seed ^ np.uint64(first_image + image))
        a, b = np.uint32(key), np.uint32(key >> np.uint64(32))
        draw(a, b, np.uint32(position), low[done:end])
        draw(b, a, np.uint32(position), high[done:end])
        done = end


def _converter(whole: bool) -> Any:
    @njit(nogil=True, fastmath={"contract"}, **INNER)
    def convert(
        sums: Array, slope: Scalar, level: Scalar, sigma: Scalar, bits: Array, noisy: Scalar, top: Scalar, out: Array
    ) -> Scalar:
        """Device columns of one row: grid sums to codes, or to currents without an ADC; returns saturated conversions."""
        if whole:
            wide()
        saturated = np.int32(0)
        for j in range(out.size):
            out[j], above = converted(sums[j], slope, level, sigma, bits[j], noisy, top)
            # A wider counter would halve the lanes.
            saturated = np.int32(saturated + above)
        return saturated

    return convert


#: Of whole turns of the loop, and of fewer columns, of which the widest vectors would leave more to go one by one.
_convert, _convert_rest = _converter(True), _converter(False)


@kernel(fastmath={"contract"}, **INNER)
def _add(weight: Scalar, alpha: Array, values: Array, acc: Array) -> None:
    """The digital side: ``acc += weight * alpha * values``."""
    for j in range(acc.size):
        acc[j] += weight * alpha[j] * values[j]


@kernel(**INNER)
def _is_run(offsets: Array) -> Scalar:
    """Whether the offsets lie one behind the other; repeated rows come back to the first."""
    run = offsets.size > 0 and offsets[offsets.size - 1] - offsets[0] == offsets.size - 1
    for r in range(1, offsets.size if run else 0):
        run = run and offsets[r] == offsets[r - 1] + 1
    return run


@kernel(**INNER)
def _gather(source: Array, at: Scalar, row_offset: Array, contiguous: Scalar, out: Array) -> None:
    """One row vector of one slice."""
    if contiguous:
        run = source[at + row_offset[0] : at + row_offset[0] + out.size]
        for r in range(out.size):
            out[r] = run[r]
    else:
        moved = source[at:]
        for r in range(out.size):
            out[r] = moved[row_offset[r]]


def _moments(a: Array) -> Any:
    """Sum and sum of squares of a row vector; of codes in integers, which vectorise and are exact."""


@overload(_moments)
def _overload_moments(a: Any) -> Any:
    whole = a.dtype == types.int16
    one, factor = (types.int64, types.int32) if whole else (types.float64, types.float64)

    def moments(a: Any) -> Any:
        total, square = one(0), one(0)
        for r in range(a.size):
            total += one(a[r])
            square += one(factor(a[r]) * factor(a[r]))
        return np.float64(total), np.float64(square)

    return moments


@njit(inline="always")
def power_of(code: Scalar, fresh: Scalar) -> Scalar:
    """Square of a code; where its pulses have fresh noise the sum of their squares: bit b of the code counts ``4**b``."""
    if not fresh:
        return np.float32(code) * np.float32(code)
    x = np.uint32(abs(np.int32(code)))
    x = (x | (x << np.uint32(8))) & np.uint32(0x00FF00FF)
    x = (x | (x << np.uint32(4))) & np.uint32(0x0F0F0F0F)
    x = (x | (x << np.uint32(2))) & np.uint32(0x33333333)
    x = (x | (x << np.uint32(1))) & np.uint32(0x55555555)
    return np.float32(x)


@kernel(**INNER)
def _power(a: Array, fresh: Scalar, out: Array) -> Scalar:
    """The power of each code of a row vector into ``out``; returns their sum."""
    total = np.float64(0)
    for r in range(a.size):
        out[r] = power_of(a[r], fresh)
        total += np.float64(out[r])
    return total


@kernel(**INNER)
def _of_block(lines: Array, width: Scalar, columns: Scalar, planes: Scalar, block: Array, out: Array) -> None:
    """What the lines of one block of columns have, from what all lines of a slice have."""
    c0, _, u0, u1 = block
    for p in range(planes):
        for j in range(width):
            out[p * width + j] = lines[p * columns + c0 + j]
    for j in range(u1 - u0):
        out[planes * width + j] = lines[planes * columns + u0 + j]


@kernel(fastmath={"contract"}, **INNER)
def _convert_each(
    sums: Array, slope: Scalar, level: Scalar, variance: Array, variance_read: Scalar, own: Array, bits: Array, noisy: Scalar,
    low: Scalar, top: Scalar, out: Array,
) -> Scalar:  # fmt: skip
    """As `_convert`, where lines differ: ``own`` holds gain, offset and bow of each; ``variance`` that of its cells."""
    saturated = np.int32(0)
    for j in range(out.size):
        gain, offset, bow = own[0, j], own[1, j], own[2, j]
        out[j], beyond = converted_own(
            sums[j], slope, level, variance[j], variance_read, gain, offset, bow, bits[j], noisy, low, top
        )
        saturated = np.int32(saturated + beyond)
    return saturated


class Scratch(NamedTuple):
    """Arrays that `read` writes for itself."""

    a: Array
    """A block of row vectors, of the matrix's dtype."""
    sums: Array
    """Their products."""
    currents: Array
    """Device columns of one row, then their random bits."""
    bits: Array
    unit_read: Array
    """A unit column's current for each column."""
    acc: Array
    """Digital sums of a block."""
    low: Array
    """Halves of the positions' noise keys."""
    high: Array


def scratch(threads: int, height: int, tallest: int, columns: int, device_columns: int, dtype: np.dtype[Any]) -> Scratch:
    """Room of so many threads, along a first axis, for blocks of ``height`` rows of a matrix of that dtype."""
    return Scratch(
        np.empty((threads, height * tallest), dtype),
        np.empty((threads, height * device_columns), gemm.sums_dtype(dtype)),
        np.empty((threads, device_columns), np.float32),
        np.empty((threads, device_columns), np.uint32),
        np.empty((threads, columns), np.float32),
        np.empty((threads, height, columns)),
        *np.empty((2, threads, height), np.uint32),
    )


@kernel(error_model="numpy", no_cfunc_wrapper=True)
def read(
    first_task: Scalar, end_task: Scalar, thread: Scalar, height: Scalar, circuit: Circuit, lines: Lines | None, inputs: Inputs,
    outputs: Outputs, scratch: Scratch, saturated: Array,
) -> None:  # fmt: skip
    """Tasks ``first_task`` to ``end_task`` of a layer's read; a task is a block of rows times a block of columns of a group.

    Args:
        first_task: First task.
        end_task: End of the tasks.
        thread: Number of the thread, whose room this is.
        height: Rows (positions of all images in order) of a block, a multiple of `gemm.TALL`.
        circuit: The layer.
        lines: What its lines have of their own; None: nothing, which is compiled by itself.
        inputs: Its inputs.
        outputs: Its outputs.
        scratch: Room of all threads.
        saturated: Saturated conversions of each thread, to count on.
    """
    matrix, starts, row_cuts, blocks, alpha, unit, unit_of_column, phase_weight, constants = circuit
    codes, base, _, row_offset, group_stride, seed, first_image = inputs
    scale, offset, y, strides = outputs
    a_buffer, sum_buffer, currents, bits = scratch.a[thread], scratch.sums[thread], scratch.currents[thread], scratch.bits[thread]
    unit_read, acc, low, high = scratch.unit_read[thread], scratch.acc[thread], scratch.low[thread], scratch.high[thread]
    phases, images, _ = codes.shape
    groups, slices, planes, columns = alpha.shape
    positions = base.size
    total = images * positions
    row_blocks = (total + height - 1) // height
    lsb_code, lsb_grid, variance_code, variance_read, top = constants
    slope, top32 = np.float32(lsb_grid), np.float32(top)
    variance_code, variance_read = np.float32(variance_code), np.float32(variance_read)
    noisy = variance_code > 0 or variance_read > 0
    panel = 8 if matrix.itemsize == 8 else 16
    per_step = 2 if matrix.itemsize == 2 else 1
    group_width = planes * columns + blocks[-1, 3]
    if lines is not None:
        tallest = a_buffer.size // height
        powers = np.zeros((height, tallest), np.float32)
        variances = np.zeros((height, currents.size + 16), np.float32)
        own, has_variance = np.zeros((3, currents.size), np.float32), lines.variance.shape[1] > 0
        low32, noisy = np.float32(lines.low), noisy or has_variance
    beyond = 0
    for task in range(first_task, end_task):
        group = task // (row_blocks * blocks.shape[0])
        block = (task // row_blocks) % blocks.shape[0]
        first = (task % row_blocks) * height
        count = min(height, total - first)
        c0, c1, u0, u1 = blocks[block]
        width = c1 - c0
        device_width = planes * width + u1 - u0
        padded_width, whole = (device_width + panel - 1) // panel * panel, device_width // VECTOR * VECTOR
        acc[:count, :width] = 0
        keys(first, count, positions, seed, first_image, low, high)
        sums = sum_buffer[: height * padded_width].reshape(height, padded_width)
        for s in range(slices):
            offsets = row_offset[row_cuts[s] : row_cuts[s + 1]]
            tall = offsets.size
            contiguous = _is_run(offsets)
            steps = (tall + per_step - 1) // per_step
            padded_tall = steps * per_step
            a = a_buffer[: height * padded_tall].reshape(height, padded_tall)
            if padded_tall > tall:
                a[:, tall] = 0
            part = matrix[group, starts[s, block] : starts[s, block] + padded_tall * padded_width]
            panels = part.reshape(padded_width // panel, steps, panel, per_step)
            if lines is not None:
                _of_block(lines.gain[group, s], width, columns, planes, blocks[block], own[0])
                _of_block(lines.offset[group, s], width, columns, planes, blocks[block], own[1])
                _of_block(lines.bow[group, s], width, columns, planes, blocks[block], own[2])
            for phase in range(phases):
                weight = phase_weight[phase]
                device = ((phase * slices + s) * groups + group) * group_width
                for i in range(count):
                    image, position = divmod(first + i, positions)
                    _gather(codes[phase, image], base[position] + group * group_stride, offsets, contiguous, a[i, :tall])
                gemm.multiply(a, count, panels, sums)
                if lines is not None:
                    squares = powers.reshape(-1)[: height * tall].reshape(height, tall)
                    wide_of_lines = (device_width + 15) // 16 * 16
                    of_cells = variances.reshape(-1)[: height * wide_of_lines].reshape(height, wide_of_lines)
                    if has_variance:
                        for i in range(count):
                            _power(a[i, :tall], lines.fresh, squares[i])
                        begin = lines.starts[s, block]
                        flat = lines.variance[group, begin : begin + tall * wide_of_lines]
                        gemm.multiply(squares, count, flat.reshape(wide_of_lines // 16, tall, 16, 1), of_cells)
                for i in range(count):
                    if top < 0:
                        for p in range(planes):
                            _add(weight, alpha[group, s, p, c0:c1], sums[i, p * width : (p + 1) * width], acc[i, :width])
                        continue
                    code_sum, square_sum = _moments(a[i, :tall])
                    level = np.float32(lsb_code * code_sum)
                    sigma = deviation(variance_code, np.float32(square_sum), variance_read)
                    # All columns in one block: their counters follow each other.
                    runs = 0 if not noisy else 1 if width == columns else planes + 1
                    for p in range(runs):
                        begin, counter = p * width, device + p * columns + c0
                        end = device_width if p == runs - 1 else begin + width
                        if p == planes:
                            counter = device + planes * columns + u0
                        draw(low[i], high[i], np.uint32(counter), bits[begin:end])
                    if lines is not None:
                        if not has_variance:
                            power = _power(a[i, :tall], True, squares[i]) if lines.fresh else square_sum
                            of_cells[i, :device_width] = variance_code * np.float32(power)
                        out_of_line = currents[:device_width]
                        beyond += _convert_each(
                            sums[i], slope, level, of_cells[i], variance_read, own, bits, noisy, low32, top32, out_of_line
                        )
                    else:
                        beyond += _convert(sums[i], slope, level, sigma, bits, noisy, top32, currents[:whole])
                        rest = currents[whole:device_width]
                        beyond += _convert_rest(sums[i, whole:], slope, level, sigma, bits[whole:], noisy, top32, rest)
                    for p in range(planes):
                        _add(weight, alpha[group, s, p, c0:c1], currents[p * width : (p + 1) * width], acc[i, :width])
                    if u1 > u0:
                        for j in range(width):
                            unit_read[j] = currents[planes * width + unit_of_column[c0 + j] - u0]
                        _add(weight, unit[group, s, c0:c1], unit_read[:width], acc[i, :width])
        out = group * columns + c0
        for i in range(count):
            image, position = divmod(first + i, positions)
            at = image * strides[0] + position * strides[1] + out * strides[2]
            for j in range(width):
                y[at + j * strides[2]] = np.float64(acc[i, j]) * scale[out + j] + offset[out + j]
    saturated[thread] += beyond
