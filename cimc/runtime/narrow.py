"""The read of a layer of few device columns: vectors run along positions, where `kernels.read` has them along columns.

Codes of a block of positions are gathered once a row slice, two rows interleaved as `gemm` multiplies them; each device
column is then one pass over the block: noise, ADC and digital sum. Results are those of `kernels.read`, to the byte.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import gemm, rng
from cimc.runtime.circuit import Circuit, Inputs, Lines, Outputs
from cimc.runtime.gather import LANES, gather, place
from cimc.runtime.jit import kernel
from cimc.runtime.kernels import INNER, converted, converted_own, deviation, keys, power_of
from cimc.runtime.rng import Scalar
from cimc.runtime.simd import VECTOR, empty, wide

Array = NDArray[Any]


@kernel(**INNER)
def _draw(low: Array, high: Array, counter: Scalar, bits: Array) -> None:
    """Random bits of one device column. In a loop of their own: a core has room for few long chains of operations at once."""
    wide()
    for i in range(bits.size):
        bits[i] = rng.hash32(low[i], high[i], counter)


@kernel(fastmath={"contract"}, **INNER)
def _convert(
    sums: Array, slope: Scalar, level: Array, sigma: Array, bits: Array, noisy: Scalar, top: Scalar, out: Array
) -> Scalar:
    """One device column: grid sums to codes, or to currents without an ADC; returns saturated conversions."""
    wide()
    saturated = np.int32(0)
    for i in range(out.size):
        out[i], above = converted(sums[i], slope, level[i], sigma[i], bits[i], noisy, top)
        # A wider counter would halve the lanes.
        saturated = np.int32(saturated + above)
    return saturated


@kernel(fastmath={"contract"}, **INNER)
def _add(factor: Scalar, values: Array, acc: Array) -> None:
    """The digital side: ``acc += factor * values``."""
    wide()
    for i in range(values.size):
        acc[i] += factor * np.float64(values[i])


@kernel(**INNER)
def _put(
    acc: Array, first: Scalar, count: Scalar, positions: Scalar, scale: Scalar, offset: Scalar, y: Array, strides: Any
) -> None:
    """One column of a block to the output, which starts at that column."""
    done = 0
    while done < count:
        image, position = divmod(first + done, positions)
        line = y[image * strides[0] + position * strides[1] :]
        if positions == 1:
            for i in range(count):
                line[i * strides[0]] = acc[i] * scale + offset
            return
        width = min(count - done, positions - position)
        values = acc[done : done + width]
        if strides[1] == 1:
            for i in range(width):
                line[i] = values[i] * scale + offset
        else:
            for i in range(width):
                line[i * strides[1]] = values[i] * scale + offset
        done += width


@kernel(**INNER)
def _levels(
    moments: Array, lsb_code: Scalar, variance_code: Scalar, variance_read: Scalar, count: Scalar, level: Array, sigma: Array
) -> None:
    """Level and standard deviation of the current of each lane, in LSB; lanes beyond ``count`` are far below the ADC's range."""
    for i in range(level.size):
        level[i] = np.float32(lsb_code * np.float64(moments[0, i]))
        sigma[i] = deviation(variance_code, np.float32(moments[1, i]), variance_read)
    level[count:] = -np.inf


@kernel(**INNER)
def _power(words: Array, steps: Scalar, count: Scalar, fresh: Scalar, powers: Array, total: Array) -> None:
    """Powers of the codes of a block, row by row, and their sum over the rows."""
    wide()
    total[:count] = 0
    for k in range(steps):
        for half in range(2):
            out = powers[2 * k + half]
            for i in range(count):
                out[i] = power_of(words[k, i, half], fresh)
            for i in range(count):
                total[i] += out[i]


@kernel(fastmath={"contract"}, **INNER)
def _convert_own(
    sums: Array, slope: Scalar, level: Array, variance: Array, per_power: Scalar, variance_read: Scalar, gain: Scalar,
    offset: Scalar, bow: Scalar, bits: Array, noisy: Scalar, low: Scalar, top: Scalar, out: Array,
) -> Scalar:  # fmt: skip
    """As `_convert`, of a line with a gain, an offset and a bow of its own; ``variance * per_power`` is that of its cells."""
    wide()
    saturated = np.int32(0)
    for i in range(out.size):
        out[i], beyond = converted_own(
            sums[i], slope, level[i], variance[i] * per_power, variance_read, gain, offset, bow, bits[i], noisy, low, top
        )
        saturated = np.int32(saturated + beyond)
    return saturated


class Scratch(NamedTuple):
    """Arrays that `read` writes for itself."""

    words: Array
    """Interleaved codes."""
    sums: Array
    """Grid sums of device columns, then moments of the inputs."""
    lines: Array
    """Level, deviation, a device column's codes, those of unit columns."""
    acc: Array
    """Digital sums."""
    begins: Array
    """Where the codes of lines of positions begin."""
    ends: Array
    """Where the lines end."""
    low: Array
    """Halves of the positions' noise keys."""
    high: Array
    bits: Array
    """Random bits of a device column."""


def scratch(threads: int, height: int, tallest: int, columns: int, device_columns: int, units: int) -> Scratch:
    """Room of so many threads, along a first axis, for blocks of ``height`` positions."""
    return Scratch(
        empty((threads, -(-tallest // 2), height + LANES, 2), np.int16),
        # A power of 2 from row to row would put all rows to the same places of the cache.
        empty((threads, device_columns + units + gemm.TALL + 2, height + LANES), np.int32),
        empty((threads, 3 + units, height), np.float32),
        empty((threads, columns, height), np.float64),
        *empty((2, threads, height), np.int64),
        *empty((3, threads, height), np.uint32),
    )


@kernel(error_model="numpy", no_cfunc_wrapper=True)
def read(
    first_block: Scalar, end_block: Scalar, thread: Scalar, height: Scalar, circuit: Circuit, own: Lines | None, inputs: Inputs,
    outputs: Outputs, scratch: Scratch, saturated: Array,
) -> None:  # fmt: skip
    """Blocks ``first_block`` to ``end_block`` of positions, of all groups.

    Args:
        first_block: First block.
        end_block: End of the blocks.
        thread: Number of the thread, whose room this is.
        height: Positions of a block, a multiple of `simd.VECTOR`.
        circuit: The layer. Its matrix is int16; each slice has an even number of rows, unit columns come last, `gemm.TALL`
            rows more may be read. There is an ADC, or 0 as the top.
        own: What its lines have of their own; None: nothing, which is compiled by itself. Variances stand as the matrix does.
        inputs: Its inputs; codes are uint8, with `LANES` bytes more behind them.
        outputs: Its outputs.
        scratch: Room of all threads.
        saturated: Saturated conversions of each thread, to count on.
    """
    matrix, starts, row_cuts, _, alpha, unit, unit_of_column, phase_weight, constants = circuit
    codes, base, line_ends, row_offset, group_stride, seed, first_image = inputs
    scale, offset, y, strides = outputs
    words, sums, lines, acc = scratch.words[thread], scratch.sums[thread], scratch.lines[thread], scratch.acc[thread]
    begins, ends, low, high = scratch.begins[thread], scratch.ends[thread], scratch.low[thread], scratch.high[thread]
    bits, beyond = scratch.bits[thread], 0
    phases, images, size = codes.shape
    groups, slices, planes, columns = alpha.shape
    units = unit_of_column[columns - 1] + 1 if unit.shape[2] else 0
    device_columns, positions = planes * columns, base.size
    device_width = device_columns + units
    lsb_code, lsb_grid, variance_code, variance_read, top = constants
    slope, top32 = np.float32(lsb_grid), np.float32(top)
    variance_code, variance_read = np.float32(variance_code), np.float32(variance_read)
    noisy = variance_code > 0 or variance_read > 0
    flat = codes.reshape(-1)
    if own is not None:
        powers = np.zeros((2 * words.shape[0], words.shape[1]), np.float32)
        power_sum = np.zeros(words.shape[1], np.float32)
        of_cells = np.zeros((device_width + gemm.TALL, words.shape[1]), np.float32)
        low32, has_variance = np.float32(own.low), own.variance.shape[1] > 0
        noisy = noisy or has_variance
    for block in range(first_block, end_block):
        first = block * height
        count = min(height, images * positions - first)
        gathered = (count + LANES - 1) // LANES * LANES
        whole = (count + VECTOR - 1) // VECTOR * VECTOR
        keys(first, count, positions, seed, first_image, low, high)
        number = place(first, count, size, base, line_ends, begins, ends)
        level, sigma = lines[0, :whole], lines[1, :whole]
        for group in range(groups):
            acc[:] = 0
            for s in range(slices):
                offsets = row_offset[row_cuts[s] : row_cuts[s + 1]]
                steps = (offsets.size + 1) // 2
                for phase in range(phases):
                    weight = phase_weight[phase]
                    gather(flat[phase * images * size + group * group_stride :], begins, ends, number, offsets, words)
                    gemm.multiply_across(matrix[group], starts[s], steps, device_width, words, gathered, sums)
                    moments = sums[device_width + gemm.TALL :]
                    gemm.moments_across(words, steps, gathered, moments)
                    _levels(moments, lsb_code, variance_code, variance_read, count, level, sigma)
                    if own is not None:
                        if has_variance or own.fresh:
                            _power(words, steps, gathered, own.fresh, powers, power_sum)
                        else:
                            power_sum[:gathered] = moments[1, :gathered]
                        if has_variance:
                            cells = own.variance[group].reshape(device_width + gemm.TALL, -1)
                            first_row = own.starts[s, 0]
                            gemm.multiply_across_single(cells, first_row, 2 * steps, device_width, powers, gathered, of_cells)
                    device = ((phase * slices + s) * groups + group) * device_width
                    for j in range(device_width):
                        line = lines[max(2, j - device_columns + 3), :whole]
                        if noisy:
                            _draw(low, high, np.uint32(device + j), bits[:whole])
                        if own is not None:
                            variance = of_cells[j] if has_variance else power_sum
                            per_power = np.float32(1) if has_variance else variance_code
                            gain, shift, bow = own.gain[group, s, j], own.offset[group, s, j], own.bow[group, s, j]
                            beyond += _convert_own(
                                sums[j], slope, level, variance, per_power, variance_read, gain, shift, bow, bits, noisy, low32,
                                top32, line[:count],
                            )  # fmt: skip
                        else:
                            beyond += _convert(sums[j], slope, level, sigma, bits, noisy, top32, line)
                        if j < device_columns:
                            _add(weight * alpha[group, s, j // columns, j % columns], line, acc[j % columns])
                    if units > 0:
                        for c in range(columns):
                            _add(weight * unit[group, s, c], lines[unit_of_column[c] + 3, :whole], acc[c])
            for c in range(columns):
                out = group * columns + c
                _put(acc[c], first, count, positions, scale[out], offset[out], y[out * strides[2] :], strides)
    saturated[thread] += beyond
